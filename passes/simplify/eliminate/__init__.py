"""Removal of what does nothing."""
