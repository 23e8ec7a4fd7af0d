"""Comparison of engines with the integer reference: differences by tensor of codes, and what each of them is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from qir.backends.execution.executor import Run
from qir.backends.integer.reference import QUANTIZE, IntegerReference, IntegerRun
from qir.graph import Node
from qir.module import Module
from qir.passes.data.samples import samples_of
from qir.passes.parity.judging.walk import Judged, Walk
from qir.passes.parity.layers import LayerParity, code_values
from qir.tensor import Array

FLOAT_ERROR = 2.0**-15
"""Largest error of a float32 value, as a part of the largest magnitude in its tensor: 2^9 roundings of 2^-24."""

OUTPUT_ERROR = 1e-3
"""Difference of outputs on floats, as a part of the largest one, from which on they are others: codes come before them,
so that nothing but operators on floats, and products that give floats, lie in between."""

SATURATION, ROUNDING, OTHER = (
    "saturation: products added in pairs leave int16",
    "a kernel that rounds otherwise",
    "a kernel that computes something else",
)
"""Why codes differ."""


@dataclass(frozen=True)
class Divergence:
    """The first code that differs: value and node, index of the element, both codes, and why they differ."""

    value: str
    node: str
    index: tuple[int, ...]
    expected: int
    found: int
    reason: str = OTHER

    @property
    def place(self) -> str:
        """Node, index, found and expected code, for messages."""
        return f"{self.node} ({','.join(map(str, self.index))}): {self.found}, reference {self.expected}"


def is_tie(position: Array, found: Array) -> Array:
    """Return which codes are nearest to a value that lies within float error of the reference's.

    Args:
        position: the reference's values in steps of the grid before rounding, zero point added, any shape.
        found: codes of the same shape.

    Returns:
        bool of the same shape: |found - position| <= 1/2 + `FLOAT_ERROR` · max|position|. The code next to the
        reference's own fulfils it only where the value lies so close to the half step between the two.
    """
    error = FLOAT_ERROR * float(np.abs(position).max(initial=0))
    return np.asarray(np.abs(found - position) <= 0.5 + error)


@dataclass
class Deviation:
    """Codes of a tensor and engine, in one batch, that are not what the reference computes from the engine's own codes.

    Attributes:
        found: codes of the engine, int64.
        expected: codes of the reference.
        ties: which of them are rounding ties of a float operator.
        wrong: which of them are not.
        saturated: which of the wrong ones are what pairs of products clipped to int16 give.
    """

    found: Array
    expected: Array
    ties: Array
    wrong: Array
    saturated: Array

    @property
    def faults(self) -> Array:
        """Which codes nothing explains."""
        return np.asarray(self.wrong & ~self.saturated)


class EngineComparison:
    """Engines and variants of the reference against the reference, batch by batch.

    Args:
        module: the exported network.
        layers: its tensors of codes; the counts are written into them.
        engines: names of what runs the file.
        variants: references in another arithmetic by name.
        known: the engines whose kernels the layers tell; the others compute on floats what is not an operator on
            codes.
        exact: the engines that round what the reference rounds: the reference itself, in its own arithmetic.
        strict: float32 holds every sum: nothing is a rounding tie.

    Attributes:
        samples: number of samples so far.
        first: the first fault of each engine, and the first difference of each variant.
        flips: samples whose largest output differs, by engine.
        float_nodes: nodes that the reference computes on floats.
        deviations: of the last batch, by engine and name of the value.
        outputs_off: elements of outputs that are off what the reference computes from the engine's own codes, by
            engine (`outputs_off`).
    """

    def __init__(
        self,
        module: Module,
        layers: list[LayerParity],
        engines: tuple[str, ...],
        variants: Mapping[str, IntegerReference],
        *,
        known: tuple[str, ...] = (),
        exact: tuple[str, ...] = (),
        strict: bool = False,
    ) -> None:
        codes = code_values(module)
        self.layers, self._known, self._exact, self._strict = layers, known, exact, strict
        self._by_value = {layer.value: layer for layer in layers}
        self._walk = Walk(module, codes, IntegerReference(module), variants)
        self._clipping = partial(Walk, module, codes, IntegerReference(module, saturating=True))
        self.samples = 0
        self.first: dict[str, Divergence | None] = dict.fromkeys((*engines, *variants))
        self.flips: dict[str, int] = {}
        self.float_nodes: tuple[str, ...] = ()
        self.outputs_off: dict[str, int] = {}
        self.deviations: dict[tuple[str, str], Deviation] = {}

    def add(self, feed: Mapping[str, Array], found: Mapping[str, Run]) -> IntegerRun:
        """Compare one batch: `found` is what each engine computed; returns the reference's run."""
        self.deviations = {}
        run, others = self._walk.run(feed, found, self._judge)
        variants = {name: other for name, other in others.items() if name not in found}
        self.float_nodes = run.float_nodes
        for layer in self.layers:
            layer.codes += run.codes[layer.value].size
            for name, variant in variants.items():
                self._differ(name, layer, run.codes[layer.value], variant.codes[layer.value])
        off = {name: outputs_off(others[name].outputs, ours.outputs) for name, ours in found.items()}
        self._close(feed, found, off)
        for name, end in {**found, **variants}.items():
            self.flips.update(flipped(self.flips.get(name), name, run.outputs, end.outputs))
        self.samples += samples_of(feed)
        return run

    def _judge(self, judged: Judged) -> None:
        layer, engine = self._by_value[judged.value], judged.engine
        layer.promised &= not judged.floating
        if np.array_equal(judged.expected, judged.found):
            count(layer, engine)
            return
        expected, found = judged.expected.astype(np.int64), judged.found.astype(np.int64)
        wrong = np.asarray(found != expected)
        ties = np.zeros_like(wrong)
        count(layer, engine, found - expected)
        if not self._strict and (judged.floating or self._on_floats(judged.node, layer, engine)):
            position = judged.position()
            ties = ties if position is None else wrong & is_tie(position, found)
            layer.ties[engine] = layer.ties.get(engine, 0) + int(ties.sum())
            wrong &= ~ties
        self.deviations[engine, judged.value] = Deviation(found, expected, ties, wrong, np.zeros_like(wrong))

    def _on_floats(self, node: Node, layer: LayerParity, engine: str) -> bool:
        """Return whether an engine computes on floats what a node rounds."""
        if engine in self._exact:
            return False
        if engine in self._known:
            return layer.kernel == "float"
        return node.op == QUANTIZE and layer.kernel != "border"

    def _close(self, feed: Mapping[str, Array], found: Mapping[str, Run], off: Mapping[str, int]) -> None:
        """Find what clipped sums explain, and note the first fault of each engine; `off`: outputs, by engine."""
        wrong = {place: rest for place, rest in self.deviations.items() if rest.wrong.any()}
        engines = dict.fromkeys((*(engine for engine, _ in wrong), *(name for name in off if off[name])))
        if engines:
            _, clipped = self._clipping().run(feed, {name: found[name] for name in engines}, self._explain)
            for name in engines:
                if left := min(off[name], outputs_off(clipped[name].outputs, found[name].outputs)):
                    self.outputs_off[name] = self.outputs_off.get(name, 0) + left
        for (engine, value), rest in wrong.items():
            layer = self._by_value[value]
            layer.saturated[engine] = layer.saturated.get(engine, 0) + int(rest.saturated.sum())
            self._note(engine, layer, rest.faults, rest.expected, rest.found)

    def _explain(self, judged: Judged) -> None:
        rest = self.deviations.get((judged.engine, judged.value))
        if rest is not None and rest.wrong.any():
            rest.saturated = rest.wrong & (judged.expected == rest.found)

    def _differ(self, name: str, layer: LayerParity, expected: Array, found: Array) -> None:
        """Count what a variant of the reference computes otherwise."""
        if np.array_equal(expected, found):
            count(layer, name)
            return
        wide, other = expected.astype(np.int64), found.astype(np.int64)
        count(layer, name, other - wide)
        self._note(name, layer, np.asarray(wide != other), wide, other)

    def _note(self, engine: str, layer: LayerParity, wrong: Array, expected: Array, found: Array) -> None:
        if self.first[engine] is None and wrong.any():
            self.first[engine] = divergence(layer, wrong, expected, found, self.samples)


def outputs_off(expected: Mapping[str, Array], found: Mapping[str, Array]) -> int:
    """Return elements of float outputs that differ by more than `OUTPUT_ERROR` of the largest one."""
    total = 0
    for name, output in expected.items():
        if output.dtype.kind == "f":
            scale = float(np.abs(output, where=np.isfinite(output), out=np.zeros_like(output)).max(initial=0))
            near = np.isclose(found[name], output, rtol=0, atol=OUTPUT_ERROR * scale, equal_nan=True)
            total += int((~near).sum())
    return total


def count(layer: LayerParity, engine: str, difference: Array | None = None) -> None:
    """Add the differences of one batch to a layer's counts; None where all codes are equal."""
    wrong, largest = (0, 0) if difference is None else (np.count_nonzero(difference), np.abs(difference).max(initial=0))
    layer.mismatches[engine] = layer.mismatches.get(engine, 0) + int(wrong)
    layer.largest[engine] = max(layer.largest.get(engine, 0), int(largest))


def divergence(layer: LayerParity, wrong: Array, expected: Array, found: Array, before: int) -> Divergence:
    """Return the first wrong code; `before` samples came in earlier batches."""
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    code, other = int(expected[index]), int(found[index])
    reason = ROUNDING if np.abs(found - expected)[wrong].max() <= 1 else OTHER
    index = (index[0] + before, *index[1:]) if index else index
    return Divergence(layer.value, layer.node, index, code, other, reason)


def flipped(
    before: int | None, engine: str, expected: Mapping[str, Array], found: Mapping[str, Array]
) -> dict[str, int]:
    """Return samples of all batches so far whose largest output differs, by engine.

    Empty without outputs [N, classes].
    """
    total = before
    for name, output in expected.items():
        if output.ndim == 2:
            total = (total or 0) + int((output.argmax(-1) != found[name].argmax(-1)).sum())
    return {} if total is None else {engine: total}
