"""Parity of an exported network: what ONNX Runtime computes, held against the integer reference, code by code.

Four settings of ONNX Runtime run the same file: `fused` (its default: integer kernels), `unfused` (default
optimization without QDQ fusion), `plain` (no optimization) and `precise` (its default with
`session.x64quantprecision=1`). Each tensor of codes is compared with what the reference computes from the codes that
the setting itself gave the layer (`qir.passes.parity.judging.walk`). A difference is a rounding tie where the reference
or the setting computes the layer on floats and the value before rounding lies within float error of a half step
(`is_tie`); every other difference is a fault, and so is any at all where float32 holds every sum (power-of-two scales).

Two more columns are the integer reference itself in another arithmetic, from the network's inputs: `no-vnni`, which
adds products in pairs that clip to int16 as ONNX Runtime does on x86 CPUs without VNNI, and `dyadic`, the multipliers
of hardware without floats. A file with differences in `no-vnni` is exact only with VNNI (or ARM), whatever this CPU is:
codes of a setting that equal the clipped sums are counted there and are not faults of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from qir.backends.execution.executor import Executor, OrtExecutor, Run
from qir.backends.execution.pairs import Differences, pairs
from qir.backends.execution.random_feed import random_feed
from qir.backends.integer.reference import IntegerReference
from qir.errors import DataError, QirError
from qir.module import Module
from qir.passes.data.kinds.source import Data
from qir.passes.data.recording import readable_again
from qir.passes.data.samples import batches, fitting_samples
from qir.passes.lowering.saturation.layers import saturating_layers
from qir.passes.parity.executors import (
    INTEGERS,
    SATURATING,
    SESSIONS,
    coded,
    default_engine,
    executor,
    own_engine,
    shows_codes,
)
from qir.passes.parity.judging.comparison import Divergence, EngineComparison
from qir.passes.parity.judging.pair import PairComparison, PairLayer
from qir.passes.parity.layers import LayerParity, codes_shown, expose_codes, grids_of, layers_of
from qir.passes.parity.noise import FloatNetwork, Noise
from qir.passes.parity.simulation import Simulation, is_simulation
from qir.passes.simplify.name_nodes import with_names
from qir.tensor import Array

ENGINES = ("fused", "unfused", "plain", "precise", SATURATING, "dyadic")
"""What is compared by default; the session `default` is another one for products with weights in blocks alone."""

VERDICTS = ("exact", "exact only with VNNI (or ARM)", "broken")
"""What can be said of a file."""

_BATCH = 32
"""Samples that are compared at once: at most so many."""


@dataclass(frozen=True)
class ParityReport:
    """What was compared and what was found.

    Attributes:
        samples: number of samples.
        layers: one entry per tensor of codes, in order.
        first: the first fault of each engine, the first difference of each variant of the reference, None where there
            is none.
        argmax_flips: samples whose largest output differs from the integer reference, by engine; empty for outputs
            that are not [N, classes].
        float_nodes: nodes that the integer reference computes on floats (no codes on their operands).
        refused: reason of each engine that does not load the file.
        exact: whether equal codes are promised of every engine: all scales are powers of two, zero points even, and
            all sums proven below 2^24 (the file's metadata say so), so that float32 holds every sum.
        default: the engine that the file is made for: `fused`, or `unfused` where its metadata ask for that, or
            `qonnx`, qir's executor of QONNX files, which ONNX Runtime does not load.
        outputs_off: elements of outputs that are off what the reference computes from the engine's own codes, by
            engine, where there are any.
        saturating: layers that are not proven: products of theirs, added in pairs, can leave int16.
        declared: whether the file itself says that it is exact only with VNNI (or ARM).
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
    outputs_off: Mapping[str, int] = field(default_factory=dict)
    saturating: tuple[str, ...] = ()
    declared: bool = False
    requantization: str = "float32"

    @property
    def codes(self) -> int:
        """Number of codes compared."""
        return sum(layer.codes for layer in self.layers)

    @property
    def covered(self) -> int:
        """Codes of which bit-exactness is promised: those computed on integers."""
        return sum(layer.codes for layer in self.layers if layer.promised)

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`: `broken` with a fault of any engine, or where the file's own one refuses it."""
        engines = [name for name in self.first if name in SESSIONS or name == "qonnx" or self.exact]
        faults = any(self.faults(name) for name in engines if name != SATURATING)
        if self.default in self.refused or faults or any(self.outputs_off.values()):
            return "broken"
        return VERDICTS[1] if self.saturating or self.differ(SATURATING) else "exact"

    @property
    def keeps_promise(self) -> bool:
        """Whether the file is exact, or exact with VNNI (or ARM) and says so itself."""
        return self.verdict == "exact" or (self.verdict == VERDICTS[1] and self.declared)

    def differ(self, engine: str) -> int:
        """Return codes that differ."""
        return sum(layer.mismatches.get(engine, 0) for layer in self.layers)

    def ties(self, engine: str) -> int:
        """Return codes that differ by a rounding tie of a float operator."""
        return sum(layer.ties.get(engine, 0) for layer in self.layers)

    def faults(self, engine: str) -> int:
        """Return codes that differ and are neither rounding ties nor saturated sums."""
        return sum(layer.faults(engine) for layer in self.layers)

    def rate(self, engine: str) -> float:
        """Share of all codes that differ."""
        return self.differ(engine) / self.codes if self.codes else 0.0


def parity(
    module: Module, data: Data | None = None, *, against: Module | None = None, engines: Iterable[str] = ()
) -> ParityReport:
    """Run the integer reference and ONNX Runtime on the same samples and compare every code.

    Args:
        module: an exported network as `qir.load` reads it.
        data: samples, as for calibration; by default 16 samples of normal noise.
        against: the float network that it was made from, for the noise of each layer.
        engines: what to compare: names of `SESSIONS`, `no-vnni`, `dyadic` or `power-of-two` for the integer reference
            in this arithmetic; by default `ENGINES` and the target's arithmetic.

    Raises:
        QirError: the network holds no codes, the data do not fit, or the float network has other inputs.
    """
    module = with_names(module)
    arithmetic = module.metadata.get("qir.requantization", "float32")
    chosen = tuple(engines) or tuple(dict.fromkeys((*ENGINES, *({arithmetic} - {"float32"}))))
    feeds: Data = random_feed(module) if data is None else readable_again(data)
    if is_simulation(module):
        return _simulated(module, feeds, chosen, against)
    exposed = expose_codes(module)
    sessions, refused = _sessions(module, exposed, chosen)
    default = default_engine(module)
    layers = layers_of(module, None if default in refused else exposed, fused=default == "fused")
    known = ("fused", "precise") if default == "fused" else ()
    variants, strict = _variants(module, chosen), _exact(module)
    comparison = EngineComparison(module, layers, tuple(sessions), variants, known=known, strict=strict)
    floats = None if against is None else FloatNetwork(against, module, comparison.layers)
    values = (value for value in exposed.graph.values() if not value.is_constant)
    size = fitting_samples(exposed, feeds, values, _BATCH)
    for feed in batches(module, feeds, batch=size):
        run = comparison.add(feed, _runs(sessions, refused, default, feed))
        if floats is not None:
            floats.add(run, feed)
    if floats is not None:
        floats.finish()
    return ParityReport(
        comparison.samples,
        tuple(comparison.layers),
        {name: found for name, found in comparison.first.items() if name not in refused},
        comparison.flips,
        comparison.float_nodes,
        refused,
        strict,
        default,
        comparison.outputs_off,
        saturating_layers(module),
        declares_saturation(module),
        arithmetic,
    )


@dataclass(frozen=True)
class PairReport:
    """What two executors compute differently.

    Attributes:
        differences: counts of codes and outputs.
        layers: the tensors of codes that differ, in order, and why; empty where nothing judged them.
        unjudged: why nothing did: one of the two shows no codes, or the integer reference does not run the network.
    """

    differences: Differences
    layers: tuple[PairLayer, ...] = ()
    unjudged: str = ""


def compare_two(module: Module, first: str, second: str, data: Data | None = None) -> PairReport:
    """Return what two executors of a network compute differently, neither of them right by definition.

    Args:
        module: the network, exported or with fake-quant nodes.
        first: name of an executor (`qir.passes.parity.executors.EXECUTORS`).
        second: name of the one that is held against it.
        data: samples, as for calibration; by default 16 random ones (`random_feed`).

    Raises:
        QirError: a name is unknown, an executor does not take the network, or the data do not fit.
    """
    module = with_names(module)
    values = (value for value in module.graph.values() if not value.is_constant)
    samples: Data = random_feed(module) if data is None else readable_again(data)
    feeds = batches(module, samples, batch=fitting_samples(module, samples, values, _BATCH))
    found, judge, unjudged = Differences(), None, ""
    executors = executor(first, module, codes=True), executor(second, module, codes=True)
    try:
        judge = _judge(module, first, second)
    except QirError as error:  # codes alone, without a QuantizeLinear
        unjudged = str(error)
    for feed, one, other in pairs(*executors, feeds):
        found.add(feed, one, other)
        try:
            if judge is not None:
                judge.add(feed, one, other)
        except QirError as error:  # sums beyond int32
            judge, unjudged = None, str(error)
    if judge is None:
        return PairReport(found, unjudged=unjudged or "one of the two shows no codes")
    return PairReport(found, tuple(judge.layers.values()))


def _judge(module: Module, first: str, second: str) -> PairComparison | None:
    """Return what explains differences of codes.

    None where one of the two executors shows none, or both are the same.
    """
    names = (first, second)
    form = coded(module) if first != second and all(shows_codes(name, module) for name in names) else None
    if form is None or not codes_shown(form):
        return None
    fused = default_engine(form) == "fused"
    try:
        layers = layers_of(form, expose_codes(form), fused=fused)
    except QirError:  # ONNX Runtime does not load the file
        layers = layers_of(form, None, fused=fused)
    comparison = EngineComparison(
        form,
        layers,
        names,
        {},
        known=("fused", "precise") if fused else (),
        exact=("integer", SATURATING),
        strict=_exact(form),
    )
    return PairComparison(comparison, names)


def _variants(module: Module, chosen: Iterable[str]) -> dict[str, IntegerReference]:
    """Return the integer reference in the other arithmetics that are asked for."""
    skipped = "" if default_engine(module) == "fused" else SATURATING  # without fusion there are no products of codes
    return {
        name: IntegerReference(module, **options)
        for name, options in INTEGERS.items()
        if options and name in chosen and name != skipped
    }


def _simulated(module: Module, data: Data, engines: Iterable[str], against: Module | None) -> ParityReport:
    """Only the outputs of a file that holds no codes; QONNX files run in qir's executor."""
    reference = Simulation(module)
    default, refused = own_engine(module), dict[str, str]()
    if default == "qonnx":
        sessions = {default: executor(default, module)}
    else:
        sessions, refused = _sessions(module, module, engines)
    floats, noise = None if against is None else executor("fused", against), Noise()
    values = (value for value in module.graph.values() if not value.is_constant)
    for feed in batches(module, data, batch=fitting_samples(module, data, values, _BATCH)):
        outputs = reference.add(feed, {name: session.run(feed) for name, session in sessions.items()})
        for name, exact in ({} if floats is None else floats.run(feed).outputs).items():
            if name in outputs:
                noise.add(name, exact, outputs[name])
    for layer in reference.layers:
        layer.sqnr = noise.decibels(layer.value)
    first = {name: reference.first.get(name) for name in sessions}
    arithmetic = module.metadata.get("qir.requantization", "float32")
    return ParityReport(
        reference.samples,
        tuple(reference.layers),
        first,
        reference.flips,
        (),
        refused,
        _exact(module),
        default,
        requantization=arithmetic,
    )


def _sessions(module: Module, exposed: Module, engines: Iterable[str]) -> tuple[dict[str, Executor], dict[str, str]]:
    """Return an executor for each setting of ONNX Runtime that loads the file as it is, and why others do not."""
    sessions, refused = dict[str, Executor](), dict[str, str]()
    codes = {} if exposed is module else codes_shown(module)
    for name in engines:
        if name not in SESSIONS:
            continue
        try:
            executor(name, module)
            sessions[name] = OrtExecutor(exposed, codes=codes, **SESSIONS[name])
        except QirError as error:
            refused[name] = str(error)
    return sessions, refused


def _runs(
    sessions: dict[str, Executor], refused: dict[str, str], default: str, feed: Mapping[str, Array]
) -> dict[str, Run]:
    """Return what every executor computes.

    One that loads the file but fails to run is refused, unless the file is for it.
    """
    found = {}
    for name, session in list(sessions.items()):
        try:
            found[name] = session.run(feed)
        except DataError as error:
            if name == default or len(sessions) == 1:
                raise
            refused[name] = str(error)
            del sessions[name]
    return found


def declares_saturation(module: Module) -> bool:
    """Return whether a file's metadata say that it is exact only with VNNI (or ARM)."""
    return module.metadata.get("qir.exact_on") == "vnni-or-arm"


def _exact(module: Module) -> bool:
    """Return whether float32 holds every intermediate result without rounding."""
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
