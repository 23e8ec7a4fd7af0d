"""Lowering to QONNX, FINN and thresholds."""
