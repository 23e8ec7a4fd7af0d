"""The report: one page without a library and without a network, drawn from one record."""
