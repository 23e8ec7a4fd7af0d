"""From a network to a search problem."""
