"""Operators of ONNX Runtime that keep channels last, as it saves them in optimized files, put channels first."""

from __future__ import annotations

from functools import partial

from qir.graph import Node, Value
from qir.passes.analysis.constants import is_standard
from qir.rewriting.engine import Match, Plan, Reject, Rewriter, Rule, op
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


def _plan(match: Match) -> Reject | Plan:
    node = match.root
    last = bool(node.attribute(_FLAG, 0)) or _NAMES.get(node.op) is not None
    rank = _rank(node) if last else None
    if last and rank is None:
        return Reject("the rank of its data is unknown", node)
    if not last and _FIRST[node.op] == _DOMAIN:
        return Reject("its channels are first", node)
    return partial(_rewrite, match, rank)


def _rewrite(match: Match, rank: int | None, rewriter: Rewriter) -> None:
    """Put channels first in a node; between Transpose nodes where a rank is given, of which two that meet cancel."""
    node = match.root
    attributes = {key: value for key, value in node.attributes.items() if key != _FLAG}
    made = Node(
        _NAMES.get(node.op, node.op), node.inputs, domain=_FIRST[node.op], name=node.name, attributes=attributes
    )
    if rank is None:
        rewriter.replace(node, [made])
        return
    name, order = node.name or node.result.name, (0, rank - 1, *range(1, rank - 1))
    data, maker = node.operand(0), node.operand(0).producer
    if maker is not None and is_standard(maker, "Transpose") and _undoes(maker.attribute("perm"), order):
        before, source = [], maker.operand(0)
    else:
        first = _transpose(data, order, f"{name}.channels_first")
        before, source = [first], first.result
    made.set_input(0, source)
    made.result.type = _moved(node.result.type, order)
    back = _transpose(made.result, (0, *range(2, rank), 1), f"{name}.channels_last")
    rewriter.replace(node, [*before, made, back])


def _transpose(value: Value, order: tuple[int, ...], name: str) -> Node:
    made = Node("Transpose", (value,), name=name, attributes={"perm": order})
    made.result.type = _moved(value.type, order)
    return made


def _undoes(first: tuple[int, ...] | None, second: tuple[int, ...]) -> bool:
    return first is not None and tuple(first[index] for index in second) == tuple(range(len(second)))


def _moved(known: Type, order: tuple[int, ...]) -> Type:
    if not isinstance(known, TensorType) or known.shape is None:
        return known
    return TensorType(known.element, tuple(known.shape[index] for index in order))


def _rank(node: Node) -> int | None:
    """Return the rank of a node's data.

    Files that ONNX Runtime saves leave types out, kernels and operands before it tell.
    """
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


CHANNELS_FIRST = Rule("channels-first", op(tuple(_FIRST), domain=_DOMAIN), plan=_plan)
"""Puts every such operator between two Transpose nodes; those around joins stay."""
