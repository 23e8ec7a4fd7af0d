"""Cost tables: of every node at every width, and tables of delays as files."""
