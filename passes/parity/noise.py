"""Noise of an exported network's layers: its dequantized codes next to the float network's values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from qir.backends.execution.executor import Run
from qir.backends.execution.session import OrtSession
from qir.backends.integer.operators import operator_of
from qir.errors import DataError, QirError
from qir.graph import Node, Value
from qir.module import Module
from qir.passes.parity.correspondence import correspondence
from qir.passes.parity.layers import LayerParity, code_values
from qir.tensor import Array


@dataclass
class Noise:
    """Sums of squares of signal and noise, by name."""

    signal: dict[str, float] = field(default_factory=dict)
    noise: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, exact: Array, found: Array) -> None:
        """Add one batch of exact and found values."""
        wanted = exact.astype(np.float64)
        self.signal[name] = self.signal.get(name, 0.0) + float((wanted**2).sum())
        self.noise[name] = self.noise.get(name, 0.0) + float(((found - wanted) ** 2).sum())

    def decibels(self, name: str) -> float | None:
        """Return the ratio, at most 200 dB; None without a signal."""
        signal = self.signal.get(name, 0.0)
        return float(10 * np.log10(signal / max(self.noise.get(name, 0.0), signal * 1e-20))) if signal else None


class FloatNetwork:
    """The float network's values next to the dequantized codes: sums of squares of signal and noise.

    Args:
        against: the float network.
        module: the exported network that was made from it.
        layers: the tensors of codes of the exported network.

    Raises:
        DataError: the float network has an input that the exported one lacks.
    """

    def __init__(self, against: Module, module: Module, layers: Iterable[LayerParity]) -> None:
        from qir.passes.infrastructure.run_passes import run_passes
        from qir.passes.simplify.canonicalize import SIMPLIFY

        folded = run_passes(against.clone(), SIMPLIFY)
        self.layers = {layer.value: layer for layer in layers}
        found = correspondence(module, folded)
        self.sources: dict[str, tuple[Value, tuple[float, int]]] = {}
        for node, codes in code_values(module).items():
            value, grid = found.get(codes), _grid(node)
            if value is not None and grid is not None and codes.name in self.layers:
                self.sources[codes.name] = value, grid
        self.names = _expose(folded, [value for value, _ in self.sources.values()])
        self.session = OrtSession(folded)
        missing = set(self.session.input_names) - {value.name for value in module.graph.inputs}
        if missing:
            raise DataError(f"the float network has the input {min(missing)!r}, which the quantized network lacks")
        self.noise = Noise()

    def add(self, run: Run, feed: Mapping[str, Array]) -> None:
        """Add one batch; raises `DataError` where the float network does not take it."""
        try:
            found = {**feed, **self.session.run(feed)}
        except QirError as error:
            raise DataError(f"the float network does not take the quantized network's samples: {error}") from error
        for codes, (value, (scale, zero)) in self.sources.items():
            exact, ours = found[self.names[value]], run.codes[codes]
            if exact.shape == ours.shape:
                self.noise.add(codes, exact, (ours.astype(np.int64) - zero) * scale)

    def finish(self) -> None:
        """Write the ratios into the layers, in decibels."""
        for codes in self.sources:
            self.layers[codes].sqnr = self.noise.decibels(codes)


def _expose(network: Module, values: Iterable[Value]) -> dict[Value, str]:
    """Make values outputs too; the name that each has among inputs and outputs."""
    graph = network.graph
    names = {value: value.name for value in graph.inputs}
    names |= {value: name for value, name in zip(graph.outputs, graph.output_names, strict=True) if value is not None}
    extra = [value for value in dict.fromkeys(values) if value not in names]
    graph.set_outputs([*graph.outputs, *extra], [*graph.output_names, *(value.name for value in extra)])
    return names | {value: value.name for value in extra}


def _grid(node: Node) -> tuple[float, int] | None:
    """Scale and zero point of a node's codes; None where they are not constant or not per tensor."""
    operator = operator_of(node)
    indices = (1, 2) if operator is None else operator.output
    scale, zero = (node.input(index) for index in indices)
    if scale is None or scale.constant is None or scale.constant.size != 1:
        return None
    code = 0 if zero is None or zero.constant is None else int(zero.constant.numpy().reshape(-1)[0])
    return float(scale.constant.numpy().reshape(-1)[0]), code
