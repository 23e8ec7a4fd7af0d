"""Parity of an exported network: what ONNX Runtime computes, held against the integer reference, code by code.

Three settings of ONNX Runtime run the same file: `fused` (its default: integer kernels), `unfused` (default
optimization without QDQ fusion) and `plain` (no optimization). The last two compute layers on floats between the
codes, so that ties may round differently; their rates are measured. The file keeps its promise when no code of `fused`
differs, layers aside that ONNX Runtime computes on floats. With power-of-two scales inside the accumulator bound the
promise covers all layers and all three settings.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qir.backends.integer_reference import DEQUANTIZE, QUANTIZE, IntegerReference, IntegerRun, label_of
from qir.backends.onnxruntime_session import INTEGER_OPS, OrtSession
from qir.errors import DataError, QirError
from qir.graph import Node, Value
from qir.module import Module
from qir.passes.calibration_data import batches
from qir.tensor import Array
from qir.types import TensorType

ENGINES: dict[str, dict[str, Any]] = {
    "fused": {"optimization": "all"},
    "unfused": {"optimization": "all", "disable_qdq_fusion": True},
    "plain": {"optimization": "disable"},
}
"""Settings of ONNX Runtime that are compared, by name."""


@dataclass(frozen=True)
class Divergence:
    """The first code that differs: value and node, index of the element, and both codes."""

    value: str
    node: str
    index: tuple[int, ...]
    expected: int
    found: int


@dataclass
class LayerParity:
    """One tensor of codes.

    Attributes:
        value: name of the value that holds the codes.
        node: name of the node whose result is quantized.
        kernel: how ONNX Runtime computes it at its default: `integer`, `float`, or `border` (a quantized input).
        reason: why it is computed on floats, empty otherwise.
        promised: whether equal codes are promised: neither it nor a layer before it is computed on floats, by ONNX
            Runtime or by the reference.
        codes: number of codes compared.
        mismatches: codes that differ, by engine.
        largest: largest difference of a code, by engine.
        sqnr: signal to quantization noise against the float network, in decibels; None where that has no such value.
    """

    value: str
    node: str
    kernel: str
    reason: str
    promised: bool
    codes: int = 0
    mismatches: dict[str, int] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)
    sqnr: float | None = None


@dataclass(frozen=True)
class ParityReport:
    """What was compared and what was found.

    Attributes:
        samples: number of samples.
        layers: one entry per tensor of codes, in order.
        first: the first divergence of each engine, None where there is none.
        argmax_flips: samples whose largest output differs from the integer reference, by engine; empty for outputs
            that are no [N, classes].
        float_nodes: nodes that the integer reference computes on floats (no codes on their operands).
        refused: reason of each engine that does not load the file.
        exact: whether equal codes are promised of every engine: all scales are powers of two, zero points even, and
            all sums proven below 2^24 (by the guide in the file), so that float32 holds every sum.
    """

    samples: int
    layers: tuple[LayerParity, ...]
    first: dict[str, Divergence | None]
    argmax_flips: dict[str, int]
    float_nodes: tuple[str, ...]
    refused: dict[str, str]
    exact: bool

    @property
    def keeps_promise(self) -> bool:
        """Whether the default engine loads the file and every promised code is equal."""
        if self.exact:
            kept = not any(any(layer.mismatches.values()) for layer in self.layers)
        else:
            kept = all(not layer.mismatches.get("fused", 0) for layer in self.layers if layer.promised)
        return kept and "fused" not in self.refused


def parity(
    module: Module, data: Any = None, *, against: Module | None = None, engines: Iterable[str] = tuple(ENGINES)
) -> ParityReport:
    """Run the integer reference and ONNX Runtime on the same samples and compare every code.

    Args:
        module: an exported network as `qir.load` reads it.
        data: samples, as for calibration; by default 16 samples of normal noise.
        against: the float network that it was made from, for the noise of each layer.
        engines: names of the settings of ONNX Runtime to compare.

    Raises:
        QirError: the network is no QCDQ export, the data do not fit, or the float network has other inputs.
    """
    reference = IntegerReference(module)
    exposed = expose_codes(module)
    sessions, refused = _sessions(exposed, engines)
    comparison = _Comparison(module, _layers(module, exposed, refused), tuple(sessions))
    floats = (
        None if against is None else _FloatNetwork(against, {layer.value: layer for layer in comparison.layers}, module)
    )
    for feed in batches(module, random_feed(module) if data is None else data, batch=32):
        run = reference.run(feed)
        comparison.count(run, len(next(iter(feed.values()))))
        for name, session in sessions.items():
            comparison.add(name, run, session.run(feed))
        if floats is not None:
            floats.add(run, feed)
    if floats is not None:
        floats.finish()
    return comparison.report(refused)


def code_values(module: Module) -> dict[Node, Value]:
    """The value that holds the codes of each QuantizeLinear: its result, or the result of the Clip behind it."""
    found = {}
    for node in module.graph:
        if node.op == QUANTIZE:
            users = node.result.users
            found[node] = users[0].result if len(users) == 1 and users[0].op == "Clip" else node.result
    return found


def expose_codes(module: Module) -> Module:
    """A copy of an exported network whose codes are outputs too, under their own names; kernels fuse as before."""
    copy = module.clone()
    graph = copy.graph
    extra = [value for value in code_values(copy).values() if not value.is_output]
    graph.set_outputs([*graph.outputs, *extra], [*graph.output_names, *(value.name for value in extra)])
    return copy


def random_feed(module: Module, samples: int = 16) -> dict[str, Array]:
    """Normal noise for every input: float32, unknown first dimensions `samples`, other unknown dimensions 1."""
    generator = np.random.default_rng(0)
    feeds = {}
    for value in module.graph.inputs:
        if value.constant is None and isinstance(value.type, TensorType):
            dimensions = value.type.shape or ()
            shape = [d if isinstance(d, int) else samples if i == 0 else 1 for i, d in enumerate(dimensions)]
            feeds[value.name] = generator.normal(size=shape).astype(np.float32)
    return feeds


def _sessions(exposed: Module, engines: Iterable[str]) -> tuple[dict[str, OrtSession], dict[str, str]]:
    sessions, refused = {}, {}
    for name in engines:
        try:
            sessions[name] = OrtSession(exposed, **ENGINES[name])
        except QirError as error:
            refused[name] = str(error)
    return sessions, refused


def _layers(module: Module, exposed: Module, refused: Mapping[str, str]) -> list[LayerParity]:
    """Every tensor of codes, and how ONNX Runtime's default computes it."""
    kernels = {} if "fused" in refused else _kernels(exposed)
    layers, after_float = [], set[Value]()
    by_node = code_values(module)
    for node in module.graph:
        if any(value in after_float for value in node.operands):
            after_float.update(node.results)
        if node not in by_node:
            continue
        made = node.operands[0].producer
        operator = kernels.get(node.result.name, QUANTIZE)
        kernel = "border" if made is None else "integer" if operator != QUANTIZE else "float"
        if made is not None and made.op == DEQUANTIZE:
            kernel = "integer"
        if kernel == "float":
            after_float.update(node.results)
        promised = not any(value in after_float for value in node.results)
        reason = _reason(node, made) if kernel == "float" and made is not None else ""
        layers.append(
            LayerParity(by_node[node].name, label_of(node if made is None else made), kernel, reason, promised)
        )
    return layers


def _kernels(exposed: Module) -> dict[str, str]:
    """Operator that makes each value in ONNX Runtime's optimized graph."""
    from qir.onnx_io import load

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        OrtSession(exposed, save_optimized=path)
        return {value.name: node.op for node in load(path.read_bytes()).graph for value in node.results}


def _reason(quantize: Node, made: Node) -> str:
    """Why ONNX Runtime keeps a node on floats, from what its fusion asks for."""
    zero = quantize.input(2)
    if made.op in ("Relu", "Clip"):
        constant = None if zero is None else zero.constant
        if constant is not None and constant.numpy().any():
            return f"its {made.op} does not fold into a zero point other than 0"
        inner = made.operands[0].producer
        return f"its {made.op} follows an input" if inner is None else _reason(quantize, inner)
    if not any(f"QLinear{made.op}" == name or f"Q{made.op}" == name for name in INTEGER_OPS):
        return f"ONNX Runtime has no integer kernel for {made.op}"
    for operand in made.operands:
        source = operand.producer
        if not operand.is_constant and (source is None or source.op != DEQUANTIZE):
            return f"its operand {operand.name!r} has no codes"
    return f"ONNX Runtime does not fuse {made.op} with these element types"


@dataclass
class _Comparison:
    module: Module
    layers: list[LayerParity]
    engines: tuple[str, ...]
    samples: int = 0
    first: dict[str, Divergence | None] = field(default_factory=dict)
    flips: dict[str, int] = field(default_factory=dict)
    float_nodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.first = dict.fromkeys(self.engines)

    def count(self, run: IntegerRun, samples: int) -> None:
        """Count the codes of one batch."""
        if not self.samples:
            self._follow_floats(run.float_nodes)
        self.samples += samples
        for layer in self.layers:
            layer.codes += run.codes[layer.value].size

    def _follow_floats(self, names: tuple[str, ...]) -> None:
        """Promise nothing behind the nodes that the reference computes on floats."""
        self.float_nodes = names
        reached = set[str]()
        for node in self.module.graph:
            if node.is_return:
                continue
            if label_of(node) in names or any(value.name in reached for value in node.operands):
                reached.update(value.name for value in node.results)
        for layer in self.layers:
            layer.promised &= layer.value not in reached

    def add(self, engine: str, run: IntegerRun, found: Mapping[str, Array]) -> None:
        """Compare one batch of one engine."""
        for layer in self.layers:
            difference = found[layer.value].astype(np.int64) - run.codes[layer.value]
            wrong = np.argwhere(difference)
            layer.mismatches[engine] = layer.mismatches.get(engine, 0) + len(wrong)
            layer.largest[engine] = max(layer.largest.get(engine, 0), int(np.abs(difference).max(initial=0)))
            if len(wrong) and self.first[engine] is None:
                index = tuple(int(i) for i in wrong[0])
                expected, other = int(run.codes[layer.value][index]), int(found[layer.value][index])
                index = (index[0] + self.samples - len(difference), *index[1:]) if index else index
                self.first[engine] = Divergence(layer.value, layer.node, index, expected, other)
        for name, output in run.outputs.items():
            if output.ndim == 2:
                flips = int((output.argmax(-1) != found[name].argmax(-1)).sum())
                self.flips[engine] = self.flips.get(engine, 0) + flips

    def report(self, refused: dict[str, str]) -> ParityReport:
        """The result."""
        return ParityReport(
            self.samples, tuple(self.layers), self.first, self.flips, self.float_nodes, refused, _exact(self.module)
        )


def _exact(module: Module) -> bool:
    """Whether float32 holds every intermediate result without rounding."""
    largest = module.metadata.get("qir.accumulator", "")
    if not largest.isdecimal() or int(largest) >= 2**24:
        return False
    for node in module.graph:
        if node.op not in (QUANTIZE, DEQUANTIZE):
            continue
        scale, zero = (None if value is None else value.constant for value in (node.input(1), node.input(2)))
        if scale is None or (np.frexp(scale.numpy())[0] != 0.5).any():
            return False
        if zero is not None and (zero.numpy().astype(np.int64) % 2).any():
            return False
    return True


class _FloatNetwork:
    """The float network's values beside the dequantized codes: sums of squares of signal and noise."""

    def __init__(self, against: Module, layers: Mapping[str, LayerParity], module: Module) -> None:
        from qir.passes.manager import PassManager
        from qir.passes.pipeline import parse_pipeline

        folded = against.clone()
        PassManager(parse_pipeline("fold-batchnorm")).run(folded)
        values = {value.name: value for value in folded.graph.values() if not value.is_constant}
        by_node = {node.name: node.result.name for node in folded.graph if node.name and len(node.results) == 1}
        self.layers = layers
        self.sources: dict[str, tuple[str, tuple[float, int]]] = {}
        for node, codes in code_values(module).items():
            source = node.operands[0]
            made = "" if source.producer is None else by_node.get(source.producer.name, "")
            name = source.name if source.name in values else made
            if name:
                self.sources[codes.name] = name, _grid(node)
        wanted = dict.fromkeys(name for name, _ in self.sources.values())
        extra = [values[name] for name in wanted if not values[name].is_output and not values[name].is_input]
        graph = folded.graph
        graph.set_outputs([*graph.outputs, *extra], [*graph.output_names, *(value.name for value in extra)])
        self.session = OrtSession(folded)
        missing = set(self.session.input_names) - {value.name for value in module.graph.inputs}
        if missing:
            raise DataError(f"the float network has the input {min(missing)!r}, which the quantized network lacks")
        self.signal: dict[str, float] = dict.fromkeys(self.sources, 0.0)
        self.noise: dict[str, float] = dict.fromkeys(self.sources, 0.0)

    def add(self, run: IntegerRun, feed: Mapping[str, Array]) -> None:
        """Add one batch."""
        found = {**feed, **self.session.run(feed)}
        for codes, (name, (scale, zero)) in self.sources.items():
            exact = found[name].astype(np.float64)
            self.signal[codes] += float((exact**2).sum())
            self.noise[codes] += float((((run.codes[codes].astype(np.int64) - zero) * scale - exact) ** 2).sum())

    def finish(self) -> None:
        """Write the ratios into the layers, in decibels."""
        for codes, signal in self.signal.items():
            if signal:
                noise = max(self.noise[codes], signal * 1e-20)
                self.layers[codes].sqnr = float(10 * np.log10(signal / noise))


def _grid(quantize: Node) -> tuple[float, int]:
    scale, zero = quantize.input(1), quantize.input(2)
    if scale is None or scale.constant is None or scale.constant.size != 1:
        raise QirError(f"node {quantize.name!r}: its scale is no constant per tensor")
    code = 0 if zero is None or zero.constant is None else int(zero.constant.numpy().reshape(-1)[0])
    return float(scale.constant.numpy().reshape(-1)[0]), code
