"""Verbs about hardware: what it costs to run a network, and how it is described."""
