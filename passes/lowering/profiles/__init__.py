"""Export profiles and what each version of ONNX Runtime holds."""
