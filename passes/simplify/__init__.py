"""Rewrites that make a graph simpler and compute the same."""
