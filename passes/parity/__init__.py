"""Parity of an exported network: every code held against the integer reference."""
