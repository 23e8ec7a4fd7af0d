"""The text form of modules and types."""
