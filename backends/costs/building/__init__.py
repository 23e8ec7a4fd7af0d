"""Building of cost tables."""
