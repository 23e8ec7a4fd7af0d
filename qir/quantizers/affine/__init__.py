"""Schemes whose levels are evenly spaced."""
