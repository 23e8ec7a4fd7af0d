"""Verbs that list what can be named in others, and show one of them."""
