"""ConvInteger and MatMulInteger with the multiplication by s_x·s_w after them, raised into float layers by a rule."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt

from qir.constants import require_array
from qir.graph import Node, Value
from qir.passes.analysis.constants import array_of, frozen
from qir.passes.raising.grids import CodeGrid
from qir.passes.raising.qdq import CODES
from qir.passes.raising.state import RaiseState, base_name
from qir.rewriting.engine import Match, Plan, Reject, Rule, constant, either, op
from qir.tensor import Array

OPS = {"ConvInteger": "Conv", "MatMulInteger": "MatMul"}


SUMS = op(tuple(OPS), CODES, constant("weight"), ..., name="sums", only_use=True)
BIASED = op("Add", SUMS, constant("bias"), commutes=True, only_use=True)
REAL = op("Mul", op("Cast", either(BIASED, SUMS), only_use=True), constant("factor"), commutes=True)


def integer_rules(state: RaiseState) -> tuple[Rule, ...]:
    """Return the rule for integer sums on codes of known twins."""
    return (Rule("integer-layer", REAL, plan=partial(_plan, state)),)


def _plan(state: RaiseState, match: Match) -> Reject | Plan:
    node, codes, factor = match.node("sums"), require_array(match["weight"]), require_array(match["factor"])
    grid, zero = state.codes.get(match["codes"]), array_of(node.input(3))
    if grid is None:
        return Reject("what its codes stand for is not known", match["codes"])
    if zero is None and node.input(3) is not None:
        return Reject("its zero point is not constant", node)
    axis = 0 if node.op == "ConvInteger" else codes.ndim - 1
    scale = _weight_scale(factor.reshape(-1), grid.scale)
    zeros = np.zeros(1, np.int64) if zero is None else zero.astype(np.int64).reshape(-1)
    if scale is None or scale.size not in (1, codes.shape[axis]) or zeros.size not in (1, scale.size):
        return Reject("its factor is not a product of scales", match["factor"])
    limits = np.iinfo(codes.dtype)
    weight_grid = CodeGrid(
        scale,
        np.broadcast_to(zeros, scale.shape),
        axis if scale.size > 1 else None,
        int(limits.min),
        int(limits.max),
    )
    weight = state.weight(match["weight"], codes, weight_grid, node)
    if isinstance(weight, Reject):
        return weight
    bias = array_of(match.values.get("bias"))
    values = None if bias is None else bias.astype(np.float64).reshape(-1) * factor.reshape(-1)
    return lambda rewriter: rewriter.replace(match.root, [_layer(node, match["twin"], weight(rewriter), values)])


def _layer(node: Node, data: Value, weight: Value, bias: Array | None) -> Node:
    """Return the float layer on the twins."""
    name = base_name((node.name or node.result.name).removesuffix(".sums"))
    operands, kind = [data, weight], OPS[node.op]
    if bias is not None:
        operands.append(node.scope.add_constant(f"{name}.bias", frozen(bias.astype(np.float32))))
        kind = "Gemm" if node.op == "MatMulInteger" else kind
    return Node(kind, operands, name=name, attributes=dict(node.attributes))


def _weight_scale(product: Array, data: npt.NDArray[np.float32]) -> npt.NDArray[np.float32] | None:
    """Return a float32 s_w with float32(s_x * s_w) equal to the product, found by trying near ones."""
    if data.size != 1:
        return None
    first = (product / data[0]).astype(np.float32)
    found, missing = first.copy(), np.ones(first.shape, bool)
    for direction in (0, np.inf, -np.inf):
        trial = first if direction == 0 else np.nextafter(first, np.float32(direction))
        fits = missing & (data[0] * trial == product)
        found[fits] = trial[fits]
        missing &= ~fits
    return None if missing.any() else found
