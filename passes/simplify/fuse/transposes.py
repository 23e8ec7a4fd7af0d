"""Transposes that follow each other become one, or none."""

from __future__ import annotations

from functools import partial

from qir.graph import Node
from qir.passes.analysis.constants import is_standard, replace
from qir.passes.analysis.linear_layer import rank_of
from qir.passes.analysis.rules import scalar, sole_producer
from qir.passes.simplify.eliminate.identities import may_return
from qir.rewriting.engine import Match, Plan, Reject, Rewriter, Rule, op
from qir.types import TensorType

UNARY = (
    "Abs",
    "Cast",
    "Clip",
    "DequantizeLinear",
    "Elu",
    "Erf",
    "Exp",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Neg",
    "QuantizeLinear",
    "Relu",
    "Selu",
    "Sigmoid",
    "Softplus",
    "Sqrt",
    "Tanh",
)
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow")


def fuse_transposes(match: Match) -> Reject | Plan:
    """Transpose, then elementwise operators or nothing, then Transpose: one Transpose, or none where they cancel."""
    node = match.root
    chain, first = [], node.input(0)
    while first is not None and (step := sole_producer(first, *UNARY, *BINARY)) is not None:
        data = _data_operand(step)
        if data is None:
            return Reject(f"the order of dimensions matters to {step.name or step.op!r} before it")
        chain.append((step, data))
        first = step.input(data)
    inner = sole_producer(first, "Transpose") if chain else _transpose_before(node)
    order, before = order_of(node), None if inner is None else order_of(inner)
    if inner is None or order is None or before is None or len(order) != len(before):
        return Reject("no Transpose that only it uses stands before it")
    composed = tuple(before[axis] for axis in order)
    cancels = composed == tuple(range(len(composed)))
    if chain and not cancels:
        return Reject("the two do not cancel, and nodes stand between them")
    source = inner.input(0)
    if not cancels and len(inner.result.uses) > 1:
        return Reject("the Transpose before it is read elsewhere too")
    if source is None or (cancels and not may_return(node, chain[0][0].result if chain else source)):
        return Reject("its result is a graph output, and so is what it would return")
    if cancels:
        return partial(_cancel, node, inner, [step for step, _ in chain], order)

    def change(_: Rewriter) -> None:
        node.set_attribute("perm", composed)
        replace(inner, source)

    return change


def _cancel(node: Node, inner: Node, between: list[Node], order: tuple[int, ...], _: Rewriter) -> None:
    source = inner.input(0)
    assert source is not None  # noqa: S101 - Transpose has data
    if len(inner.result.uses) > 1:
        replace(node, source)
        return
    replace(inner, source)
    for step in between:
        known = step.result.type
        if isinstance(known, TensorType) and known.shape is not None:
            step.result.type = TensorType(known.element, tuple(known.shape[axis] for axis in order))
    result = node.input(0)
    assert result is not None  # noqa: S101 - Transpose has data
    replace(node, result)


def _transpose_before(node: Node) -> Node | None:
    """The Transpose in the same graph whose result a Transpose reads."""
    value = node.input(0)
    before = None if value is None else value.producer
    return before if before is not None and before.graph is node.graph and is_standard(before, "Transpose") else None


def _data_operand(node: Node) -> int | None:
    """The operand through which a Transpose may move: the others must not depend on the order of dimensions."""
    if is_standard(node, "DequantizeLinear", "QuantizeLinear"):
        return 0 if scalar(node.input(1)) is not None else None
    if is_standard(node, *UNARY):
        return 0
    for index in (0, 1):
        if len(node.inputs) == 2 and scalar(node.input(1 - index)) is not None:
            return index
    return None


def order_of(node: Node) -> tuple[int, ...] | None:
    """The permutation of a Transpose; None where it is the default one of an unknown rank."""
    given = node.attribute("perm")
    if given is not None:
        return tuple(given)
    rank = rank_of(node.input(0)) or rank_of(node.result)
    return None if rank is None else tuple(reversed(range(rank)))


RULES = (Rule("fuse-transposes", op("Transpose"), plan=fuse_transposes),)
