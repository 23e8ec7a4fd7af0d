"""Quantizing schemes in numpy: one exact definition each."""
