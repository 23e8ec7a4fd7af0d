"""Views of a graph: drawings and networkx."""
