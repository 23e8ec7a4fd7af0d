"""Layer normalization recognized from its spelled-out form."""

from __future__ import annotations

from functools import partial

import numpy as np

from qir.graph import Node, Value
from qir.passes.analysis.constants import array_of, erase, frozen, is_standard, replace
from qir.passes.analysis.rules import only_user, scalar, sole_producer, with_scalar
from qir.rewriting.engine import Match, Plan, Reject, Rewriter, Rule, op
from qir.tensor import Array, numpy_dtype
from qir.types import TensorType


def layer_normalization(match: Match) -> Reject | Plan:
    """(x - mean) / Sqrt(mean of (x - mean)^2 + epsilon), times gamma, plus beta: LayerNormalization (operator set 17).

    Over the last dimension; gamma and beta are vectors over it, gamma may be missing when its length is known.
    """
    node = match.root
    root = sole_producer(node.input(1), "Sqrt")
    centered = node.input(0)
    subtract = None if centered is None else centered.producer
    if root is None or centered is None or subtract is None or not is_standard(subtract, "Sub"):
        return Reject("it is not a difference by a square root")
    x, mean = subtract.input(0), _mean_operand(sole_producer(subtract.input(1), "ReduceMean"))
    epsilon, square = _variance(root)
    if x is None or mean is not x or square is None or not _squares(square, centered):
        return Reject("it is not x less its mean over the last dimension, by the root of their mean square")
    if {use.node for use in centered.uses} != {node, square}:
        return Reject(f"{centered.name!r} is used elsewhere too")
    if _vector_after(node, "Mul", x)[0] is None and _length(x) is None:
        return Reject("it has no gamma, and the length of the last dimension is unknown")
    return partial(_replace, node, x, epsilon)


def _variance(root: Node) -> tuple[float, Node | None]:
    """Epsilon, and the node that squares, of Sqrt(ReduceMean(square) + epsilon)."""
    add = sole_producer(root.input(0), "Add")
    shifted = None if add is None else with_scalar(add, commutes=True)
    reduce = None if shifted is None else sole_producer(shifted[0], "ReduceMean")
    squared = _mean_operand(reduce)
    if shifted is None or squared is None:
        return 0.0, None
    return shifted[1], sole_producer(squared, "Pow", "Mul")


def _mean_operand(reduce: Node | None) -> Value | None:
    """The operand of a ReduceMean over the last dimension that keeps it."""
    if reduce is None or not reduce.attribute("keepdims", 1):
        return None
    axes, given = reduce.attribute("axes"), array_of(reduce.input(1))
    if given is not None:
        axes = tuple(given.reshape(-1).tolist())
    data = reduce.input(0)
    rank = data.type.rank if data is not None and isinstance(data.type, TensorType) else None
    return data if axes in {(-1,), None if rank is None else (rank - 1,)} and axes is not None else None


def _squares(node: Node, value: Value) -> bool:
    if is_standard(node, "Pow"):
        return node.input(0) is value and scalar(node.input(1)) == 2.0
    return node.input(0) is value and node.input(1) is value


def _replace(node: Node, x: Value, epsilon: float, rewriter: Rewriter) -> None:
    scale, last = _vector_after(node, "Mul", x)
    graph = node.graph
    assert graph is not None  # noqa: S101 - passes rewrite nodes that stand in a graph
    shift: Value | None = None
    if scale is None:
        length = _length(x)
        assert length is not None  # noqa: S101 - checked by the plan
        dtype = x.type.dtype if isinstance(x.type, TensorType) else None
        element = np.float32 if dtype is None else numpy_dtype(dtype)
        scale = graph.add_constant(f"{node.result.name}.scale", frozen(np.ones(length, element)))
    shift, last = _vector_after(last, "Add", x)
    operands = (x, scale) if shift is None else (x, scale, shift)
    made = Node("LayerNormalization", operands, name=last.name, attributes={"axis": -1, "epsilon": epsilon})
    made.result.type = last.result.type
    rewriter.insert(made, before=last)
    replace(last, made.result)
    _erase_backwards(graph_nodes_of(node, last))


def graph_nodes_of(first: Node, last: Node) -> list[Node]:
    """The nodes that the new one replaced, last first, as far as they still stand in the graph."""
    return [node for node in (last, first) if node.graph is not None]


def _erase_backwards(nodes: list[Node]) -> None:
    waiting = nodes
    while waiting:
        node = waiting.pop(0)
        if node.graph is None or any(value.uses for value in node.results):
            continue
        producers = [value.producer for value in node.operands]
        erase(node)
        waiting += [p for p in producers if p is not None and is_standard(p, *_PARTS)]


_PARTS = ("Mul", "Div", "Sqrt", "Add", "ReduceMean", "Pow", "Sub")


def _vector_after(node: Node, op: str, x: Value) -> tuple[Value | None, Node]:
    """The constant vector that `op` after a node applies, and that node; (None, node) when there is none."""
    user = only_user(node.result)
    if user is None or not is_standard(user, op):
        return None, node
    index = 1 if user.input(0) is node.result else 0
    vector, value = array_of(user.input(index)), user.input(index)
    if vector is None or value is None or vector.ndim != 1 or not _spans(vector, x):
        return None, node
    return value, user


def _spans(vector: Array, x: Value) -> bool:
    length = _length(x)
    return vector.size == length if length is not None else vector.size > 1


def _length(x: Value) -> int | None:
    shape = x.type.shape if isinstance(x.type, TensorType) else None
    return shape[-1] if shape and isinstance(shape[-1], int) else None


RULES = (Rule("layer-normalization", op("Div"), plan=layer_normalization, since=17),)
