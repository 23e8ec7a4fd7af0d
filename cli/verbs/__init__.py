"""The verbs of the `qir` command, one a file."""
