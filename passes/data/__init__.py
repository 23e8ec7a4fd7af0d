"""Samples of any form, read in batches."""
