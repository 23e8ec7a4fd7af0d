"""Passes as such: their contract, manager, instruments, pipelines and registry."""
