"""Results on the console and on a page."""
