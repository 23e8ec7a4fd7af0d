"""Search problems and results, whatever they are about."""
