"""What the rules of raising share: grids of codes, weights that are made, names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from qir.clock import Clock
from qir.fake_quant import FakeQuant, make_fake_quant
from qir.granularity import granularity_of
from qir.graph import Graph, Node, Value
from qir.labels import unique_labels
from qir.module import Module
from qir.passes.analysis.affine import Reject
from qir.passes.analysis.constants import array_of, frozen
from qir.passes.raising.grids import MIDDLE, CodeGrid, QuantizerSpec, bipolar_spec, spec_of
from qir.rewriting.engine import Match, Plan, Rewriter
from qir.support.json_text import parse_json
from qir.tensor import Array
from qir.types import DType

_SUFFIXES = (
    ".quantize",
    ".dequantize",
    ".quantized",
    ".codes",
    ".transposed",
    "_QuantizeLinear",
    "_DequantizeLinear",
    "_quantized",
    "_quant",
)
_CODES = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65535),
    "int16": (-32768, 32767),
    "uint4": (0, 15),
    "int4": (-8, 7),
    "uint2": (0, 3),
    "int2": (-2, 1),
}


Twin = Callable[[Rewriter], Value]
"""Makes the float value that codes stand for, or hands out the one that is there."""


class RaiseState:
    """What the rules of raising share: the grids of codes, the weights that are made, and names.

    Attributes:
        clock: gives out names; the graphs of a network share one.
        widths: candidate widths besides the file's own.
        policy: the width of each quantizer, where the file says so.
        codes: the grid of every value that holds the codes of a raised quantizer; it is the result of a QuantizeLinear
            that reads the float value on that grid.
        made: names of the quantizers made, in all graphs of the network.
        left: nodes that are not understood, and why.
    """

    def __init__(
        self,
        clock: Clock,
        widths: tuple[int, ...],
        policy: Mapping[str, int] | None = None,
        made: list[str] | None = None,
    ) -> None:
        self.clock = clock
        self.widths = widths
        self.policy = dict(policy or {})
        self.codes: dict[Value, CodeGrid] = {}
        self.made = [] if made is None else made
        self.left: dict[str, str] = {}
        self._labels: dict[Node, str] = {}
        self._weights: dict[tuple[Graph, Value, bytes, bytes, int | None], Value] = {}

    def note_names(self, graph: Graph) -> None:
        """Remember what the nodes are called before rules change them."""
        self._labels |= unique_labels(graph)

    def leave(self, node: Node, reason: str) -> None:
        """Note that a node stays."""
        self.left[self._labels.get(node) or node.label] = reason

    def twin(self, value: Value | None, grid: CodeGrid, reader: Node) -> Twin | Reject:
        """Return the float twin of codes that a node reads with `grid`; constants get one."""
        if value is None:
            return Reject("an operand is missing", reader)
        known, maker = self.codes.get(value), value.producer
        if known is not None and maker is not None:
            if not known.same_scale(grid):
                return Reject(f"{value.name!r} is read with another scale", value)
            return lambda _: maker.operand(0)
        codes = array_of(value)
        if codes is None:
            return Reject(f"{value.name!r} holds codes of unknown origin", value)
        return self.weight(value, codes, grid, reader)

    def weight(self, value: Value, codes: Array, grid: CodeGrid, reader: Node) -> Twin | Reject:
        """Return the fake-quantized float constant for constant codes, one for all nodes that read them alike."""
        name = base_name(value.name)
        label = name if name.endswith("weight") else f"{name}.weight"
        key = (reader.scope, value, grid.scale.tobytes(), grid.zero_point.tobytes(), grid.axis)
        spec = None if key in self._weights else weight_spec(grid, codes, self.policy.get(label, 0))
        if isinstance(spec, Reject):
            return spec

        def make(rewriter: Rewriter) -> Value:
            if key not in self._weights and spec is not None:
                graph = reader.scope
                constant = graph.add_constant(name, frozen(grid.values(codes)))
                made = rewriter.insert(self.quantizer(constant, spec, label), before=next(iter(graph)))
                self._weights[key] = made.result
            return self._weights[key]

        return make

    def quantizer(self, value: Value, spec: QuantizerSpec, name: str) -> Node:
        """Return a fake-quant node on a value, calibrated, not yet inserted."""
        unique = self.clock.unique_name(name) if name in self.made else name
        widths = sorted({spec.bits, *self.widths})
        made = make_fake_quant(
            value,
            name=unique,
            bits=spec.bits,
            widths=widths,
            signed=spec.signed,
            narrow=spec.narrow,
            granularity=granularity_of(spec.axis),
        )
        made.result.name = self.clock.unique_name(f"{unique}.fake_quantized")
        quantizer = FakeQuant(made)
        quantizer.set_scheme({width: spec.scheme if width == spec.bits else "uniform" for width in widths})
        quantizer.calibration = np.stack([spec.ranges if bits == spec.bits else spec.edges for bits in widths])
        self.made.append(unique)
        return made

    def plan(self, match: Match, spec: QuantizerSpec, name: str) -> Plan:
        """Return what puts a quantizer of the match's value `data` in the place of the match's root."""

        def change(rewriter: Rewriter) -> None:
            made = rewriter.insert(self.quantizer(match["data"], spec, name), before=match.root)
            rewriter.replace(match.root, [], made.results)

        return change


def written_policy(module: Module) -> dict[str, int]:
    """Return the width of each quantizer as the exported file itself says it; empty for files of other tools."""
    try:
        found = parse_json(module.metadata.get("qir.policy", "{}"))
        return {str(name): int(bits) for name, bits in found.items() if isinstance(bits, int)}
    except (ValueError, AttributeError):
        return {}


def base_name(name: str) -> str:
    """Return a name without what quantizers append to it."""
    for suffix in _SUFFIXES:
        if name.endswith(suffix) and name != suffix:
            return base_name(name.removesuffix(suffix))
    return name


def code_limits(dtype: DType | None) -> tuple[int, int] | None:
    """Return the smallest and largest code of an element type; None for types that hold no codes."""
    return None if dtype is None else _CODES.get(dtype.label)


def grid_at(node: Node, scale: int, zero_point: int, axis: int | None, dtype: DType | None) -> CodeGrid | Reject:
    """Return the grid that operands `scale` and `zero_point` of a node give.

    Args:
        node: the node.
        scale: index of the scale operand.
        zero_point: index of the zero point operand; left out means 0.
        axis: channel axis when there is more than one scale.
        dtype: element type of the codes; None takes the zero point's.
    """
    scales, zeros = array_of(node.input(scale)), array_of(node.input(zero_point))
    if scales is None or (zeros is None and node.input(zero_point) is not None):
        return Reject("its scale or zero point is not constant")
    if scales.dtype.name != "float32" or scales.ndim > 1:
        return Reject(
            f"its scale is {scales.dtype} of shape {scales.shape}: only float32 per tensor or channel is raised"
        )
    label = dtype.label if dtype is not None else "uint8" if zeros is None else str(zeros.dtype.name)
    if label not in _CODES:
        return Reject(f"its codes are {label}")
    zero = np.zeros(scales.size, np.int64) if zeros is None else zeros.astype(np.int64).reshape(-1)
    low, high = _CODES[label]
    return CodeGrid(scales.reshape(-1), zero, axis if scales.size > 1 else None, low, high)


def element_of(value: Value | None) -> DType | None:
    """Return the element type of a value, None when unknown."""
    return None if value is None else value.dtype


def weight_spec(grid: CodeGrid, codes: Array, least: int = 0) -> QuantizerSpec | Reject:
    """Return the fake-quant attributes for constant codes: the narrowest width that holds them.

    -1 and +1 alone are one bit.

    Codes of uint8 around zero point 128 are those of int8 around 0.

    Args:
        grid: the grid of the file.
        codes: the codes.
        least: width that the file names; wider codes win.
    """
    grid, codes = _centred(grid, codes.astype(np.int64))
    if least <= 1 and grid.low_code < 0 and not grid.zero_point.any() and (np.abs(codes) == 1).all():
        return bipolar_spec(grid.scale, grid.axis)
    return spec_of(_tightened(grid, codes, least))


def _centred(grid: CodeGrid, codes: Array) -> tuple[CodeGrid, Array]:
    """Return the signed grid of the same values, and its codes, where all zero points of uint8 codes are 128."""
    if (grid.low_code, grid.high_code) != (0, 255) or (grid.zero_point != MIDDLE).any():
        return grid, codes
    return grid.moved(-MIDDLE), codes - MIDDLE


def _tightened(grid: CodeGrid, codes: Array, least: int) -> CodeGrid:
    """Return the grid of the smallest width, `least` or more, that holds all codes and zero points."""
    numbers = np.concatenate([codes.astype(np.int64).reshape(-1), grid.zero_point])
    low, high = int(numbers.min(initial=0)), int(numbers.max(initial=0))
    signed = grid.low_code < 0
    for bits in range(max(2 if signed else 1, least), 17):
        top = (1 << (bits - signed)) - 1
        if high > top:
            continue
        if signed and low >= -top and not grid.zero_point.any():
            return CodeGrid(grid.scale, grid.zero_point, grid.axis, -top, top)
        if low >= (-top - 1 if signed else 0):
            return CodeGrid(grid.scale, grid.zero_point, grid.axis, -top - 1 if signed else 0, top)
    return grid
