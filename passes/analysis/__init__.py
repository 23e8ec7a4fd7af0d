"""Questions that passes ask about a graph: layers, operands, constants, bounds."""
