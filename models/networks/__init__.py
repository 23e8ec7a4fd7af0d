"""The networks of the papers in PyTorch, one family a file; torch is imported with the family that is built."""
