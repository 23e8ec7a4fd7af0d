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
from qir.granularity import PER_TENSOR, Granularity, granularity_of
from qir.graph import FAKE_QUANT, QIR_DOMAIN, Graph, Node, Value
from qir.policy import Bits, Policy
from qir.quantized_type import scheme_at
from qir.tensor import Array, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qir.quantizers import QuantParameters, Scheme


class FakeQuant:
    """A typed view of a fake-quant node: reads its attributes, writes them through the node.

    Views are cheap to make, hold nothing but the node, and are equal when their nodes are the same.

    Attributes:
        node: the fake-quant node.

    Raises:
        QirError: the node is not a quantizer.
    """

    __slots__ = ("node",)

    def __init__(self, node: Node) -> None:
        if not node.is_fake_quant:
            raise QirError(f"node {node.label!r}: found op {node.op}; expected a quantizer (qir.fake_quant)")
        self.node = node

    @staticmethod
    def of(value: Value | None) -> FakeQuant | None:
        """Return the quantizer whose result a value is, or None."""
        node = None if value is None else value.producer
        return FakeQuant(node) if node is not None and node.is_fake_quant else None

    @property
    def name(self) -> str:
        """The node's name, which policies name it by."""
        return self.node.name

    @property
    def source(self) -> Value:
        """The float value that is put on the grid."""
        return self.node.operand(0)

    @property
    def result(self) -> Value:
        """The value on the grid."""
        return self.node.results[0]

    @property
    def is_weight(self) -> bool:
        """Whether the quantizer reads a constant."""
        return self.source.is_constant

    # -- what is chosen -----------------------------------------------------------------------------------------

    @property
    def bits(self) -> Bits:
        """The chosen width, or one width per channel; writing it advances only the module's `policy_version`."""
        bits: Bits = self.node.attribute("bits")
        return bits

    @bits.setter
    def bits(self, bits: Bits) -> None:
        self.node.set_attribute("bits", bits)

    @property
    def widths(self) -> tuple[int, ...]:
        """The candidate widths, ascending; writing them keeps the ranges of those that stay.

        Raises:
            QirError: on writing, the quantizer is calibrated and a width was not among its candidates.
        """
        widths: tuple[int, ...] = self.node.attribute("widths", ())
        return widths

    @widths.setter
    def widths(self, widths: Iterable[int]) -> None:
        chosen = tuple(sorted(set(widths)))
        kept = None if self.calibration is None else np.stack([self.ranges(width) for width in chosen])
        self.node.set_attribute("widths", chosen)
        if kept is not None:
            self.node.set_attribute("ranges", Tensor.of(kept))

    @property
    def signed(self) -> bool:
        """Whether negative values are represented."""
        return bool(self.node.attribute("signed", 1))

    @signed.setter
    def signed(self, signed: bool) -> None:
        self.node.set_attribute("signed", int(signed))

    @property
    def narrow(self) -> bool:
        """Whether the most negative code is left out."""
        return bool(self.node.attribute("narrow", 0))

    @property
    def granularity(self) -> Granularity:
        """Which elements share a grid."""
        return granularity_of(self.node.attribute("axis"), self.node.attribute("block"))

    @granularity.setter
    def granularity(self, granularity: Granularity) -> None:
        self.node.set_attribute("axis", granularity.axis)
        self.node.set_attribute("block", granularity.size)

    def scheme_name(self, bits: int) -> str:
        """Return the name of the quantizing scheme at a width."""
        return scheme_at(self.node.attribute("scheme", "uniform"), bits)

    def scheme(self, bits: int) -> Scheme:
        """Return the quantizing scheme at a width.

        Raises:
            QirError: no scheme has the name.
        """
        from qir.quantizers import get_scheme

        return get_scheme(self.scheme_name(bits))

    def set_scheme(self, scheme: str | Mapping[int, str]) -> None:
        """Choose one scheme for all widths, or one for each width."""
        entries = scheme if isinstance(scheme, str) else tuple(f"{width}={name}" for width, name in scheme.items())
        self.node.set_attribute("scheme", entries)

    # -- what is calibrated -------------------------------------------------------------------------------------

    @property
    def calibration(self) -> Array | None:
        """The (low, high) of every candidate width: float32 [widths, channels or 1, 2]; None before calibration.

        Writing it clears `is_stale`; writing None forgets it.

        Raises:
            QirError: on writing, the array is not finite or has another shape.
        """
        tensor: Tensor | None = self.node.attribute("ranges")
        return None if tensor is None else tensor.numpy()

    @calibration.setter
    def calibration(self, ranges: Array | None) -> None:
        if ranges is None:
            self.node.set_attribute("ranges", None)
            return
        array, widths = np.asarray(ranges, dtype=np.float32), self.widths
        if array.ndim != 3 or array.shape[0] != len(widths) or array.shape[2] != 2 or not np.isfinite(array).all():
            expected = f"finite [widths={len(widths)}, channels, 2]"
            raise QirError(f"quantizer {self.name!r}: found ranges {array.shape}; expected {expected}")
        self.node.set_attribute("ranges", Tensor.of(array))
        self.node.set_attribute("stale", None)

    @property
    def is_calibrated(self) -> bool:
        """Whether every candidate width has ranges, stale or not."""
        return "ranges" in self.node.attributes

    @property
    def is_stale(self) -> bool:
        """Whether the weight changed after calibration."""
        return bool(self.node.attribute("stale", 0))

    @is_stale.setter
    def is_stale(self, stale: bool) -> None:
        self.node.set_attribute("stale", 1 if stale else None)

    def ranges(self, bits: int) -> Array:
        """Return the calibrated (low, high) at a width: float32 [channels or 1, 2].

        Raises:
            QirError: the quantizer is not calibrated, or the width is not among the candidates.
        """
        calibration, widths = self.calibration, self.widths
        if calibration is None:
            raise QirError(f"quantizer {self.name!r} is not calibrated: run the pass calibrate first")
        if bits not in widths:
            raise QirError(
                f"quantizer {self.name!r}: {bits} bits are not among its widths {list(widths)}: calibrate again"
            )
        ranges: Array = calibration[widths.index(bits)]
        return ranges

    def set_ranges(self, bits: int, ranges: Array) -> None:
        """Store the (low, high) of one width of a calibrated quantizer: float32 [channels or 1, 2]; clears `is_stale`.

        Raises:
            QirError: as `ranges`, or they are not finite or of another shape.
        """
        before = self.ranges(bits)
        if np.shape(ranges) != before.shape:
            raise QirError(f"quantizer {self.name!r}: found ranges {np.shape(ranges)}; expected {before.shape}")
        rest = {width: self.ranges(width) for width in self.widths} | {bits: ranges}
        self.calibration = np.stack([rest[width] for width in self.widths])

    def levels(self, bits: int) -> Array | None:
        """Return the stored levels at a width, in the order of codes: float32 [channels or 1, codes].

        None without any.
        """
        tensor: Tensor | None = self.node.attribute(f"levels_{bits}")
        return None if tensor is None else tensor.numpy()

    def set_levels(self, bits: int, levels: Array) -> None:
        """Store the levels of a width, for schemes whose grid does not follow from a range (`Scheme.stores_levels`).

        Args:
            bits: the width.
            levels: float32 [channels or 1, codes], in the order of codes.

        Raises:
            QirError: the levels are not finite, or there are more than the width has codes.
        """
        array = np.asarray(levels, dtype=np.float32)
        if array.ndim != 2 or not 1 <= array.shape[1] <= 1 << bits or not np.isfinite(array).all():
            raise QirError(f"quantizer {self.name!r}: levels {array.shape} are not finite [channels, 1 to {1 << bits}]")
        self.node.set_attribute(f"levels_{bits}", Tensor.of(array))

    # -- what follows -------------------------------------------------------------------------------------------

    def grid(self, bits: int | None = None) -> QuantParameters:
        """Return the grid at a width (the chosen bits by default).

        Raises:
            QirError: the quantizer is not calibrated, its ranges are stale, it has one width per channel and none is
                asked for, or the width is not a candidate.
        """
        chosen = self.bits if bits is None else bits
        if not isinstance(chosen, int):
            raise QirError(f"quantizer {self.name!r} has one width per channel: ask for the grid of each (`grids`)")
        ranges = self.ranges(chosen)
        if self.is_stale:
            raise QirError(f"quantizer {self.name!r}: its weight changed after calibration: calibrate again")
        scheme = self.scheme(chosen)
        if scheme.stores_levels and (levels := self.levels(chosen)) is not None:
            return scheme.parameters_from_levels(levels, chosen, self.signed)
        return scheme.parameters(ranges, chosen, self.signed, self.narrow)

    def grids(self) -> dict[int, QuantParameters]:
        """Return the grid of every width that the chosen bits name, pruned channels (0 bits) left out.

        Raises:
            QirError: as `grid`.
        """
        chosen = {self.bits} if isinstance(self.bits, int) else set(self.bits) - {0}
        return {width: self.grid(width) for width in sorted(chosen)}

    def codes(self, x: Array) -> Array:
        """Return the codes of values on the grid at the chosen width: int32, the shape of `x`.

        Raises:
            QirError: as `grid`, or the granularity does not fit the values' shape.
        """
        from qir.quantizers import kernels

        granularity = self.granularity
        rows, axis = granularity.rows(x)
        return granularity.restored(kernels.quantize(rows, self.grid(), axis), x.shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FakeQuant) and other.node is self.node

    def __hash__(self) -> int:
        return hash(self.node)

    def __repr__(self) -> str:
        return f"FakeQuant({self.node!r}: {self.result.type})"


def make_fake_quant(
    value: Value,
    *,
    name: str,
    bits: Bits,
    widths: Iterable[int],
    signed: bool,
    narrow: bool = False,
    scheme: str = "uniform",
    granularity: Granularity = PER_TENSOR,
) -> Node:
    """Return a fake-quant node on `value`, not yet inserted and not yet calibrated."""
    attributes: dict[str, object] = {
        "bits": bits,
        "signed": int(signed),
        "narrow": int(narrow),
        "scheme": scheme,
        "widths": tuple(sorted(set(widths))),
    }
    if granularity.axis is not None:
        attributes["axis"] = granularity.axis
    if granularity.size is not None:
        attributes["block"] = granularity.size
    return Node(FAKE_QUANT, (value,), (name + ".quantized",), domain=QIR_DOMAIN, name=name, attributes=attributes)


def quantizers(graph: Graph) -> dict[str, FakeQuant]:
    """Return the quantizers of a graph by name, in order.

    Raises:
        QirError: two have the same name, or one has none.
    """
    found: dict[str, FakeQuant] = {}
    for node in graph.fake_quants():
        if not node.name or node.name in found:
            raise QirError(f"quantizer {node}: names of quantizers are unique and not empty; rename it")
        found[node.name] = FakeQuant(node)
    return found


def policy_of(graph: Graph) -> Policy:
    """Return the bits that the graph holds now."""
    return Policy({name: quantizer.bits for name, quantizer in quantizers(graph).items()})
