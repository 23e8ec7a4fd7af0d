"""What several lowerings share: codes, chains of nodes, blocks, marks."""
