"""Where fake-quant nodes are inserted, and what stays float."""
