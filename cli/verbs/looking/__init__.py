"""Verbs that look at networks and at what was made of them."""
