"""Types that a file leaves out, from one whole-graph inference on a copy without its weights."""

from __future__ import annotations

import math

import onnx

from qir.onnx_io.type_protos import read_type
from qir.types import Type

LARGEST_CONSTANT = 1024
"""Constants of at most this many elements stay in the copy: shapes, axes and repeats are computed from them."""


def declared_types(proto: onnx.ModelProto) -> dict[str, Type]:
    """Types of the main graph's values as inference finds them; empty where it fails."""
    stripped = onnx.ModelProto(ir_version=proto.ir_version)
    stripped.opset_import.extend(proto.opset_import)
    stripped.functions.extend(proto.functions)
    graph = stripped.graph
    graph.name = proto.graph.name or "graph"
    graph.node.extend(proto.graph.node)
    graph.input.extend(proto.graph.input)
    graph.output.extend(proto.graph.output)
    graph.value_info.extend(proto.graph.value_info)
    known = {info.name for info in proto.graph.input}
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) <= LARGEST_CONSTANT and tensor.data_location != onnx.TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        elif tensor.name not in known:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        inferred = onnx.shape_inference.infer_shapes(stripped, data_prop=True)
        return {info.name: read_type(info.type) for info in inferred.graph.value_info}
    except Exception:  # noqa: BLE001 - inference raises classes of its own; types then stay unknown
        return {}
