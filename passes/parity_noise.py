"""Noise of an exported network's layers: its dequantized codes beside the float network's values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from qir.backends.integer_reference import QUANTIZE, IntegerRun
from qir.backends.integer_reference_operators import operator_of
from qir.backends.onnxruntime_session import OrtSession
from qir.errors import DataError, QirError
from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.parity_layers import LayerParity, code_values
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
        """The ratio, at most 200 dB; None without a signal."""
        signal = self.signal.get(name, 0.0)
        return float(10 * np.log10(signal / max(self.noise[name], signal * 1e-20))) if signal else None


class FloatNetwork:
    """The float network's values beside the dequantized codes: sums of squares of signal and noise.

    Args:
        against: the float network.
        module: the exported network that was made from it.
        layers: the tensors of codes of the exported network.

    Raises:
        DataError: the float network has an input that the exported one lacks.
    """

    def __init__(self, against: Module, module: Module, layers: Iterable[LayerParity]) -> None:
        from qir.passes.canonicalize import SIMPLIFY
        from qir.passes.manager import PassManager
        from qir.passes.pipeline import parse_pipeline

        folded = against.clone()
        PassManager(parse_pipeline(SIMPLIFY)).run(folded)
        values = {value.name: value for value in folded.graph.values() if not value.is_constant}
        by_node = {node.name: node.result.name for node in folded.graph if node.name and len(node.results) == 1}
        kept = {node.name for node in module.graph}
        self.layers = {layer.value: layer for layer in layers}
        self.sources: dict[str, tuple[str, tuple[float, int]]] = {}
        for node, codes in code_values(module).items():
            source = node.operands[0] if node.op == QUANTIZE else node.result
            made = "" if source.producer is None else by_node.get(source.producer.name, "")
            name = source.name if source.name in values else made
            if node.op != QUANTIZE and name:
                name = _behind_activations(values[name], kept)
            grid = _grid(node)
            if name and grid is not None and codes.name in self.layers:
                self.sources[codes.name] = name, grid
        wanted = dict.fromkeys(name for name, _ in self.sources.values())
        extra = [values[name] for name in wanted if not values[name].is_output and not values[name].is_input]
        graph = folded.graph
        graph.set_outputs([*graph.outputs, *extra], [*graph.output_names, *(value.name for value in extra)])
        self.session = OrtSession(folded)
        missing = set(self.session.input_names) - {value.name for value in module.graph.inputs}
        if missing:
            raise DataError(f"the float network has the input {min(missing)!r}, which the quantized network lacks")
        self.noise = Noise()

    def add(self, run: IntegerRun, feed: Mapping[str, Array]) -> None:
        """Add one batch; raises `DataError` where the float network does not take it."""
        try:
            found = {**feed, **self.session.run(feed)}
        except QirError as error:
            raise DataError(f"the float network does not take the quantized network's samples: {error}") from error
        for codes, (name, (scale, zero)) in self.sources.items():
            self.noise.add(codes, found[name], (run.codes[codes].astype(np.int64) - zero) * scale)

    def finish(self) -> None:
        """Write the ratios into the layers, in decibels."""
        for codes in self.sources:
            self.layers[codes].sqnr = self.noise.decibels(codes)


def _behind_activations(value: Value, kept: set[str]) -> str:
    """The value behind the activations that an operator on codes holds: they are no nodes of the exported network."""
    while len(value.users) == 1 and not (user := value.users[0]).is_return:
        if user.name in kept or not op_of(user).fuses_into_producer(user):
            break
        value = user.result
    return value.name


def _grid(node: Node) -> tuple[float, int] | None:
    """Scale and zero point of a node's codes; None where they are not constant or not per tensor."""
    operator = operator_of(node)
    indices = (1, 2) if operator is None else operator.output
    scale, zero = (node.input(index) for index in indices)
    if scale is None or scale.constant is None or scale.constant.size != 1:
        return None
    code = 0 if zero is None or zero.constant is None else int(zero.constant.numpy().reshape(-1)[0])
    return float(scale.constant.numpy().reshape(-1)[0]), code
