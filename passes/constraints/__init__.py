"""Legal widths: what a target allows, propagated over the graph, and policies that obey it."""
