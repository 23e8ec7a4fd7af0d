"""The message of a module without its main graph's constants: what inference reads, and what a file starts with."""

from __future__ import annotations

import onnx

from qir.graph import QIR_DOMAIN
from qir.module import Module
from qir.onnx_io.graph_writer import GraphWriter, NamedTensor, write_opsets
from qir.onnx_io.protos.metadata import write_metadata

TEXTS = ("producer_name", "producer_version", "domain", "doc_string")
"""Texts of a module that are fields of the message, under the same names."""


def skeleton_of(module: Module) -> tuple[onnx.ModelProto, list[NamedTensor]]:
    """Return the message of a module without the main graph's constants, and these with their names in the file.

    Raises:
        ModelFileError: names clash, or a value is used outside the graph that owns it.
    """
    proto = onnx.ModelProto()
    proto.MergeFromString(module.opaque)
    proto.ir_version = module.ir_version
    for name in TEXTS:
        if getattr(module, name):
            setattr(proto, name, getattr(module, name))
    if module.model_version:
        proto.model_version = module.model_version
    opsets = dict(module.opsets)
    if QIR_DOMAIN not in opsets and any(n.domain == QIR_DOMAIN for g in module.graphs for n in g.walk()):
        opsets[QIR_DOMAIN] = 1
    write_opsets(opsets, proto.opset_import)
    write_metadata(module.metadata, proto.metadata_props)
    writer = GraphWriter()
    proto.graph.SetInParent()
    tensors = writer.write_graph(module.graph, proto.graph)
    for function in module.functions.values():
        writer.write_function(function, proto.functions.add())
    return proto, tensors
