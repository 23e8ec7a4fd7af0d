"""Operators of ONNX Runtime that keep channels last, as it saves them in optimized files, put channels first."""

from __future__ import annotations

from qir.graph import Graph, Node, Value
from qir.passes.analysis.constants import is_standard
from qir.types import TensorType, Type

_DOMAIN = "com.microsoft"
_FIRST = {
    "QLinearConv": "",
    "QLinearAveragePool": _DOMAIN,
    "QLinearGlobalAveragePool": _DOMAIN,
    "NhwcMaxPool": "",
}
"""Domain of the operator with channels first."""

_NAMES = {"NhwcMaxPool": "MaxPool"}
_FLAG = "channels_last"


def put_channels_first(graph: Graph) -> bool:
    """Rewrite every such operator between two Transpose nodes; True when there was one.

    Transpose nodes that meet cancel at once; those around joins stay.
    """
    changed = False
    for node in graph.nodes:
        domain = _FIRST.get(node.op)
        if node.domain != _DOMAIN or domain is None:
            continue
        last = bool(node.attribute(_FLAG, 0)) or _NAMES.get(node.op) is not None
        rank = _rank(node)
        if last and rank is None:
            continue
        if last or domain != _DOMAIN:
            _rewrite(graph, node, rank if last else None)
            changed = True
    return changed


def _rewrite(graph: Graph, node: Node, rank: int | None) -> None:
    """The node with channels first; between Transpose nodes where a rank is given."""
    inputs = list(node.inputs)
    name = node.name or node.result.name
    if rank is not None and inputs[0] is not None:
        order = (0, rank - 1, *range(1, rank - 1))
        inputs[0] = _transposed(graph, inputs[0], order, f"{name}.channels_first", node)
    attributes = {key: value for key, value in node.attributes.items() if key != _FLAG}
    made = Node(_NAMES.get(node.op, node.op), inputs, domain=_FIRST[node.op], name=node.name, attributes=attributes)
    graph.insert(made, before=node)
    made.result.type = (
        node.result.type if rank is None else _moved(node.result.type, (0, rank - 1, *range(1, rank - 1)))
    )
    result = made.result
    if rank is not None:
        result = _transposed(graph, result, (0, *range(2, rank), 1), f"{name}.channels_last", node)
    node.result.replace_all_uses_with(result)
    graph.erase(node)


def _transposed(graph: Graph, value: Value, order: tuple[int, ...], name: str, before: Node) -> Value:
    maker = value.producer
    if maker is not None and is_standard(maker, "Transpose") and _undoes(maker.attribute("perm"), order):
        return maker.operands[0]
    made = graph.insert(Node("Transpose", (value,), name=name, attributes={"perm": order}), before=before)
    made.result.type = _moved(value.type, order)
    return made.result


def _undoes(first: tuple[int, ...] | None, second: tuple[int, ...]) -> bool:
    return first is not None and tuple(first[index] for index in second) == tuple(range(len(second)))


def _moved(known: Type, order: tuple[int, ...]) -> Type:
    if not isinstance(known, TensorType) or known.shape is None:
        return known
    return TensorType(known.element, tuple(known.shape[index] for index in order))


def _rank(node: Node) -> int | None:
    """The rank of a node's data; files that ONNX Runtime saves leave types out, kernels and operands before it tell."""
    kernel = node.attribute("kernel_shape")
    if kernel is not None:
        return len(kernel) + 2
    for value in node.operands:
        known = value.type
        if isinstance(known, TensorType) and known.rank is not None and known.rank > 2:
            return known.rank
        if value.producer is not None and (rank := _rank(value.producer)) is not None:
            return rank
    return None
