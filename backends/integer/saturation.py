"""What x86 CPUs without VNNI lose of a product of unsigned activations and signed weights.

ONNX Runtime's 8-bit kernels for such CPUs (AVX2 and AVX-512 without VNNI) add the products of two neighbouring codes
of the inner dimension with VPMADDUBSW, which clips their sum to int16; the clipped sums are added in int32. Zero
points are corrected afterwards, so what clipping takes away depends on the raw codes alone. Two products of 255 and
127 are 64770 and become 32767.

A kernel does so for unsigned codes times signed codes; the other element types are exact. The pairs run along the rows
of the second operand of Gemm and MatMul, and along [kernel position, channel of the group] in a convolution, whose
padding holds the zero point; a depthwise convolution with one channel in and out per group is exact. ConvInteger
multiplies weights by data, so that signed data and unsigned weights are clipped, along [channel of the group, kernel
position], depthwise ones too.

Layers between DequantizeLinear and QuantizeLinear are computed so where ONNX Runtime fuses them into such a kernel
(`is_fused`); on floats they are exact. On x86 its default session first turns int8 codes that only a DequantizeLinear
reads into uint8 codes (`turns_unsigned`), so that layers of int8 activations and int8 weights clip too.

Sources: Intel's manual for VPMADDUBSW; ONNX Runtime's documentation of quantization (U8S8 and U8U8) and its graph
transformers for QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

import numpy as np

from qir.backends.integer.values import Grid, integer_limits
from qir.backends.integer.windows import Window
from qir.constants import array_of
from qir.graph import Node, Value
from qir.tensor import Array

LOWEST, HIGHEST = -(2**15), 2**15 - 1
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "MaxPool"})
"""Operators through which ONNX Runtime moves a QuantizeLinear towards the layer."""
_ROWS = 4096
"""Rows of the first operand that are computed at once."""


def lost_in_product(data: Grid, weight: Grid) -> Array:
    """Return what clipping takes from a product of matrices.

    Args:
        data: first operand [..., M, K], or [K].
        weight: second operand [..., K, N], or [K].

    Returns:
        int64 [..., M, N] as of numpy's matmul: the exact product minus what the kernel computes; 0 for exact kernels.
    """
    left, right = data.codes, weight.codes
    if not _clips(data, weight):
        return np.zeros((), np.int64)
    first, second = np.atleast_2d(left), right[:, np.newaxis] if right.ndim == 1 else right
    batch = np.broadcast_shapes(first.shape[:-2], second.shape[:-2])
    found = np.zeros((*batch, first.shape[-2], second.shape[-1]), np.int64)
    first = np.broadcast_to(first, (*batch, *first.shape[-2:]))
    second = np.broadcast_to(second, (*batch, *second.shape[-2:]))
    for index in np.ndindex(batch):
        found[index] = _clipped(first[index], second[index])
    return found.squeeze((*(() if left.ndim > 1 else (-2,)), *(() if right.ndim > 1 else (-1,))))


def lost_in_convolution(node: Node, window: Window, data: Grid, weight: Grid) -> Array:
    """Return what clipping takes from a convolution.

    Args:
        node: Conv, QLinearConv or ConvInteger.
        window: its geometry.
        data: input [N, C, spatial...].
        weight: weight [channels, C / groups, kernel...].

    Returns:
        int64 [N, channels, spatial of the output...]: the exact sums minus what the kernel computes; 0 for exact ones.
    """
    groups, swapped = node.attribute("group", 1), node.op == "ConvInteger"
    channels, inner = weight.codes.shape[:2]
    exempt = inner == 1 and channels == groups and not swapped
    if exempt or not (_clips(weight, data) if swapped else _clips(data, weight)):
        return np.zeros((), np.int64)
    padded = window.padded(data.codes, int(data.zero_point.reshape(-1)[0]))
    spatial = window.elements(padded[:1, :1])[0].shape[2:]
    batch, pixels = data.codes.shape[0], int(np.prod(spatial))
    kernels = weight.codes.reshape(groups, channels // groups, inner, -1)
    found = np.zeros((batch, groups, channels // groups, pixels), np.int64)
    for sample, group in np.ndindex(batch, groups):
        image = padded[sample : sample + 1, group * inner : (group + 1) * inner]
        columns = np.stack(window.elements(image), axis=0).reshape(-1, inner, pixels)
        taps = kernels[group]
        if swapped:
            found[sample, group] = _clipped(_rows(taps), columns.transpose(1, 0, 2).reshape(-1, pixels))
        else:
            flat = taps.transpose(2, 1, 0).reshape(-1, taps.shape[0])
            found[sample, group] = _clipped(columns.reshape(-1, pixels).T, flat).T
    return found.reshape(batch, channels, *spatial)


def turns_unsigned(dequantize: Node) -> bool:
    """Tell whether ONNX Runtime's default session on x86 makes int8 codes that a DequantizeLinear reads uint8.

    It does so where a QuantizeLinear writes them, nothing else reads them, and both name the same constant zero point.
    """
    quantize = dequantize.operands[0].producer
    return quantize is not None and quantize.op == "QuantizeLinear" and _writes_unsigned(quantize)


def is_fused(node: Node, data: Grid) -> bool:
    """Return whether ONNX Runtime's default session computes a Conv, Gemm or MatMul of grids with a kernel on integers.

    Its fusion asks for a QuantizeLinear of the input's element type as the only reader of a convolution's result, seen
    through a Relu or Clip that the grid makes redundant and through what only moves elements; Gemm and MatMul also
    fuse where no reader quantizes the result.

    Args:
        node: the layer, between DequantizeLinear and QuantizeLinear.
        data: its input.
    """
    quantize, limiter = _quantizer(node.result)
    if quantize is not None:
        element = np.uint8 if _writes_unsigned(quantize) else _zero_point(quantize).dtype
        return element == (np.int8 if data.signed else np.uint8) and (
            limiter is None or _is_redundant(limiter, quantize)
        )
    return node.op != "Conv" and not any(reader.op == "QuantizeLinear" for reader in node.result.users)


def _clips(unsigned: Grid, signed: Grid) -> bool:
    return not unsigned.signed and signed.signed and unsigned.bits == signed.bits == 8


def _rows(taps: Array) -> Array:
    return taps.reshape(taps.shape[0], -1)


def _clipped(left: Array, right: Array) -> Array:
    """Return exact minus clipped sums of [M, K] and [K, N], one of them unsigned and one signed: int64 [M, N].

    Only the rows and columns of a pair that can leave int16 are computed.
    """
    found = np.zeros((left.shape[0], right.shape[1]), np.int64)
    if left.shape[1] % 2:
        left, right = np.pad(left, ((0, 0), (0, 1))), np.pad(right, ((0, 1), (0, 0)))
    for start in range(0, left.shape[0], _ROWS):
        _add_lost(found[start : start + _ROWS], left[start : start + _ROWS].astype(np.int32), right.astype(np.int32))
    return found


def _add_lost(found: Array, left: Array, right: Array) -> None:
    size, other = np.abs(left), np.abs(right)
    pairs = size[:, ::2] + size[:, 1::2]
    most = np.maximum(other[::2], other[1::2])
    for pair in np.flatnonzero(pairs.max(0, initial=0) * most.max(1, initial=0) > HIGHEST):
        rows = np.flatnonzero(pairs[:, pair] * most[pair].max() > HIGHEST)
        columns = np.flatnonzero(most[pair] * pairs[:, pair].max() > HIGHEST)
        a, b = left[rows, 2 * pair : 2 * pair + 2], right[2 * pair : 2 * pair + 2, columns]
        sums = a[:, :1] * b[:1] + a[:, 1:] * b[1:]
        found[np.ix_(rows, columns)] += sums - np.clip(sums, LOWEST, HIGHEST)


def _quantizer(value: Value) -> tuple[Node | None, Node | None]:
    """Return the QuantizeLinear that alone reads a value, and the Relu or Clip in front of it."""
    limiter = None
    while len(value.users) == 1:
        reader = value.users[0]
        if reader.op == "QuantizeLinear":
            return reader, limiter
        if reader.op in ("Relu", "Clip") and limiter is None:
            limiter = reader
        elif reader.op not in _MOVES:
            break
        value = reader.results[0]
    return None, limiter


def _writes_unsigned(quantize: Node) -> bool:
    readers = quantize.result.users
    if not _is_int8(quantize) or len(readers) != 1 or readers[0].op != "DequantizeLinear":
        return False
    zeros = [_zero_point(node) for node in (quantize, readers[0])]
    return all(zero.size == 1 for zero in zeros) and bool((zeros[0] == zeros[1]).all())


def _is_int8(node: Node) -> bool:
    return _zero_point(node).dtype == np.int8


def _zero_point(node: Node) -> Array:
    """Return the constant zero point of a QuantizeLinear or DequantizeLinear; empty where it is computed."""
    zero = node.input(2)
    if zero is None:
        return np.zeros(1, np.uint8)
    found = array_of(zero)
    return np.zeros(0) if found is None else found.reshape(-1)


def _is_redundant(limiter: Node, quantize: Node) -> bool:
    """Return whether no code of a grid lies outside the bounds of a Relu or Clip."""
    scale, offset = array_of(quantize.input(1)), _zero_point(quantize)
    if scale is None or scale.size != 1 or offset.size != 1:
        return False
    step, limits = float(scale.reshape(-1)[0]), integer_limits(offset.dtype)
    low, high = ((limit - int(offset[0])) * step for limit in (limits.min, limits.max))
    if limiter.op == "Relu":
        return bool(low >= 0)
    return bool(_bound(limiter, 1, "min", -np.inf) <= low and high <= _bound(limiter, 2, "max", np.inf))


def _bound(clip: Node, index: int, name: str, default: float) -> float:
    operand = clip.input(index)
    if operand is None:
        return float(clip.attribute(name, default))
    bound = array_of(operand)
    return np.nan if bound is None else float(bound.reshape(-1)[0])
