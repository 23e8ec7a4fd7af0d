"""Parity of an exported network: what ONNX Runtime computes, held against the integer reference, code by code.

Three settings of ONNX Runtime run the same file: `fused` (its default: integer kernels), `unfused` (default
optimization without QDQ fusion) and `plain` (no optimization). The last two compute layers on floats between the
codes, so that ties may round differently; their rates are measured. A fourth column is the integer reference itself
with the multipliers of hardware without floats. The file keeps its promise when no code of `fused` differs, layers
aside that ONNX Runtime computes on floats. With power-of-two scales inside the accumulator bound the promise covers all
layers and all settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qir.backends.integer_reference import IntegerReference, IntegerRun
from qir.backends.integer_reference_requantization import REQUANTIZATIONS
from qir.backends.onnxruntime_session import OrtSession
from qir.backends.qonnx_reference import QonnxReference
from qir.errors import QirError
from qir.json_text import parse_json
from qir.labels import label_of
from qir.module import Module
from qir.passes.calibration_data import batches
from qir.passes.name_nodes import with_names
from qir.passes.parity_layers import LayerParity, expose_codes, grids_of, layers_of, saturating_layers
from qir.passes.parity_noise import FloatNetwork, Noise
from qir.passes.parity_simulation import Simulation, holds_qonnx, is_simulation
from qir.tensor import Array
from qir.types import TensorType

SESSIONS: dict[str, dict[str, Any]] = {
    "fused": {"optimization": "all"},
    "unfused": {"optimization": "all", "disable_qdq_fusion": True},
    "plain": {"optimization": "disable"},
}
"""Settings of ONNX Runtime that are compared, by name."""

ENGINES = (*SESSIONS, "dyadic")
"""What is compared by default: ONNX Runtime's settings, and the integer reference with dyadic multipliers."""


@dataclass(frozen=True)
class Divergence:
    """The first code that differs: value and node, index of the element, and both codes."""

    value: str
    node: str
    index: tuple[int, ...]
    expected: int
    found: int


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
            all sums proven below 2^24 (the file's metadata say so), so that float32 holds every sum.
        default: the engine that the file is made for: `fused`, or `unfused` where its metadata ask for that, or
            `qonnx`, qir's executor of QONNX files, which ONNX Runtime does not load.
        saturating: layers whose products, added in pairs, can leave int16: on x86 CPUs without VNNI ONNX Runtime's
            kernels saturate there.
        requantization: the target's arithmetic, as the file's metadata name it.
    """

    samples: int
    layers: tuple[LayerParity, ...]
    first: dict[str, Divergence | None]
    argmax_flips: dict[str, int]
    float_nodes: tuple[str, ...]
    refused: dict[str, str]
    exact: bool
    default: str = "fused"
    saturating: tuple[str, ...] = ()
    requantization: str = "float32"

    @property
    def keeps_promise(self) -> bool:
        """Whether the default engine loads the file and every promised code is equal."""
        if self.exact:
            kept = not any(any(layer.mismatches.values()) for layer in self.layers)
        else:
            kept = all(not layer.mismatches.get(self.default, 0) for layer in self.layers if layer.promised)
        return kept and self.default not in self.refused

    def rate(self, engine: str) -> float:
        """Share of all codes that differ."""
        codes = sum(layer.codes for layer in self.layers)
        return sum(layer.mismatches.get(engine, 0) for layer in self.layers) / codes if codes else 0.0


def parity(
    module: Module, data: Any = None, *, against: Module | None = None, engines: Iterable[str] = ()
) -> ParityReport:
    """Run the integer reference and ONNX Runtime on the same samples and compare every code.

    Args:
        module: an exported network as `qir.load` reads it.
        data: samples, as for calibration; by default 16 samples of normal noise.
        against: the float network that it was made from, for the noise of each layer.
        engines: what to compare: names of `SESSIONS`, `dyadic` or `power-of-two` for the integer reference with these
            multipliers; by default `ENGINES` and the target's arithmetic.

    Raises:
        QirError: the network holds no codes, the data do not fit, or the float network has other inputs.
    """
    module = with_names(module)
    arithmetic = module.metadata.get("qir.requantization", "float32")
    chosen = tuple(engines) or tuple(dict.fromkeys((*ENGINES, *({arithmetic} - {"float32"}))))
    if is_simulation(module):
        return _simulated(module, data, chosen, against)
    reference = IntegerReference(module)
    others = {kind: IntegerReference(module, requantization=kind) for kind in REQUANTIZATIONS if kind in chosen}
    exposed = expose_codes(module)
    sessions, refused = _sessions(module, exposed, chosen)
    default = default_engine(module)
    layers = layers_of(module, None if default in refused else exposed, fused=default == "fused")
    comparison = _Comparison(module, layers, (*sessions, *others))
    floats = None if against is None else FloatNetwork(against, module, comparison.layers)
    for feed in batches(module, random_feed(module) if data is None else data, batch=32):
        run = reference.run(feed)
        comparison.count(run, len(next(iter(feed.values()))))
        for name, session in sessions.items():
            comparison.add(name, run, session.run(feed))
        for kind, other in others.items():
            found = other.run(feed)
            comparison.add(kind, run, {**found.codes, **found.outputs})
        if floats is not None:
            floats.add(run, feed)
    if floats is not None:
        floats.finish()
    return comparison.report(refused, arithmetic, default)


def _simulated(module: Module, data: Any, engines: Iterable[str], against: Module | None) -> ParityReport:
    """Only the outputs of a file that holds no codes; QONNX files run in qir's executor."""
    reference = Simulation(module)
    sessions: Mapping[str, Any]
    default, refused = default_engine(module), dict[str, str]()
    if holds_qonnx(module):
        default = "qonnx"
        sessions = {default: QonnxReference(module)}
    else:
        sessions, refused = _sessions(module, module, engines)
    comparison = _Comparison(module, reference.layers(), tuple(sessions))
    floats, noise = None if against is None else OrtSession(against), Noise()
    for feed in batches(module, random_feed(module) if data is None else data, batch=32):
        run = reference.run(feed)
        comparison.count(run, len(next(iter(feed.values()))))
        for name, session in sessions.items():
            found = session.run(feed)
            comparison.add(name, run, reference.codes(found))
        for name, exact in ({} if floats is None else floats.run(feed)).items():
            if name in run.outputs:
                noise.add(name, exact, run.outputs[name])
    for layer in comparison.layers:
        layer.sqnr = noise.decibels(layer.value)
    return comparison.report(refused, module.metadata.get("qir.requantization", "float32"), default)


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


def _sessions(module: Module, exposed: Module, engines: Iterable[str]) -> tuple[dict[str, OrtSession], dict[str, str]]:
    """A session of each setting that loads the file as it stands, and why the others do not."""
    sessions, refused = {}, {}
    for name in engines:
        if name not in SESSIONS:
            continue
        try:
            OrtSession(module, **SESSIONS[name])
            sessions[name] = OrtSession(exposed, **SESSIONS[name])
        except QirError as error:
            refused[name] = str(error)
    return sessions, refused


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
            expected = run.codes[layer.value].astype(np.int64)
            difference = found[layer.value].astype(np.int64) - expected
            wrong = np.argwhere(difference)
            layer.mismatches[engine] = layer.mismatches.get(engine, 0) + len(wrong)
            layer.largest[engine] = max(layer.largest.get(engine, 0), int(np.abs(difference).max(initial=0)))
            if len(wrong) and self.first[engine] is None:
                index = tuple(int(i) for i in wrong[0])
                code, other = int(expected[index]), int(found[layer.value][index])
                index = (index[0] + self.samples - len(difference), *index[1:]) if index else index
                self.first[engine] = Divergence(layer.value, layer.node, index, code, other)
        for name, output in run.outputs.items():
            if output.ndim == 2:
                flips = int((output.argmax(-1) != found[name].argmax(-1)).sum())
                self.flips[engine] = self.flips.get(engine, 0) + flips

    def report(self, refused: dict[str, str], arithmetic: str, default: str) -> ParityReport:
        """The result; `default` is the engine that the file is made for."""
        return ParityReport(
            self.samples,
            tuple(self.layers),
            self.first,
            self.flips,
            self.float_nodes,
            refused,
            _exact(self.module),
            default,
            tuple(saturating_layers(self.module)),
            arithmetic,
        )


def default_engine(module: Module) -> str:
    """The setting of ONNX Runtime that a file is made for, as its metadata name it."""
    try:
        session = parse_json(module.metadata.get("qir.session", "{}"))
        return "unfused" if session.get("session.disable_quant_qdq") == "1" else "fused"
    except (ValueError, AttributeError):  # written by another tool
        return "fused"


def _exact(module: Module) -> bool:
    """Whether float32 holds every intermediate result without rounding."""
    largest = module.metadata.get("qir.accumulator", "")
    grids = [grid for node in module.graph for grid in grids_of(node)]
    if not largest.isdecimal() or int(largest) >= 2**24 or not grids:
        return False
    for scale, zero in grids:
        if scale.constant is None or (np.frexp(scale.constant.numpy())[0] != 0.5).any():
            return False
        if zero is not None and (zero.constant is None or (zero.constant.numpy().astype(np.int64) % 2).any()):
            return False
    return True
