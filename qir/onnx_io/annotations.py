"""Quantization annotations: what a file says about the quantization of a tensor next to its type.

ONNX keeps them by tensor name in `GraphProto.quantization_annotation`. The names of quantization parameters are open:
FINN and QONNX write the element type under `finn_datatype` (`INT4`, `BIPOLAR`, …) and the layout under `tensor_layout`.
The graph carries them in `Graph.opaque`.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from qir.graph import Graph, Value
from qir.onnx_io.graph_writer import written_outputs
from qir.onnx_io.protos.metadata import read_metadata, write_metadata

FINN_DATATYPE = "finn_datatype"
"""Key of the element type that FINN and QONNX read."""


def read_annotations(graph: Graph) -> dict[str, dict[str, str]]:
    """Return the pairs of key and value of every annotated tensor, by the tensor's name."""
    carried = onnx.GraphProto.FromString(graph.opaque)
    return {
        entry.tensor_name: read_metadata(entry.quant_parameter_tensor_names)[0]
        for entry in carried.quantization_annotation
    }


def write_annotations(graph: Graph, annotations: Mapping[str, Mapping[str, str]]) -> None:
    """Replace all annotations of a graph; tensors without pairs get no entry.

    Args:
        graph: graph whose values have the names.
        annotations: pairs of key and value by the tensor's name.
    """
    carried = onnx.GraphProto.FromString(graph.opaque)
    del carried.quantization_annotation[:]
    for name, pairs in annotations.items():
        if pairs:
            entry = carried.quantization_annotation.add(tensor_name=name)
            write_metadata(dict(pairs), entry.quant_parameter_tensor_names)
    graph.opaque = carried.SerializeToString()


def annotate_data_types(graph: Graph, types: Mapping[Value, str]) -> None:
    """Annotate values with the element types that FINN and QONNX read; other annotations of tensors that exist stay.

    Args:
        graph: graph of the values.
        types: names of element types.
    """
    outputs = written_outputs(graph)
    names = {value: outputs.get(value, value.name) for value in graph.values()}
    annotations = read_annotations(graph)
    for value, label in types.items():
        if value in names:
            annotations[names[value]] = annotations.get(names[value], {}) | {FINN_DATATYPE: label}
    present = set(names.values())
    write_annotations(graph, {name: pairs for name, pairs in annotations.items() if name in present})
