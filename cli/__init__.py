"""The `qir` command: one verb a file."""

if __name__ != "qir.cli":
    raise ImportError(f"import this package as qir.cli, not as {__name__}")
