"""Quantizers that no container holds, written exactly in standard operators.

Odd codes: `2 * floor(x / (2 s)) + 1`. Tables of levels: the number of boundaries that are not above the value, found
by bisection in one Gather and one comparison a bit, then a look-up. Weights are looked up from their indices.
"""

from __future__ import annotations

import numpy as np

from qir.errors import ExportError
from qir.graph import Value
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.passes.lowering.parts.chain import Chain
from qir.quantizers import QuantParameters, kernels
from qir.quantizers.channels import fake_quantize_channels
from qir.tensor import Array
from qir.types import DType

LOWEST = np.float32(np.finfo(np.float32).min)


def activation_codes(chain: Chain, source: Value, record: QuantizerArithmetic) -> Value:
    """Return float32 codes of an activation on a grid of any kind; of tables of integer multiples the multiples."""
    grid, multiples = record.grid, record.multiples
    if grid.levels is not None:
        if multiples is None:
            raise ExportError("a table of levels that are not multiples of a step: legalize looks such levels up")
        return _look_up(chain, _index(chain, source, grid), multiples[0].astype(np.float32), "multiples", source)
    if grid.code_step == 2 and grid.codes == 2:
        signs = np.asarray([grid.low_code, grid.high_code], np.float32)
        edge = np.zeros((1, 1), np.float32)
        return _look_up(chain, _bisected(chain, source, edge[0]), signs, "signs", source)
    if grid.code_step == 2:
        return _odd_codes(chain, source, grid)
    return affine_codes(chain, source, grid)


def affine_codes(chain: Chain, source: Value, grid: QuantParameters) -> Value:
    """`clip(round(x / s) + zero point)` as QuantizeLinear computes it, on floats."""
    like = source.type
    value = chain.node("Div", (source, chain.constant("scale", grid.scale.reshape(()))), "scaled", like)
    value = chain.node("Round", (value,), "rounded", like)
    if grid.zero_point.any():
        zero = chain.constant("zero_point", grid.zero_point.astype(np.float32).reshape(()))
        value = chain.node("Add", (value, zero), "shifted", like)
    return _clipped(chain, value, grid)


def activation_levels(chain: Chain, source: Value, grid: QuantParameters) -> Value:
    """Return float32 levels of an activation whose grid is a table."""
    return _look_up(chain, _index(chain, source, grid), grid.table[0], "levels", source)


def weight_levels(chain: Chain, record: QuantizerArithmetic) -> Value:
    """Return a weight looked up in its table, one table a channel where channels differ."""
    quantizer, weight = record.quantizer, record.weight
    bits, axis, like = quantizer.bits, quantizer.granularity.axis, quantizer.source.type
    if not isinstance(bits, int) and axis is not None:
        grids = quantizer.grids()
        levels = fake_quantize_channels(weight, grids, bits, axis)
        table, places = np.unique(levels, return_inverse=True)
        index = places.reshape(weight.shape)
    else:
        grid = record.grid
        codes = record.stored.astype(np.int64) - grid.low_code
        channel = np.arange(grid.channels).reshape(kernels.channel_shape(weight.shape, grid.channels, axis))
        index, table = codes + channel * grid.codes, grid.table.reshape(-1)
    narrow = np.uint8 if len(table) <= 256 else np.uint16 if len(table) <= 65536 else np.int32
    indices = chain.constant("codes", index.astype(narrow))
    wide = chain.node("Cast", (indices,), "indices", like, DType.INT32, to=DType.INT32.onnx_code)
    values = chain.constant("levels", table.astype(np.float32))
    return chain.node("Gather", (values, wide), "levels", like, axis=0)


def guarded(chain: Chain, data: Value) -> Value:
    """Return the same values after a node that keeps ONNX Runtime from quantizing a layer's float weight by itself."""
    lowest = chain.shared("guard.lowest", np.asarray(LOWEST))
    return chain.node("Max", (data, lowest), "guard", data.type)


def _odd_codes(chain: Chain, source: Value, grid: QuantParameters) -> Value:
    like = source.type
    double = chain.constant("double_scale", (grid.scale * np.float32(2)).reshape(()))
    value = chain.node("Div", (source, double), "scaled", like)
    value = chain.node("Floor", (value,), "floored", like)
    value = chain.node("Mul", (value, chain.shared("emulate.two", np.asarray(2, np.float32))), "doubled", like)
    value = chain.node("Add", (value, chain.shared("emulate.one", np.asarray(1, np.float32))), "odd", like)
    return _clipped(chain, value, grid)


def _clipped(chain: Chain, value: Value, grid: QuantParameters) -> Value:
    low = chain.constant("low", np.asarray(grid.low_code, np.float32))
    high = chain.constant("high", np.asarray(grid.high_code, np.float32))
    return chain.node("Clip", (value, low, high), "limited", value.type)


def _index(chain: Chain, source: Value, grid: QuantParameters) -> Value:
    if grid.boundaries is None:
        raise ExportError(f"a grid of {grid.codes} integer codes has no boundaries to search: round its codes")
    return _bisected(chain, source, grid.boundaries[0])


def _bisected(chain: Chain, source: Value, boundaries: Array) -> Value:
    """Return how many of the ascending boundaries are not above each value: int32."""
    like, steps = source.type, max(len(boundaries), 1).bit_length()  # one step at least
    padded = np.full((1 << steps) - 1, np.inf, np.float32)
    padded[: len(boundaries)] = boundaries
    table = chain.constant("boundaries", padded)
    found: Value | None = None
    for step in reversed(range(steps)):
        half = 1 << step
        probe = chain.constant(f"probe{step}", np.asarray(half - 1, np.int32))
        place = probe if found is None else chain.node("Add", (found, probe), f"place{step}", like, DType.INT32)
        edge_like: tuple[int, ...] = ()
        edge = chain.node("Gather", (table, place), f"edge{step}", edge_like if found is None else like, axis=0)
        above = chain.node("GreaterOrEqual", (source, edge), f"above{step}", like, DType.BOOL)
        taken = chain.node("Cast", (above,), f"taken{step}", like, DType.INT32, to=DType.INT32.onnx_code)
        if half > 1:
            weight = chain.shared(f"emulate.half{step}", np.asarray(half, np.int32))
            taken = chain.node("Mul", (taken, weight), f"half{step}", like, DType.INT32)
        found = taken if found is None else chain.node("Add", (found, taken), f"index{step}", like, DType.INT32)
    if found is None:
        raise ExportError("a table without boundaries has one code: nothing is searched")
    return found


def _look_up(chain: Chain, index: Value, table: Array, label: str, source: Value) -> Value:
    values = chain.constant(label, np.asarray(table, np.float32))
    return chain.node("Gather", (values, index), f"{label}.taken", source.type, axis=0)
