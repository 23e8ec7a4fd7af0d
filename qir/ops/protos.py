"""Single nodes, types and small constants as protobuf messages, for ONNX's own functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qir.attributes import Attribute, AttributeKind
from qir.graph import Node
from qir.tensor import Array, Tensor
from qir.types import DType, Type

IR_VERSION = 10


def tensor_proto(tensor: Tensor, name: str = "") -> Any:
    """Return a `TensorProto` with the values inside."""
    import onnx
    from onnx import numpy_helper

    array = tensor.numpy()
    if tensor.dtype is DType.STRING:
        strings: Any = [s if isinstance(s, bytes) else str(s).encode() for s in array.reshape(-1)]
        return onnx.helper.make_tensor(name, tensor.dtype.onnx_code, tensor.shape, strings)
    proto = numpy_helper.from_array(array, name)
    proto.data_type = tensor.dtype.onnx_code
    return proto


def type_proto(type: Type) -> Any:  # noqa: A002
    """Return a `TypeProto`; a quantized tensor as the float tensor that it is when it is executed."""
    import onnx

    from qir.onnx_io.protos.types import write_type

    proto = onnx.TypeProto()
    write_type(type, proto)
    return proto


def node_proto(node: Node, operands: tuple[str, ...], results: tuple[str, ...]) -> Any:
    """Return a `NodeProto` with operands and results under the given names; graph attributes are left out."""
    import onnx

    proto = onnx.NodeProto(op_type=node.op, domain=node.domain, name=node.name, overload=node.overload)
    proto.input.extend(operands)
    proto.output.extend(results)
    for name, attribute in node.attributes.items():
        _write_attribute(proto.attribute, name, attribute)
    return proto


def _write_attribute(entries: Any, name: str, attribute: Attribute) -> None:
    kind, value = attribute.kind, attribute.value
    if attribute.reference or (kind not in _FIELDS and kind not in {AttributeKind.TENSOR, AttributeKind.TENSORS}):
        return
    entry = entries.add()
    entry.name, entry.type = name, int(kind)
    if kind is AttributeKind.TENSOR:
        entry.t.CopyFrom(tensor_proto(value))
    elif kind is AttributeKind.TENSORS:
        entry.tensors.extend(tensor_proto(tensor) for tensor in value)
    elif isinstance(value, tuple):
        getattr(entry, _FIELDS[kind]).extend(value)
    else:
        setattr(entry, _FIELDS[kind], value)


_FIELDS = {
    AttributeKind.FLOAT: "f",
    AttributeKind.INT: "i",
    AttributeKind.STRING: "s",
    AttributeKind.FLOATS: "floats",
    AttributeKind.INTS: "ints",
    AttributeKind.STRINGS: "strings",
}


def node_model(
    node: Node,
    operands: Mapping[str, Array],
    names: tuple[str, ...],
    results: tuple[str, ...],
    opsets: Mapping[str, int],
    inputs: Mapping[str, Array] | None = None,
) -> Any:
    """Return a `ModelProto` of one node.

    Args:
        node: the node.
        operands: values by name: constants of the model.
        names: operand names in order, "" where one is left out.
        results: names of the results, which become the model's outputs.
        opsets: version by domain.
        inputs: other operands by name, which become the model's inputs: arrays of their element types and ranks.
    """
    import onnx

    made = node_proto(node, names, results)
    graph = onnx.helper.make_graph(
        [made],
        "node",
        [
            onnx.helper.make_tensor_value_info(name, Tensor.of(array).dtype.onnx_code, [None] * array.ndim)
            for name, array in (inputs or {}).items()
        ],
        [onnx.ValueInfoProto(name=name) for name in results if name],
        initializer=[tensor_proto(Tensor.of(array), name) for name, array in operands.items()],
    )
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)


def run_reference(model: Any) -> list[Array]:
    """Return the outputs of a model without inputs by `onnx.reference`."""
    from onnx.reference import ReferenceEvaluator

    found: Any = ReferenceEvaluator(model).run(None, {})
    return list(found)


def read_arrays(graph: bytes) -> list[Array]:
    """Return the initializers of a serialized `GraphProto`."""
    import onnx
    from onnx import numpy_helper

    return [numpy_helper.to_array(tensor) for tensor in onnx.GraphProto.FromString(graph).initializer]
