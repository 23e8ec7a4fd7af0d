"""The verbs of the `qir` command, one a file, in rooms by what they are for."""
