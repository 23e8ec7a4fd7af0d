"""`python -m qir`: the `qir` command, for where it is not on the path."""

from importlib import import_module

if __name__ == "__main__":
    import_module("qir.cli.main").main()
