"""Verbs that rewrite a network as it is told."""
