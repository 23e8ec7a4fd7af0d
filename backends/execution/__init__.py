"""Running networks with ONNX Runtime, whole or node by node."""
