"""Export: lowered, written under a temporary name, run, compared, and only then named."""
