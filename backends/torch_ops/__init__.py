"""Torch lowerings, keyed like the op registry."""
