"""Fusion of neighbours into one node."""
