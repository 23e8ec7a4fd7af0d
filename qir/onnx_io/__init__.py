"""Reading and writing ONNX files without losing anything."""
