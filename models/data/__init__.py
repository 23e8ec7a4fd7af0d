"""Readers of data sets, and the images that come with qir."""
