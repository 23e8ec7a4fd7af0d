"""Lowerings: from fake-quant form to the operators of one export profile each."""
