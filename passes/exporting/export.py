"""Export: nothing is handed over that was not written, loaded, run and compared.

The module is lowered on a copy, written under a temporary name, checked by ONNX's full checker, loaded and run by ONNX
Runtime at its default optimization and with none, compared, and only then renamed; guide and weights lie next to it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qir.backends.costs.target import TargetLike, as_target
from qir.backends.execution.saturation import WeightStorage
from qir.backends.integer.requantization import Requantization
from qir.errors import ExportError, ModelFileError
from qir.fake_quant import quantizers
from qir.graph import Graph, Node, Value
from qir.guide import CpuGuide, Guide, SourceGuide
from qir.module import Function, Module
from qir.ops import op_of
from qir.passes.data.kinds.source import Data
from qir.passes.data.recording import readable_again
from qir.passes.exporting.build_guide import build_guide
from qir.passes.exporting.c99.prove import proven_sources
from qir.passes.exporting.check import WrittenComparison, compare_written, compared_feeds, observe_ranks
from qir.passes.exporting.proof import proof_of
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.infrastructure.manager import PassManager
from qir.passes.infrastructure.pipeline import parse_pipeline
from qir.passes.lowering.legalize import Legalize
from qir.passes.lowering.lower_encodings import LowerEncodings, encodings_text
from qir.passes.lowering.profiles.profiles import Profile, find_profile, profile_names
from qir.passes.lowering.saturation.layers import EXACT_OPTION, exactness
from qir.passes.lowering.saturation.reduce_range import ReduceRange
from qir.passes.raising import RaiseQuantized
from qir.passes.simplify.freeze_inputs import FreezeInputs
from qir.passes.simplify.infer_types import InferTypes
from qir.passes.simplify.name_nodes import NameNodes, with_names
from qir.passes.simplify.upgrade_opset import UpgradeOpset
from qir.support.atomic_write import make_folder, rename_all, temporary_folder
from qir.types import UnknownType

_PATH = re.compile(r"(?:^|[\s\"'(=])(?:/|[A-Za-z]:[\\/])[^\s\"':]*[\\/][^\s\"':]*\.(?:py|pyc|ipynb|onnx|pb|pt|pth)\b")
"""An absolute path of a source or model file."""


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it compared.

    Attributes:
        model, guide, weights: paths of the files.
        samples: number of samples compared.
        largest_difference: largest absolute difference of any output element between ONNX Runtime at its default
            optimization (integer kernels) and with optimizations off (float operators).
        argmax_flips: samples whose largest output differs between the two, None for outputs that are not [N, classes].
        integer_nodes: operators of the optimized graph that run on integers.
        codes: codes of up to 16 samples that were held against the reference: every intermediate one where the file
            holds them, else those of the outputs.
        mismatches: how many of them differ at the file's own session options, by more than a rounding tie of a float
            operator (`qir verify` tells where).
        profile: name of the profile.
        reference: `integer reference`, or `simulation` where that does not run the network.
        emulated: (quantizer, reason) of everything that the profile could not express natively.
        unproven: layers of integers whose sums are not bounded, because their length is unknown.
        session: session options without which ONNX Runtime does not load the file.
        saturating: layers that x86 CPUs without VNNI can compute wrongly.
        exact_with: session options of ONNX Runtime with which those CPUs compute them exactly.
        encodings: path of the encodings file, for the profile `encodings`.
        ties: codes that differ by a rounding tie.
        allowed: what breaks the promise and was allowed by `allow_mismatches`, one sentence an engine.
        source: what was written and proven of C source, for the profile `c99`.
    """

    model: Path
    guide: Path
    weights: Path
    samples: int
    largest_difference: float
    argmax_flips: int | None
    integer_nodes: tuple[str, ...]
    codes: int
    mismatches: int
    profile: str
    reference: str
    emulated: tuple[tuple[str, str], ...]
    unproven: tuple[str, ...]
    session: tuple[tuple[str, str], ...]
    saturating: tuple[str, ...] = ()
    exact_with: tuple[tuple[str, str], ...] = ()
    encodings: Path | None = None
    ties: int = 0
    allowed: tuple[str, ...] = ()
    source: SourceGuide | None = None


def export(
    module: Module,
    path: str | Path,
    *,
    profile: str | None = None,
    target: TargetLike | None = None,
    data: Data | None = None,
    splits: dict[str, str] | None = None,
    requantization: Requantization | None = None,
    reduce_range: bool = False,
    weights: WeightStorage | None = None,
    allow_mismatches: bool = False,
    batch: int | None = None,
) -> ExportReport:
    """Write `<name>.quant.onnx`, `<name>.guide.json` and `<name>.weights.bin`; the module itself is not changed.

    Args:
        module: network with calibrated fake-quant nodes.
        path: path of the model file; guide and weights lie next to it.
        profile: name of an export profile; by default the target's, without one `qcdq`.
        target: the hardware, whose cost model gives the cycles in the guide: a target, the name of one, or its file.
        data: samples to run, as for calibration; without them 16 random ones.
        splits: what each data split was used for, written into the guide.
        requantization: how the hardware turns sums into codes, for the guide and `qir verify`: `float32`, `dyadic` or
            `power-of-two`; by default the target's.
        reduce_range: narrow weights that would saturate on x86 CPUs without VNNI, 8 bits next to 8 bits to 7 (the pass
            `reduce-range`); a target's field of this name does so too.
        weights: how 8-bit weight codes are stored: `auto` (int8 where no sum can saturate on x86 CPUs without VNNI,
            else uint8 with zero point 128: the same values and kernels), `int8` (a file that is not proven exact there
            says so), or `uint8` wherever there is a kernel for it; by default the target's, `auto` without one.
        allow_mismatches: write a file too whose codes differ from the integer reference; guide and metadata say so.

        batch: samples that the file takes at a time, for tools that want every size known; None leaves them open.

    Raises:
        TargetError: there is no such target.
        PassError: the network's inputs do not take `batch` samples.
        ExportError: the profile is unknown or cannot hold a quantizer, a quantizer is not calibrated or stale, weights
            are NaN or infinite, the checker or ONNX Runtime refuses the file, its outputs are not finite, promised
            codes differ, or a file cannot be written. Older files then stay.
    """
    path, target = Path(path), None if target is None else as_target(target)
    chosen = find_profile(profile or (profile_names()[0] if target is None else target.export.profile))
    _check(module)
    if all(quantizer.is_weight for quantizer in quantizers(module.graph).values()):
        chosen = chosen.for_weights_alone()
    module, data = with_names(module), readable_again(data)
    context = PassContext(target=target)
    if batch is not None:
        module = module.clone()
        PassManager([FreezeInputs(batch=batch), InferTypes()]).run(module, context)
    if reduce_range or (target is not None and target.reduce_range):
        module = module.clone()
        PassManager([ReduceRange()]).run(module, context)
    stem = path.name.removesuffix(".c").removesuffix(".onnx").removesuffix(".quant")
    path = path.with_name(f"{stem}.quant.onnx") if path.suffix == ".c" else path
    if chosen.source:
        requantization = requantization if requantization == "power-of-two" else "dyadic"
    guide_path, weights_path = path.with_name(f"{stem}.guide.json"), path.with_name(f"{stem}.weights.bin")
    storage: WeightStorage = weights or ("auto" if target is None else target.export.weights)
    lowered = _lowered(module, chosen, storage, context)
    emulated: dict[str, str] = context.reports[Legalize.name].emulated
    if chosen.session:
        lowered.metadata["qir.session"] = json.dumps(chosen.session, sort_keys=True, separators=(",", ":"))
    guide, packed = build_guide(
        module,
        weights_file=weights_path.name,
        target=target,
        data=splits,
        emulated=emulated,
        requantization=requantization,
        cpus=_cpus(lowered, chosen),
        analyses=context.analyses,
    )
    for value in lowered.graph.outputs:
        if value is not None:
            value.declared = None
    _forget_source_paths(lowered)
    lowered.metadata.update(_metadata(guide, chosen))
    made = {weights_path: packed, guide_path: b""}
    if chosen.source:
        proven = proven_sources(module, guide, packed, stem, compared_feeds(module, data))
        guide = guide.model_copy(update={"source": proven.entry})
        made |= {path.with_name(name): text.encode() for name, text in proven.files.items()}
    encodings = context.reports.get(LowerEncodings.name)
    if encodings is not None:
        made[path.with_name(f"{stem}.encodings")] = encodings_text(encodings).encode()

    def finish(report: WrittenComparison) -> None:
        """Refuse what breaks the promise, else write what was proven into guide and metadata."""
        proof = proof_of(report, chosen, allow_mismatches=allow_mismatches)
        text = guide.model_copy(update={"proof": proof}).to_json()
        made[guide_path] = text.encode()
        lowered.metadata["qir.proof"] = json.dumps(proof.model_dump(), sort_keys=True, separators=(",", ":"))
        lowered.metadata["qir.guide.sha256"] = hashlib.sha256(made[guide_path]).hexdigest()

    report = _write(module, lowered, path, chosen, data, encodings, made, finish)
    return ExportReport(
        path,
        guide_path,
        weights_path,
        report.samples,
        report.largest_difference,
        report.argmax_flips,
        report.integer_nodes,
        report.codes,
        report.mismatches,
        chosen.name,
        report.reference,
        tuple(emulated.items()),
        _unproven(guide),
        tuple(chosen.session.items()),
        () if guide.cpus is None else tuple(guide.cpus.saturating_layers),
        () if guide.cpus is None else tuple(guide.cpus.session.items()),
        next((name for name in made if name.suffix == ".encodings"), None),
        ties=report.ties,
        allowed=report.refusals,
        source=guide.source,
    )


def _is_typed(module: Module) -> bool:
    """Return whether the type of every result is known; files need not say it."""
    return not any(isinstance(value.type, UnknownType) for node in module.graph for value in node.results)


def _lowered(module: Module, profile: Profile, weights: WeightStorage, context: PassContext) -> Module:
    """Return a copy in the operators of a profile; what was decided about its quantizers lies in the context's reports.

    Where nothing has to be prepared the network itself is legalized, so that guide and file are made from one record of
    its arithmetic.
    """
    before: list[Pass] = [] if _is_typed(module) else [InferTypes()]
    before += parse_pipeline(profile.before) if profile.before else []
    prepared = module.clone()
    if PassManager(before).run(prepared, context):
        module = prepared
    PassManager([Legalize(profile.name, weights=weights)]).run(module, context)
    lowered = module.clone()
    upgrade = [UpgradeOpset(profile.opset)] if module.opsets.get("", 0) < profile.opset else []
    PassManager([*upgrade, *parse_pipeline(profile.passes), NameNodes()]).run(lowered, context)
    return lowered


def _metadata(guide: Guide, profile: Profile) -> dict[str, str]:
    """Return what the file itself says about how it was made."""
    entries = {
        "qir.version": guide.provenance.qir_version,
        "qir.target": guide.provenance.target,
        "qir.policy": json.dumps(guide.provenance.policy, sort_keys=True, separators=(",", ":")),
        "qir.profile": profile.name,
        "qir.accumulator": _largest_sum(guide),
        "qir.requantization": guide.requantization.kind,
    }
    if guide.cpus is not None:
        entries["qir.exact_on"] = guide.cpus.exact_on
    if guide.cpus is not None and guide.cpus.session:
        entries["qir.exact_elsewhere_with"] = json.dumps(guide.cpus.session, sort_keys=True, separators=(",", ":"))
    return entries


def _cpus(lowered: Module, profile: Profile) -> CpuGuide | None:
    """On which CPUs the file is exact; None for one that holds no codes."""
    if profile.codes != "compared":
        return None
    open_layers = [layer for layer in exactness(lowered) if not layer.proven]
    return CpuGuide(
        exact_on="vnni-or-arm" if open_layers else "all",
        saturating_layers=[layer.layer for layer in open_layers],
        session=dict([EXACT_OPTION]) if open_layers and all(layer.remedied for layer in open_layers) else {},
    )


def _write(
    module: Module,
    lowered: Module,
    path: Path,
    profile: Profile,
    data: Data | None,
    encodings: Mapping[str, Any] | None,
    made: Mapping[Path, bytes],
    finish: Callable[[WrittenComparison], None],
) -> WrittenComparison:
    """Write all files in a folder of their own next to the old ones, check the model, and only then rename.

    `finish` gets the comparison and completes `made` and the metadata of `lowered`, which are then written again.
    """
    from qir.onnx_io import check_file, save
    from qir.onnx_io.files import data_files, older_data_files, remove_data_files

    for final in (*made, path):
        make_folder(final, ExportError)
    try:
        with temporary_folder(path) as folder:
            written = folder / path.name
            save(lowered, written)
            if observe_ranks(module, lowered, written, profile, data):
                save(lowered, written)
            check_file(written)
            report = compare_written(module, lowered, written, profile, data, encodings)
            finish(report)
            save(lowered, written)
            for final, content in made.items():
                (folder / final.name).write_bytes(content)
            older, neighbour = older_data_files(path), data_files(written)
            rename_all(folder, [*map(path.with_name, sorted(neighbour)), *made, path])
            remove_data_files(path, older - neighbour)
    except OSError as error:
        raise ExportError(f"{path}: cannot be written: {error.strerror or error}; older files stay") from error
    except ModelFileError as error:
        raise ExportError(f"{error}; older files stay") from error
    return report


def _unproven(guide: Guide) -> tuple[str, ...]:
    """Return layers of integers whose sums have no bounds."""
    unbounded = (layer for layer in guide.layers if layer.accumulator is None)
    return tuple(layer.name for layer in unbounded if layer.input.levels is None and layer.weight.levels is None)


def _largest_sum(guide: Guide) -> str:
    """Return largest magnitude that any layer's sum of products can reach, as text; empty where one is not bounded."""
    bounds = [layer.accumulator for layer in guide.layers]
    known = [max(-bound[0], bound[1]) for bound in bounds if bound is not None]
    return str(max(known, default=0)) if len(known) == len(bounds) else ""


def _why_float(module: Module) -> str:
    """Return what there is to do about a network without quantizers."""
    report = PassManager([RaiseQuantized()]).run(module.clone()).reports[RaiseQuantized.name]
    if report.quantizers:
        return "the network is quantized in another form: raise_quantized gives it fake-quant nodes"
    if report.left:
        return (
            f"the network has no quantizers with fixed grids ({report.reasons}): quantize the float network that it "
            "was made from"
        )
    return "the network has no fake-quant nodes: run insert-fake-quant and calibrate first"


def _check(module: Module) -> None:
    found = quantizers(module.graph)
    if not found:
        raise ExportError(_why_float(module))
    for name, quantizer in found.items():
        if not quantizer.is_calibrated:
            raise ExportError(f"quantizer {name!r} is not calibrated: run the pass calibrate first")
        if quantizer.is_stale:
            raise ExportError(f"quantizer {name!r}: its weight changed after calibration: calibrate again")
    for value in module.graph.constants:
        constant = value.constant
        if constant is None or not constant.dtype.is_float:
            continue
        array = constant.numpy().astype(np.float64)
        layers = any(user.is_fake_quant or op_of(user).quantizable(user) is not None for user in value.users)
        if np.isnan(array).any() or (layers and np.isinf(array).any()):  # masks and bounds elsewhere may be infinite
            raise ExportError(f"constant {value.name!r} holds NaN or infinities: repair the model first")


def _forget_source_paths(module: Module) -> None:
    """Remove metadata entries and doc strings that hold an absolute path of a source or model file.

    `torch.onnx.export` writes a stack trace next to every node (`pkg.torch.onnx.stack_trace`): whoever reads the file
    would learn the folders of the machine that made it, and two machines would write different files.
    """
    for holder in _holders(module):
        holder.metadata = {key: text for key, text in holder.metadata.items() if not _PATH.search(text)}
        if _PATH.search(holder.doc_string):
            holder.doc_string = ""


def _holders(module: Module) -> Iterator[Module | Function | Graph | Node | Value]:
    yield module
    yield from module.functions.values()
    for main in module.graphs:
        nodes = tuple(main.walk())
        for graph in (main, *(inner for node in nodes for inner in node.subgraphs())):
            yield graph
            yield from graph.values()
        yield from nodes
