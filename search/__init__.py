"""Problems, sensitivity metrics, solvers, reinforcement learning and the evaluation store."""

if __name__ != "qir.search":
    raise ImportError(f"import this package as qir.search, not as {__name__}")
