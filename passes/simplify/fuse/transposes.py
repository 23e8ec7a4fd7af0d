"""Transposes that follow each other become one, or none."""

from __future__ import annotations

from functools import partial

from qir.graph import Node, Value
from qir.ops.definition import rank_of
from qir.passes.analysis.constants import array_of
from qir.passes.simplify.eliminate.identities import may_return
from qir.rewriting.engine import Match, Pattern, Plan, Reject, Rewriter, Rule, any_value, either, number, op, through
from qir.types import TensorType

UNARY = (
    "Abs",
    "Cast",
    "Clip",
    "Elu",
    "Erf",
    "Exp",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Neg",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Sqrt",
    "Tanh",
)
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow")


SCALED = ("DequantizeLinear", "QuantizeLinear")


def _elementwise(value: Pattern) -> Pattern:
    """Return an operator through which a Transpose may move.

    Its other operands do not depend on the order of dimensions.
    """
    return either(
        op(UNARY, value, ..., only_use=True),
        op(SCALED, value, number(), ..., only_use=True),
        op(BINARY, value, number(), commutes=True, only_use=True),
    )


TWICE = op("Transpose", op("Transpose", any_value("source"), name="first"))
FIRST = op("Transpose", any_value("source"), name="first", only_use=True)
AROUND = op("Transpose", _elementwise(through(_elementwise, FIRST)))


def compose_transposes(match: Match) -> Reject | Plan:
    """Transpose, then Transpose: one, or none where they cancel."""
    orders = _orders(match)
    if orders is None:
        return Reject("the order of dimensions is not known")
    composed = tuple(orders[1][axis] for axis in orders[0])
    if composed == tuple(range(len(composed))):
        if not may_return(match.root, match["source"]):
            return Reject("its result is a graph output, and so is what it would return", match["source"])
        return lambda rewriter: rewriter.replace(match.root, [], [match["source"]])
    if len(match["first"].uses) > 1:
        return Reject("it is read elsewhere too", match["first"])
    return lambda rewriter: rewriter.replace(
        match.root, [Node("Transpose", (match["source"],), attributes={"perm": composed})]
    )


def cancel_transposes(match: Match) -> Reject | Plan:
    """Transpose, then element-wise operators, then the inverse Transpose: the operators alone."""
    orders = _orders(match)
    if orders is None or tuple(orders[1][axis] for axis in orders[0]) != tuple(range(len(orders[0]))):
        return Reject("the two do not cancel, and nodes stand between them", match["first"])
    last = match.root.input(0)
    if last is None or not may_return(match.root, last):
        return Reject("its result is a graph output, and so is what it would return", last)
    return partial(_cancel, match, last, orders[0])


def _cancel(match: Match, last: Value, order: tuple[int, ...], rewriter: Rewriter) -> None:
    between = [last]
    while between[-1] is not match["first"]:
        between.append(next(value for value in between[-1].node.operands if array_of(value) is None))
    rewriter.replace(match.node("first"), [], [match["source"]])
    for value in between[:-1]:
        known = value.type
        if isinstance(known, TensorType) and known.shape is not None:
            value.type = TensorType(known.element, tuple(known.shape[axis] for axis in order))
    rewriter.replace(match.root, [], [last])


def _orders(match: Match) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return the permutations of the last and of the first Transpose, None where one is unknown."""
    last, first = order_of(match.root), order_of(match.node("first"))
    return None if last is None or first is None or len(last) != len(first) else (last, first)


def order_of(node: Node) -> tuple[int, ...] | None:
    """Return the permutation of a Transpose; None where it is the default one of an unknown rank."""
    given = node.attribute("perm")
    if given is not None:
        return tuple(given)
    rank = rank_of(node.input(0)) or rank_of(node.result)
    return None if rank is None else tuple(reversed(range(rank)))


RULES = (
    Rule("compose-transposes", TWICE, plan=compose_transposes),
    Rule("cancel-transposes", AROUND, plan=cancel_transposes),
)
