"""The torch executor: an interpreter of graphs with gradients."""
