"""Single ONNX messages: tensors, attributes, types, metadata, and the wire format."""
