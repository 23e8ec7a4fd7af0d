"""Graph to graph rewrites, the pass manager and its instruments, export."""

if __name__ != "qir.passes":
    raise ImportError(f"import this package as qir.passes, not as {__name__}")
