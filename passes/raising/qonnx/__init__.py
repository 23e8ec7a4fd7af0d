"""Raising of QONNX and FINN-ONNX forms."""
