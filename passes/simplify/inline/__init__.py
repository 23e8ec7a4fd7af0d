"""Inlining of functions and of branches."""
