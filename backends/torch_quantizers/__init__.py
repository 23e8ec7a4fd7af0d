"""Quantizing schemes in torch, equal to the numpy definitions to the bit."""
