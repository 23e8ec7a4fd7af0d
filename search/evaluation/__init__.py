"""Evaluation of policies: accuracy, reuse of prefixes, the store, workers."""
