"""Chains of Mul and Add by constants become one Mul and one Add."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qir.graph import Node, Value
from qir.passes.analysis.constants import array_of, is_standard, replace, set_constant
from qir.passes.analysis.rules import sole_producer
from qir.rewriting.engine import Match, Plan, Reject, Rewriter, Rule, op
from qir.tensor import Array


@dataclass(frozen=True, eq=False)
class Step:
    """A node that adds a constant to data, or multiplies data by one."""

    node: Node
    data: Value
    index: int
    constant: Array


def merge_affine(match: Match) -> Reject | Plan:
    """X + a + b, x * a * b and (x * a + b) * c with constants of one shape: the constants are combined, in float64."""
    node = match.root
    outer = _step(node)
    inner_node = None if outer is None else sole_producer(outer.data, "Add", "Mul")
    inner = None if inner_node is None else _step(inner_node)
    if outer is None or inner is None or inner.node.graph is not node.graph:
        return Reject("it is not a second step by a constant after a first that only it uses")
    if is_standard(inner.node, node.op):
        return _write([(inner, _combined(node.op, inner, outer))], outer)
    if is_standard(node, "Add"):
        return Reject("an Add after a Mul stays")
    first_node = sole_producer(inner.data, "Mul")
    first = None if first_node is None else _step(first_node)
    if first is None or first.node.graph is not node.graph:
        return Reject("no Mul by a constant stands before the Add that only it uses")
    return _write([(first, _combined("Mul", first, outer)), (inner, _combined("Mul", inner, outer))], outer)


def _step(node: Node) -> Step | None:
    if not is_standard(node, "Add", "Mul"):
        return None
    for index in (1, 0):
        constant, data = array_of(node.input(index)), node.input(1 - index)
        if constant is not None and data is not None and constant.dtype.kind == "f" and array_of(data) is None:
            return Step(node, data, index, constant)
    return None


def _combined(op: str, inner: Step, outer: Step) -> Array | None:
    """The two constants in one; None when their shapes differ and neither is a single number."""
    a, b = inner.constant, outer.constant
    if a.shape != b.shape and not (b.size == 1 and b.ndim <= a.ndim):
        return None
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(over="ignore"):
        made: Array = (wide_a + wide_b if op == "Add" else wide_a * wide_b).astype(a.dtype)
    return made if np.isfinite(made).all() else None


def _write(constants: list[tuple[Step, Array | None]], outer: Step) -> Reject | Plan:
    if any(array is None for _, array in constants):
        return Reject("the constants have different shapes, or their combination overflows")

    def change(_: Rewriter) -> None:
        for step, array in constants:
            value = step.node.input(step.index)
            if array is not None and value is not None:
                set_constant(step.node, step.index, array, value.name)
        replace(outer.node, outer.data)

    return change


RULES = (Rule("merge-affine", op(("Add", "Mul")), plan=merge_affine),)
