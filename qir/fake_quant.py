"""`qir.fake_quant`: a tensor is put on the grid that its bits name, and stays float.

Its attributes are the truth about bits; the `QuantType` of its result is derived from them and never set.

| attribute | kind | meaning |
| --- | --- | --- |
| bits | INT, or INTS along `axis` | chosen width, 0 = pruned channel |
| signed, narrow | INT | codes as in `qir.types.code_range` |
| scheme | STRING, or STRINGS `width=name` | quantizing scheme, one for all widths or one a width |
| axis | INT, absent = per tensor | channel axis, or with `block` the axis along which blocks lie |
| block | INT, absent = no blocks | elements along `axis` that share a range (ONNX's `block_size`) |
| widths | INTS, ascending | candidate widths |
| ranges | TENSOR float32 [widths, channels, blocks or 1, 2] | (low, high) a width; absent before calibration |
| levels_N | TENSOR float32 [channels or 1, codes] | levels at N bits, for schemes that store them (k-means, residual) |
| stale | INT | 1 when the quantized weight changed after calibration |
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qir.errors import QirError
from qir.graph import FAKE_QUANT, QIR_DOMAIN, Graph, Node, Value
from qir.policy import Bits, Policy
from qir.quantized_type import scheme_at
from qir.tensor import Array, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qir.quantizers import QuantParameters


def make_fake_quant(
    value: Value,
    *,
    name: str,
    bits: Bits,
    widths: Iterable[int],
    signed: bool,
    narrow: bool = False,
    scheme: str = "uniform",
    axis: int | None = None,
    block: int | None = None,
) -> Node:
    """A fake-quant node on `value`, not yet inserted and not yet calibrated."""
    attributes: dict[str, object] = {
        "bits": bits,
        "signed": int(signed),
        "narrow": int(narrow),
        "scheme": scheme,
        "widths": tuple(sorted(set(widths))),
    }
    if axis is not None:
        attributes["axis"] = axis
    if block is not None:
        attributes["block"] = block
    return Node(FAKE_QUANT, (value,), (name + ".quantized",), domain=QIR_DOMAIN, name=name, attributes=attributes)


def bits_of(node: Node) -> Bits:
    """The chosen width, or one width per channel."""
    bits: Bits = node.attribute("bits")
    return bits


def scheme_of(node: Node, bits: int) -> str:
    """Name of the quantizing scheme at a width."""
    return scheme_at(node.attribute("scheme", "uniform"), bits)


def ranges_at(node: Node, bits: int) -> Array | None:
    """The calibrated (low, high) at a width: float32 [channels or 1, 2]; None before calibration.

    Raises:
        QirError: the width is not among the candidates.
    """
    tensor: Tensor | None = node.attribute("ranges")
    if tensor is None:
        return None
    widths = node.attribute("widths")
    if bits not in widths:
        raise QirError(f"quantizer {node.name!r}: {bits} bits are not among its widths {list(widths)}: calibrate again")
    array: Array = tensor.numpy()[list(widths).index(bits)]
    return array


def set_ranges(node: Node, ranges: Array) -> None:
    """Store the (low, high) of every candidate width: float32 [widths, channels or 1, 2]; clears `stale`."""
    widths = node.attribute("widths")
    array = np.asarray(ranges, dtype=np.float32)
    if array.ndim != 3 or array.shape[0] != len(widths) or array.shape[2] != 2 or not np.isfinite(array).all():
        expected = f"finite [widths={len(widths)}, channels, 2]"
        raise QirError(f"quantizer {node.name!r}: found ranges {array.shape}; expected {expected}")
    node.set_attribute("ranges", Tensor.of(array))
    node.set_attribute("stale", None)


def rows_of(node: Node, values: Array) -> tuple[Array, int | None]:
    """Values and channel axis as quantizing schemes take them: as they are, or with blocks as rows, one a block.

    Args:
        node: fake-quant node.
        values: what it quantizes.
    """
    from qir.quantizers.blocks import to_rows

    axis, block = node.attribute("axis"), node.attribute("block")
    return (values, axis) if block is None else (to_rows(values, axis, block), 0)


def restored(node: Node, rows: Array, shape: tuple[int, ...]) -> Array:
    """What `rows_of` made rows of, in its shape again."""
    from qir.quantizers.blocks import from_rows

    block = node.attribute("block")
    return rows if block is None else from_rows(rows, shape, node.attribute("axis"), block)


def set_levels(node: Node, bits: int, levels: Array) -> None:
    """Store the levels of a width, in the order of codes: float32 [channels or 1, codes].

    For schemes whose grid does not follow from a range (`Scheme.stores_levels`).
    """
    array = np.asarray(levels, dtype=np.float32)
    if array.ndim != 2 or not 1 <= array.shape[1] <= 1 << bits or not np.isfinite(array).all():
        raise QirError(f"quantizer {node.name!r}: levels {array.shape} are not finite [channels, 1 to {1 << bits}]")
    node.set_attribute(f"levels_{bits}", Tensor.of(array))


def quantizers(graph: Graph) -> dict[str, Node]:
    """The fake-quant nodes of a graph by name, in order.

    Raises:
        QirError: two have the same name, or one has none.
    """
    found: dict[str, Node] = {}
    for node in graph.fake_quants():
        if not node.name or node.name in found:
            raise QirError(f"quantizer {node}: names of quantizers are unique and not empty; rename it")
        found[node.name] = node
    return found


def policy_of(graph: Graph) -> Policy:
    """The bits that the graph holds now."""
    return Policy({name: bits_of(node) for name, node in quantizers(graph).items()})


def parameters_of(node: Node, bits: int | None = None) -> QuantParameters:
    """The grid of a calibrated quantizer at a width (its chosen bits by default).

    Raises:
        QirError: the quantizer is not calibrated, its ranges are stale, or the width is not a candidate.
    """
    from qir.quantizers import get_scheme

    chosen = bits_of(node) if bits is None else bits
    if not isinstance(chosen, int):
        raise QirError(f"quantizer {node.name!r} has one width per channel: ask `channel_parameters_of`")
    ranges = ranges_at(node, chosen)
    if ranges is None:
        raise QirError(f"quantizer {node.name!r} is not calibrated: run the pass calibrate first")
    if node.attribute("stale", 0):
        raise QirError(f"quantizer {node.name!r}: its weight changed after calibration: calibrate again")
    scheme, signed = get_scheme(scheme_of(node, chosen)), bool(node.attribute("signed", 1))
    levels: Tensor | None = node.attribute(f"levels_{chosen}")
    if scheme.stores_levels and levels is not None:
        return scheme.parameters_from_levels(levels.numpy(), chosen, signed)
    return scheme.parameters(ranges, chosen, signed, bool(node.attribute("narrow", 0)))
