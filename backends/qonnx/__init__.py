"""The executor of QONNX files."""
