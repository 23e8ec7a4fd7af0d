"""Targets, cost models and executors: what a network costs and what it computes."""

if __name__ != "qir.backends":
    raise ImportError(f"import this package as qir.backends, not as {__name__}")
