"""Parity of a file that simulates the quantized network in float: its outputs beside the integer reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from qir.backends.integer_reference import DEQUANTIZE, IntegerReference, IntegerRun
from qir.errors import QirError
from qir.module import Module
from qir.ops.qonnx import QONNX_DOMAINS
from qir.passes.parity_layers import LayerParity, makes_codes
from qir.tensor import Array

_STEPS = 2**16
"""An output without a grid of its own is compared in this many steps of its largest value."""


class Simulation:
    """The integer reference of a file whose quantizers are arithmetic on floats.

    The file is raised to fake-quant form and lowered to QCDQ; only outputs are compared, in steps of their grid.

    Raises:
        QirError: the network has no quantizers, in whatever form.
    """

    def __init__(self, module: Module) -> None:
        from qir.passes.lowering.lower_qcdq import LowerQcdq
        from qir.passes.manager import PassContext
        from qir.passes.raising import raise_quantized
        from qir.passes.upgrade_opset import UpgradeOpset

        lowered = raise_quantized(module.clone())
        if not lowered.graph.fake_quants():
            raise QirError("the network has no quantizers: it is no export; quantize and export it first")
        if lowered.opsets.get("", 0) < 13:
            UpgradeOpset(13).run(lowered, PassContext())
        LowerQcdq().run(lowered, PassContext())
        self.lowered = lowered
        self.reference = IntegerReference(lowered)
        self.steps: dict[str, float] = {}

    def run(self, feed: Mapping[str, Array]) -> IntegerRun:
        """One batch: the codes are those of the outputs, by output name."""
        run = self.reference.run(feed)
        for name, value in zip(self.lowered.graph.output_names, self.lowered.graph.outputs, strict=True):
            made = None if value is None else value.producer
            scale = made.input(1) if made is not None and made.op == DEQUANTIZE else None
            if scale is not None and scale.constant is not None and scale.constant.size == 1:
                self.steps[name] = float(scale.constant.numpy().reshape(-1)[0])
            elif name in run.outputs:
                self.steps.setdefault(name, float(np.abs(run.outputs[name]).max(initial=1e-30)) / _STEPS)
        return replace(run, codes=self.codes(run.outputs), float_nodes=())

    def codes(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs in steps of their grid: int64."""
        return {
            name: np.rint(outputs[name].astype(np.float64) / step).astype(np.int64) for name, step in self.steps.items()
        }

    def layers(self) -> list[LayerParity]:
        """One entry an output: nothing is promised of floats."""
        names = [n for n, v in zip(self.lowered.graph.output_names, self.lowered.graph.outputs, strict=True) if v]
        return [
            LayerParity(name, name, "float", "the file simulates every quantizer in float", False) for name in names
        ]


def is_simulation(module: Module) -> bool:
    """Whether a network holds no codes at all, and no fake-quant nodes that were not lowered."""
    return not module.graph.fake_quants() and not any(makes_codes(node) for node in module.graph)


def holds_qonnx(module: Module) -> bool:
    """Whether a network has quantizers of QONNX, which ONNX Runtime does not know."""
    return any(node.domain in QONNX_DOMAINS for node in module.graph)
