"""Parity of a file without codes between its layers: its outputs next to what its quantizers say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qir.backends.execution.executor import Run
from qir.backends.execution.pairs import FAR, MOST
from qir.errors import QirError
from qir.module import Module
from qir.passes.data.samples import samples_of
from qir.passes.infrastructure.contract import PassContext
from qir.passes.parity.executors import ReferenceNetwork
from qir.passes.parity.judging.comparison import Divergence, count, divergence, flipped
from qir.passes.parity.layers import LayerParity, code_values
from qir.tensor import Array
from qir.tracing import quantizer_of

_STEPS = 2**16
"""An output without a grid of its own is compared in this many steps of its largest value."""


class Simulation:
    """The reference of a file whose quantizers are arithmetic on floats, or whose weights alone are quantized.

    The file is raised to fake-quant form; only outputs are compared, in steps of their grid. Rounding ties of one
    quantizer reach the next, so that differences count as ties where the outputs stand for the same network (`FAR`).

    Attributes:
        layers: one entry an output: nothing is promised of floats.
        samples, first, flips: as `Comparison` of files with codes.

    Raises:
        QirError: the network has no quantizers, in whatever form.
    """

    def __init__(self, module: Module) -> None:
        from qir.passes.raising import raise_quantized

        context = PassContext()
        self.raised = raise_quantized(module.clone(), context)
        if not self.raised.graph.fake_quants():
            why = context.reports["raise-quantized"].reasons
            raise QirError(
                f"the network has no quantizers{f' with fixed grids ({why})' if why else ''}: it is not an export; "
                "quantize and export it first"
            )
        self.reference = ReferenceNetwork(self.raised)
        self.steps: dict[str, float] = {}
        self.layers = self._layers()
        self.samples, self.flips = 0, dict[str, int]()
        self.first: dict[str, Divergence] = {}

    def add(self, feed: Mapping[str, Array], found: Mapping[str, Run]) -> dict[str, Array]:
        """Compare one batch: `found` is what each engine computed; returns the reference's outputs."""
        outputs = self.reference.run(feed).outputs
        self._learn_steps(outputs)
        exact = self.codes(outputs)
        for layer in self.layers:
            layer.codes += exact[layer.value].size
        for engine, given in found.items():
            codes = self.codes(given.outputs)
            for layer in self.layers:
                self._compare(layer, engine, exact[layer.value], codes[layer.value])
            self.flips.update(flipped(self.flips.get(engine), engine, outputs, given.outputs))
        self.samples += samples_of(feed)
        return outputs

    def codes(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return outputs in steps of their grid: int64."""
        return {
            name: np.rint(outputs[name].astype(np.float64) / step).astype(np.int64) for name, step in self.steps.items()
        }

    def _compare(self, layer: LayerParity, engine: str, expected: Array, found: Array) -> None:
        difference = np.abs(found - expected)
        wrong, far = difference > 0, difference > FAR * np.abs(expected).max(initial=0)
        count(layer, engine, difference)
        if far.sum() > MOST * far.size:
            self.first.setdefault(engine, divergence(layer, far, expected, found, self.samples))
        else:
            layer.ties[engine] = layer.ties.get(engine, 0) + int(wrong.sum())

    def _learn_steps(self, outputs: Mapping[str, Array]) -> None:
        for name, value in zip(self.raised.graph.output_names, self.raised.graph.outputs, strict=True):
            found = quantizer_of(value)
            if found is not None and isinstance(found.bits, int) and (scale := found.grid().scale).size == 1:
                self.steps[name] = float(scale[0])
            elif name in outputs:
                self.steps.setdefault(name, float(np.abs(outputs[name]).max(initial=1e-30)) / _STEPS)

    def _layers(self) -> list[LayerParity]:
        names = [n for n, v in zip(self.raised.graph.output_names, self.raised.graph.outputs, strict=True) if v]
        weights = all(node.operands[0].is_constant for node in self.raised.graph.fake_quants())
        reason = "only weights are quantized" if weights else "the file simulates every quantizer in float"
        return [LayerParity(name, name, "float", reason, False) for name in names]


def is_simulation(module: Module) -> bool:
    """Tell whether a network holds no codes that depend on an input, and no fake-quant nodes."""
    return not module.graph.fake_quants() and not code_values(module)
