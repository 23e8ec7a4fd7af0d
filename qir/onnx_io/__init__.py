"""Reading and writing ONNX files without losing anything."""

from qir.onnx_io.files import check_file, from_proto, load, save, to_bytes, to_proto
from qir.onnx_io.inference import infer_types

__all__ = ["check_file", "from_proto", "infer_types", "load", "save", "to_bytes", "to_proto"]
