"""Lowering of weights in blocks to ONNX Runtime's operators on 2, 4 and 8 bits, next to float activations."""
