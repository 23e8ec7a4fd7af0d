"""The check of an exported file: it is loaded, run and compared before it gets its name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from qir.backends.execution.executor import Executor, OrtExecutor, Run
from qir.backends.execution.pairs import Differences, pairs
from qir.backends.execution.random_feed import random_feed
from qir.backends.integer.operators import operator_of
from qir.backends.integer.reference import QUANTIZE, IntegerReference
from qir.errors import ExportError, QirError
from qir.module import Module
from qir.passes.data.batch_axes import Feed
from qir.passes.data.kinds.source import Data
from qir.passes.data.samples import batches, fitting_samples, samples_of
from qir.passes.exporting.products import check_products
from qir.passes.lowering.profiles.profiles import Profile
from qir.passes.parity.executors import SATURATING, SESSIONS, ReferenceNetwork, executor
from qir.passes.parity.judging.comparison import SATURATION
from qir.tensor import Tensor
from qir.types import TensorType

Reference = Literal["integer reference", "products", "simulation"]

SAMPLES = 16
"""Samples that are compared: at most so many, and fewer where their values would not fit into a pass."""


@dataclass(frozen=True)
class WrittenComparison:
    """How a written file compared.

    Attributes:
        samples: number of samples run.
        largest_difference: largest absolute difference of any output element between ONNX Runtime at its default
            optimization and with optimizations off.
        argmax_flips: samples whose largest output differs between the two, None for outputs that are not [N, classes].
        integer_nodes: operators of the optimized graph that run on integers.
        reference: what the samples were held against: `integer reference`, `products` of weights in blocks, or
            `simulation` where neither runs the network.
        engine: what ran the file: a setting of ONNX Runtime (`default`, `fused`, `unfused`), or `qonnx`.
        codes: how many codes were compared: every intermediate one where the profile writes them, the results of all
            products, else the outputs.
        mismatches: how many of them differ by more than a rounding tie of a float operator.
        ties: how many differ by such a tie.
        clipped: how many the reference computes otherwise when it adds products as x86 CPUs without VNNI do; None where
            no kernel multiplies codes.
        refusals: what breaks the promise, one sentence an engine: for the profiles whose codes are compared.
        in_float: products with weights in blocks that this CPU computes in float.
    """

    samples: int
    largest_difference: float
    argmax_flips: int | None
    integer_nodes: tuple[str, ...]
    reference: Reference
    engine: str
    codes: int
    mismatches: int
    ties: int = 0
    clipped: int | None = None
    refusals: tuple[str, ...] = ()
    in_float: tuple[str, ...] = ()


def compare_written(
    module: Module,
    lowered: Module,
    path: Path,
    profile: Profile,
    data: Data | None,
    encodings: Mapping[str, Any] | None = None,
) -> WrittenComparison:
    """Run a written file and hold it against the reference.

    Args:
        module: the network with fake-quant nodes.
        lowered: the module that was written.
        path: the file.
        profile: its profile.
        data: samples as for calibration, or None for random ones (`random_feed`); up to `SAMPLES` of them are run,
            fewer of a large network.
        encodings: what lies next to the file where its grids do not lie in it (`lower-encodings`).

    Raises:
        ExportError: what runs the profile refuses the file or computes another network at its default, or an output is
            not finite.
    """
    run = _Runner(path, profile)
    feeds = compared_feeds(module, data)
    found, outputs = Differences(), []
    for feed, plain, own in pairs(run.plain, run.own, feeds):
        found.add(feed, plain, own)
        outputs.append(own)
    if found.not_finite:
        raise ExportError(
            f"output {found.not_finite!r} of the exported model is not finite: check the scales in the guide"
        )
    if not run.integer_nodes and found.strangers:
        raise ExportError(
            f"profile {profile.name!r}: ONNX Runtime computes another network at its default than without "
            f"optimizations ({found.far} of {found.elements} outputs are far apart): another profile holds this network"
        )
    first = WrittenComparison(
        found.samples, found.largest, found.flips, run.integer_nodes, "simulation", run.engine, 0, 0
    )
    return _held(module, lowered, path, profile, feeds, outputs, encodings, first)


class _Runner:
    """What runs the files of a profile: the executor that it is made for, and the plain one."""

    def __init__(self, path: Path, profile: Profile) -> None:
        self.own: Executor
        self.plain: Executor
        self.integer_nodes: tuple[str, ...] = ()
        self.engine = "unfused" if "session.disable_quant_qdq" in profile.session else "fused"
        if profile.codes == "products":
            self.engine = "default"
        try:
            if profile.runs_in == "qir":
                self.engine = "qonnx"
                self.own = self.plain = _executor(path, profile, self.engine)
                return
            session = OrtExecutor(path, **SESSIONS[self.engine])
            self.own = session
            self.plain = OrtExecutor(path, **SESSIONS["plain"])
            self.integer_nodes = tuple(session.session.integer_nodes())
        except ExportError:
            raise
        except QirError as error:
            raise ExportError(f"profile {profile.name!r}: the exported model does not load: {error}") from error


def _executor(path: Path, profile: Profile, name: str) -> Executor:
    """Return what runs a file: ONNX Runtime from its path, or qir's executor of QONNX."""
    from qir.onnx_io import load

    return executor("qonnx", load(path)) if profile.runs_in == "qir" else OrtExecutor(path, **SESSIONS[name])


def _held(
    module: Module,
    lowered: Module,
    path: Path,
    profile: Profile,
    feeds: list[Feed],
    outputs: list[Run],
    encodings: Mapping[str, Any] | None,
    first: WrittenComparison,
) -> WrittenComparison:
    """Return the comparison with what the reference says.

    Of every code where the file holds them, else of the outputs.
    """
    found = first
    if profile.codes == "compared" and any(node.op == QUANTIZE for node in lowered.graph):
        found = _every_code(path, feeds, first)
        if all(operator_of(node) is None for node in lowered.graph):  # the form that the reference itself reads
            return found
    if profile.codes == "products":
        found = _every_product(lowered, feeds, first)
    reference = ReferenceNetwork(module)
    if encodings is not None:
        read: Executor = _read_back(path, encodings)
        outputs = [read.run(feed) for feed in feeds]
    elif found.mismatches and not found.refusals:  # sums that this CPU clips, in a file that says so
        outputs = _exactly(path, feeds)
    other = Differences()
    for feed, ours in zip(feeds, outputs, strict=True):
        other.add(feed, reference.run(feed), ours)
    if other.strangers:
        raise ExportError(
            f"profile {profile.name!r}: the file computes another network than the {reference.kind} ({other.far} of "
            f"{other.elements} outputs are far apart): another profile holds this network"
        )
    if found.reference == "products":
        return found
    refusals = found.refusals
    if profile.codes == "compared" and other.off:
        differ = f"{other.off:,} of {other.elements:,} outputs differ from the {reference.kind} of the network"
        refusals = (*refusals, differ)
    return replace(
        found,
        reference=reference.kind,
        codes=found.codes + other.elements,
        mismatches=found.mismatches + other.off,
        refusals=refusals,
    )


def _every_code(path: Path, feeds: list[Feed], plain: WrittenComparison) -> WrittenComparison:
    """Return the comparison of every code in the file with the integer reference of the file, exact and saturating."""
    from qir.onnx_io import load
    from qir.passes.parity.compare import parity

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


def _exactly(path: Path, feeds: list[Feed]) -> list[Run]:
    """Return what the file computes where no sum clips.

    Whether it holds the network does not depend on the CPU at hand.
    """
    from qir.onnx_io import load

    exact = IntegerReference(load(path))
    return [exact.run(feed) for feed in feeds]


def _every_product(lowered: Module, feeds: list[Feed], plain: WrittenComparison) -> WrittenComparison:
    """Return the comparison of every product with a weight in blocks; `plain` where there is none."""
    report = check_products(lowered, feeds)
    if not report.products:
        return plain
    return replace(
        plain,
        reference="products",
        codes=report.elements,
        mismatches=report.wrong,
        refusals=tuple(report.refusals),
        in_float=tuple(sorted(report.in_float)),
    )


def _read_back(path: Path, encodings: Mapping[str, Any]) -> ReferenceNetwork:
    """Return a float network whose encodings are put back as quantizers."""
    from qir.onnx_io import load
    from qir.passes.raising.encodings import apply_encodings

    network = load(path)
    apply_encodings(network, encodings)
    return ReferenceNetwork(network)


def compared_feeds(module: Module, data: Data | None) -> list[Feed]:
    """Return the samples to run.

    Up to `SAMPLES`, as many as the network's values fit into a pass, at least one feed.
    """
    count = fitting_samples(module, data, (value for value in module.graph.values() if not value.is_constant), SAMPLES)
    feeds: list[Feed] = []
    for feed in batches(module, random_feed(module) if data is None else data, batch=count):
        feeds.append(feed)
        if sum(samples_of(feed) for feed in feeds) >= count:
            break
    return feeds


def observe_ranks(module: Module, lowered: Module, path: Path, profile: Profile, data: Data | None) -> bool:
    """Give outputs of unknown rank, which ONNX's checker refuses, the rank that a run shows; whether there were any.

    Args:
        module: network before lowering.
        lowered: network in the file; types of its outputs are written.
        path: the file.
        profile: what it is written in, which says what runs it.
        data: samples, as for calibration, or None.
    """
    outputs = dict(zip(lowered.graph.output_names, lowered.graph.outputs, strict=True))
    unknown = {name: value for name, value in outputs.items() if value is not None and value.rank is None}
    if not unknown:
        return False
    feed = next(iter(batches(module, random_feed(module) if data is None else data, batch=1)))
    found = _executor(path, profile, "plain").run(feed).outputs
    for name, value in unknown.items():
        value.type = TensorType(Tensor.of(found[name]).dtype, (None,) * found[name].ndim)
        value.declared = None
    return True
