"""Chains of Mul and Add by constants become one Mul and one Add."""

from __future__ import annotations

from functools import partial

import numpy as np

from qir.passes.analysis.constants import array_of, set_constant
from qir.rewriting.engine import Match, Pattern, Plan, Reject, Rewriter, Rule, any_value, constant, either, op
from qir.tensor import Array


def _step(kind: str, data: Pattern, by: str, name: str = "") -> Pattern:
    return op(kind, data, constant(by), name=name, only_use=bool(name), commutes=True)


X = any_value("x")
SUM = _step("Add", _step("Add", X, "a", name="first"), "b")
PRODUCT = _step("Mul", _step("Mul", X, "a", name="first"), "b")
DISTRIBUTED = _step("Mul", _step("Add", _step("Mul", X, "a", name="first"), "shift", name="second"), "b")


def merge_affine(match: Match) -> Reject | Plan:
    """X + a + b, x * a * b and (x * a + shift) * b with constants of one shape: combined, in float64."""
    steps = {"first": "a"} | ({"second": "shift"} if "second" in match.values else {})
    made: dict[str, Array] = {}
    for name, by in steps.items():
        combined = _combined(match.root.op, array_of(match[by]), array_of(match["b"]))
        if isinstance(combined, Reject):
            return combined
        made[name] = combined
    return partial(_write, match, steps, made)


def _combined(op: str, a: Array | None, b: Array | None) -> Array | Reject:
    """Return the two constants in one; they have one shape, or the second is a single number."""
    if a is None or b is None or a.dtype.kind != "f" or b.dtype.kind != "f":
        return Reject("a constant does not hold real numbers")
    if a.shape != b.shape and not (b.size == 1 and b.ndim <= a.ndim):
        return Reject("the constants have different shapes")
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(over="ignore"):
        made: Array = (wide_a + wide_b if op == "Add" else wide_a * wide_b).astype(a.dtype)
    return made if np.isfinite(made).all() else Reject("the combination of the constants overflows")


def _write(match: Match, steps: dict[str, str], made: dict[str, Array], rewriter: Rewriter) -> None:
    for name, by in steps.items():
        node, value = match.node(name), match[by]
        rewriter.modify(node, partial(set_constant, node, node.inputs.index(value), made[name], value.name))
    rewriter.replace(match.root, [], [match[[*steps][-1]]])


RULES = (Rule("merge-affine", either(SUM, PRODUCT, DISTRIBUTED), plan=merge_affine),)
