"""Widths found by gradients."""
