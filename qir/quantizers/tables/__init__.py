"""Schemes with a table of levels."""
