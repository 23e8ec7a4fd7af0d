"""What cost models see of a layer: its shape, its cost, sizes that are open."""
