"""The op registry: one entry answers every question about an op."""
