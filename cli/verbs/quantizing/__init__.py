"""Verbs that make a quantized network of a float one."""
