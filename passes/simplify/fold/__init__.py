"""Folding of constants, normalizations and reshapes."""
