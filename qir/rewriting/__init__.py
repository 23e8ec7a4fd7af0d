"""Pattern rewriting."""
