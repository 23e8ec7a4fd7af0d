"""Sensitivity metrics, one file each."""
