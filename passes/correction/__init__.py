"""Rewrites that win accuracy back, or make grids fit a target's arithmetic."""
