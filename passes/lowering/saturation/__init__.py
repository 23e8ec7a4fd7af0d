"""Weights that no kernel adds wrongly: which layers are exact on every CPU, and how weights are stored."""
