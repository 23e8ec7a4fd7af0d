"""Judging the codes of executors: each layer by itself, on the codes that the executor gave it."""
