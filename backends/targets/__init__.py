"""Targets shipped with qir, one JSON file each."""
