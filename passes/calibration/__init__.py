"""From data to ranges: for every candidate width at once."""
