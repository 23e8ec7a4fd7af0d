"""The check of an exported file: it is loaded, run and compared before it gets its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from qir.backends.integer.operators import operator_of
from qir.backends.integer.reference import QUANTIZE
from qir.errors import ExportError, QirError
from qir.module import Module
from qir.passes.data.batch_axes import Feed
from qir.passes.data.samples import batches, fitting_samples, samples_of
from qir.passes.lowering.profiles.profiles import Profile
from qir.passes.parity.comparison import SATURATION
from qir.passes.parity.reference_outputs import reference_outputs
from qir.tensor import Array, Tensor
from qir.types import TensorType

CLOSE = 1e-5
"""Floats that differ by less than this part of the largest output stand for the same code."""

SAMPLES, WORK = 16, 256 << 20
"""Samples that are compared: at most so many, and fewer where their float32 values would take more bytes."""

FAR, MOST = 0.05, 0.5
"""Where nothing runs on integers, more than `MOST` of the outputs off by this part of the largest one are not ties."""


@dataclass(frozen=True)
class Comparison:
    """How a written file compared.

    Attributes:
        samples: number of samples run.
        largest_difference: largest absolute difference of any output element between ONNX Runtime at its default
            optimization and with optimizations off.
        argmax_flips: samples whose largest output differs between the two, None for outputs that are not [N, classes].
        integer_nodes: operators of the optimized graph that run on integers.
        reference: what the samples were held against: `integer reference`, or `simulation` where that does not run the
            network.
        engine: what ran the file: a setting of ONNX Runtime (`fused`, `unfused`), or `qonnx`.
        codes: how many codes were compared: every intermediate one where the profile writes them, else the outputs.
        mismatches: how many of them differ by more than a rounding tie of a float operator.
        ties: how many differ by such a tie.
        clipped: how many the reference computes otherwise when it adds products as x86 CPUs without VNNI do; None where
            no kernel multiplies codes.
        refusals: what breaks the promise, one sentence an engine: for the profiles whose codes are compared.
    """

    samples: int
    largest_difference: float
    argmax_flips: int | None
    integer_nodes: tuple[str, ...]
    reference: str
    engine: str
    codes: int
    mismatches: int
    ties: int = 0
    clipped: int | None = None
    refusals: tuple[str, ...] = ()


def compare(
    module: Module,
    lowered: Module,
    path: Path,
    profile: Profile,
    data: Any,
    encodings: Mapping[str, Any] | None = None,
) -> Comparison:
    """Run a written file and hold it against the reference.

    Args:
        module: the network with fake-quant nodes.
        lowered: the module that was written.
        path: the file.
        profile: its profile.
        data: samples as for calibration, or None for noise between -1 and 1; up to `SAMPLES` of them are run, fewer of
            a large network.
        encodings: what lies next to the file where its grids do not lie in it (`lower-encodings`).

    Raises:
        ExportError: what runs the profile refuses the file or computes another network at its default, or an output is
            not finite.
    """
    run = _Runner(path, profile, encodings)
    largest, flips, countable = 0.0, 0, True
    far = [0, 0]
    feeds = compared_feeds(module, data)
    for name, output, other in (found for feed in feeds for found in run.both(feed)):
        if not np.isfinite(output).all():
            raise ExportError(f"output {name!r} of the exported model is not finite: check the scales in the guide")
        difference = np.abs(output.astype(np.float64) - other)
        largest = max(largest, float(difference.max(initial=0)))
        far[0] += int((difference > FAR * float(np.abs(other).max(initial=0))).sum())
        far[1] += output.size
        countable &= output.ndim == 2
        flips += int((output.argmax(-1) != other.argmax(-1)).sum()) if countable else 0
    if not run.integer_nodes and far[0] > MOST * far[1]:
        raise ExportError(
            f"profile {profile.name!r}: ONNX Runtime computes another network at its default than without "
            f"optimizations ({far[0]} of {far[1]} outputs are far apart): another profile holds this network"
        )
    samples = sum(samples_of(feed) for feed in feeds)
    plain = Comparison(samples, largest, flips if countable else None, run.integer_nodes, "", run.engine, 0, 0)
    return _held(module, lowered, path, profile, run, feeds, plain)


class _Runner:
    """What runs the files of a profile, at its default and plain."""

    def __init__(self, path: Path, profile: Profile, encodings: Mapping[str, Any] | None) -> None:
        from qir.backends.execution.session import OrtSession
        from qir.backends.qonnx.reference import QonnxReference
        from qir.onnx_io import load

        self.encodings = encodings
        self.integer_nodes: tuple[str, ...] = ()
        self.engine = "unfused" if "session.disable_quant_qdq" in profile.session else "fused"
        try:
            if profile.runs_in == "qir":
                self.engine = "qonnx"
                self.fast: Any = QonnxReference(load(path))
                self.plain: Any = self.fast
                return
            self.fast = OrtSession(path, optimization="all", disable_qdq_fusion=self.engine == "unfused")
            self.plain = OrtSession(path, optimization="disable")
            self.integer_nodes = tuple(self.fast.integer_nodes())
        except ExportError:
            raise
        except QirError as error:
            raise ExportError(f"profile {profile.name!r}: the exported model does not load: {error}") from error

    def both(self, feed: dict[str, Array]) -> list[tuple[str, Array, Array]]:
        """Name, default and plain result of every output."""
        first = self.fast.run(feed)
        second = first if self.plain is self.fast else self.plain.run(feed)
        return [(name, output, second[name]) for name, output in first.items()]


def _held(
    module: Module, lowered: Module, path: Path, profile: Profile, run: _Runner, feeds: list[Feed], plain: Comparison
) -> Comparison:
    """The comparison with what the reference says: of every code where the file holds them, else of the outputs."""
    found = plain
    if profile.codes == "compared" and any(node.op == QUANTIZE for node in lowered.graph):
        found = _every_code(path, feeds, plain)
        if all(operator_of(node) is None for node in lowered.graph):  # the form that the reference itself reads
            return found
    reference, size, wrong = "", 0, 0
    for feed in feeds:
        reference, elements, differing = _outputs(module, path, profile, run, feed)
        size, wrong = size + elements, wrong + differing
    refusals = found.refusals
    if profile.codes == "compared" and wrong:
        refusals = (*refusals, f"{wrong:,} of {size:,} outputs differ from the {reference} of the network")
    return replace(
        found, reference=reference, codes=found.codes + size, mismatches=found.mismatches + wrong, refusals=refusals
    )


def _outputs(module: Module, path: Path, profile: Profile, run: _Runner, feed: Feed) -> tuple[str, int, int]:
    """Reference of the outputs, how many elements they have, and how many of them differ."""
    found = run.fast.run(feed)
    if run.encodings is not None:
        found = _read_back(path, run.encodings, feed)
    reference, expected = reference_outputs(module, feed)
    size, wrong, far = 0, 0, 0
    for name, output in expected.items():
        scale = float(np.abs(output).max(initial=0))
        difference = np.abs(found[name].astype(np.float64) - output)
        size += output.size
        wrong += int((difference > CLOSE * scale).sum())
        far += int((difference > FAR * scale).sum())
    if far > MOST * size:
        raise ExportError(
            f"profile {profile.name!r}: the file computes another network than the {reference} ({far} of {size} "
            "outputs are far apart): another profile holds this network"
        )
    return reference, size, wrong


def _every_code(path: Path, feeds: list[Feed], plain: Comparison) -> Comparison:
    """The comparison of every code in the file with the integer reference of the file, exact and saturating."""
    from qir.onnx_io import load
    from qir.passes.parity.compare import SATURATING, parity

    engine = plain.engine
    report = parity(load(path), feeds, engines=dict.fromkeys((engine, "plain", SATURATING)))
    refusals = [
        f"{report.faults(name):,} of {report.codes:,} codes differ from the integer reference in ONNX Runtime "
        f"({'without optimizations' if name == 'plain' else 'at its default'}): {first.reason}; first: {first.place}"
        for name in dict.fromkeys((engine, "plain"))
        if (first := report.first.get(name)) is not None
    ]
    refusals += [
        f"{off:,} elements of the outputs are off what its own codes give in ONNX Runtime ({name})"
        for name, off in report.outputs_off.items()
    ]
    first = report.first.get(SATURATING)
    if first is not None and not report.declared:
        refusals.append(
            f"{report.differ(SATURATING):,} of {report.codes:,} codes differ on x86 CPUs without VNNI: {SATURATION}; "
            f"first: {first.place}"
        )
    return replace(
        plain,
        reference="integer reference",
        codes=report.codes,
        mismatches=report.differ(engine) - report.ties(engine),
        ties=report.ties(engine),
        clipped=report.differ(SATURATING) if SATURATING in report.first else None,
        refusals=tuple(refusals),
    )


def _read_back(path: Path, encodings: Mapping[str, Any], feed: dict[str, Array]) -> dict[str, Array]:
    """Outputs of a float network whose encodings are put back as quantizers."""
    from qir.onnx_io import load
    from qir.passes.raising.encodings import apply_encodings

    network = load(path)
    apply_encodings(network, encodings)
    return reference_outputs(network, feed)[1]


def compared_feeds(module: Module, data: Any) -> list[Feed]:
    """The samples to run: up to `SAMPLES`, as many as the network's values fit into `WORK` bytes, at least one feed."""
    count = fitting_samples(
        module, data, (value for value in module.graph.values() if not value.is_constant), SAMPLES, memory=WORK
    )
    feeds: list[Feed] = []
    for feed in batches(module, _random(module) if data is None else data, batch=count):
        feeds.append(feed)
        if sum(samples_of(feed) for feed in feeds) >= count:
            break
    return feeds


def observe_ranks(module: Module, lowered: Module, path: Path, profile: Profile, data: Any) -> bool:
    """Give outputs of unknown rank, which ONNX's checker refuses, the rank that a run shows; whether there were any.

    Args:
        module: network before lowering.
        lowered: network in the file; types of its outputs are written.
        path: the file.
        profile: what it is written in, which says what runs it.
        data: samples, as for calibration, or None.
    """
    from qir.backends.execution.session import OrtSession
    from qir.backends.qonnx.reference import QonnxReference
    from qir.onnx_io import load

    outputs = dict(zip(lowered.graph.output_names, lowered.graph.outputs, strict=True))
    unknown = {name: value for name, value in outputs.items() if value is not None and value.rank is None}
    if not unknown:
        return False
    feed = next(iter(batches(module, _random(module) if data is None else data, batch=256)))
    runner = QonnxReference(load(path)) if profile.runs_in == "qir" else OrtSession(path, optimization="disable")
    found = runner.run(feed)
    for name, value in unknown.items():
        value.type = TensorType(Tensor.of(found[name]).dtype, (None,) * found[name].ndim)
        value.declared = None
    return True


def _random(module: Module) -> dict[str, Array]:
    """One batch of uniform noise between -1 and 1 for every input, unknown dimensions 1."""
    generator = np.random.default_rng(0)
    feeds = {}
    for value in module.graph.inputs:
        if value.constant is None and isinstance(value.type, TensorType):
            shape = [d if isinstance(d, int) else 1 for d in value.type.shape or ()]
            feeds[value.name] = generator.uniform(-1, 1, shape).astype(np.float32)
    return feeds
