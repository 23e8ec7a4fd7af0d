"""Recognition of operators that were exported in pieces."""
