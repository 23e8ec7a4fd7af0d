"""Reference networks of the papers, their training recipes, and readers of data sets."""

if __name__ != "qir.models":
    raise ImportError(f"import this package as qir.models, not as {__name__}")
