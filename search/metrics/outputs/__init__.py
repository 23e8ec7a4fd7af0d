"""Sensitivities from what the network puts out."""
