"""Export: nothing is handed over that was not written, loaded, run and compared.

The module is lowered on a copy, written under a temporary name, checked by ONNX's full checker, loaded and run by ONNX
Runtime at its default optimization and with none, compared, and only then renamed; guide and weights lie beside it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qir.errors import ExportError
from qir.fake_quant import quantizers, ranges_at
from qir.guide import Guide
from qir.module import Module
from qir.passes.build_guide import build_guide
from qir.passes.calibration_data import batches
from qir.passes.lowering.lower_qcdq import LowerQcdq
from qir.passes.lowering.pack_weights import PackWeights
from qir.passes.manager import PassContext, PassManager
from qir.tensor import Array
from qir.types import TensorType

PROFILES: dict[str, Callable[[], list[Any]]] = {
    "qcdq": lambda: [LowerQcdq()],
    "qcdq-packed": lambda: [LowerQcdq(), PackWeights()],
}
"""Lowering passes of each profile."""


@dataclass(frozen=True)
class ExportReport:
    """What was written and how it compared.

    Attributes:
        model, guide, weights: paths of the files.
        samples: number of samples compared.
        largest_difference: largest absolute difference of any output element between ONNX Runtime at its default
            optimization (integer kernels) and with optimizations off (float operators).
        argmax_flips: samples whose largest output differs between the two, None for outputs that are no [N, classes].
        integer_nodes: operators of the optimized graph that run on integers.
        codes: intermediate codes of up to 16 samples that were compared with the integer reference.
        mismatches: how many of them differ at ONNX Runtime's default optimization (`qir verify` tells where).
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


def export(
    module: Module,
    path: str | Path,
    *,
    profile: str = "qcdq",
    target: Any = None,
    data: Any = None,
    splits: dict[str, str] | None = None,
) -> ExportReport:
    """Write `<name>.quant.onnx`, `<name>.guide.json` and `<name>.weights.bin`; the module itself is not changed.

    Args:
        module: network with calibrated fake-quant nodes.
        path: path of the model file; guide and weights lie beside it.
        profile: name of an export profile.
        target: target whose cost model gives the cycles in the guide.
        data: samples to run, as for calibration; without them random inputs in the calibrated range are used.
        splits: what each data split was used for, written into the guide.

    Raises:
        ExportError: the profile is unknown, a quantizer is not calibrated or stale, weights are NaN or infinite, the
            checker or ONNX Runtime refuses the file, or its outputs are not finite.
    """
    path = Path(path)
    if profile not in PROFILES:
        raise ExportError(f"export profile {profile!r} is unknown; expected one of {', '.join(PROFILES)}")
    _check(module)
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.name.removesuffix(".onnx").removesuffix(".quant")
    guide_path, weights_path = path.with_name(f"{stem}.guide.json"), path.with_name(f"{stem}.weights.bin")
    guide, packed = build_guide(module, weights_file=weights_path.name, target=target, data=splits)
    text = guide.to_json()
    lowered = module.clone()
    PassManager(PROFILES[profile]()).run(lowered, PassContext(target=target))
    lowered.metadata.update(
        {
            "qir.version": guide.provenance.qir_version,
            "qir.target": guide.provenance.target,
            "qir.policy": json.dumps(guide.provenance.policy, sort_keys=True, separators=(",", ":")),
            "qir.profile": profile,
            "qir.guide.sha256": hashlib.sha256(text.encode()).hexdigest(),
            "qir.accumulator": _largest_sum(guide),
        }
    )
    with tempfile.TemporaryDirectory(prefix=f".{stem}.", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        report = _write_and_compare(module, lowered, temporary, data)
        (Path(folder) / guide_path.name).write_text(text, encoding="utf-8")
        (Path(folder) / weights_path.name).write_bytes(packed)
        for made, final in ((weights_path.name, weights_path), (guide_path.name, guide_path), (path.name, path)):
            (Path(folder) / made).replace(final)
    return ExportReport(path, guide_path, weights_path, *report)


def _largest_sum(guide: Guide) -> str:
    """Largest magnitude that any layer's sum of products can reach, as text; empty where one is not bounded."""
    bounds = [layer.accumulator for layer in guide.layers]
    known = [max(-bound[0], bound[1]) for bound in bounds if bound is not None]
    return str(max(known, default=0)) if len(known) == len(bounds) else ""


def _check(module: Module) -> None:
    nodes = quantizers(module.graph)
    if not nodes:
        raise ExportError("the network has no fake-quant nodes: run insert-fake-quant and calibrate first")
    for name, node in nodes.items():
        if ranges_at(node, node.attribute("widths")[0]) is None:
            raise ExportError(f"quantizer {name!r} is not calibrated: run the pass calibrate first")
        if node.attribute("stale", 0):
            raise ExportError(f"quantizer {name!r}: its weight changed after calibration: calibrate again")
    for value in module.graph.constants:
        constant = value.constant
        if (
            constant is not None
            and constant.dtype.is_float
            and not np.isfinite(constant.numpy().astype(np.float64)).all()
        ):
            raise ExportError(f"constant {value.name!r} holds NaN or infinities: repair the model first")


def _write_and_compare(
    module: Module, lowered: Module, path: Path, data: Any
) -> tuple[int, float, int | None, tuple[str, ...], int, int]:
    from qir.backends.onnxruntime_session import OrtSession
    from qir.onnx_io import check_file, load, save
    from qir.passes.parity import parity

    save(lowered, path)
    check_file(path)
    fast, plain = OrtSession(path, optimization="all"), OrtSession(path, optimization="disable")
    samples, largest, flips, codes, mismatches = 0, 0.0, 0, 0, 0
    countable = True
    for feed in batches(module, _random(module) if data is None else data, batch=256):
        first, second = fast.run(feed), plain.run(feed)
        if not samples:
            layers = parity(load(path), _few(module, feed), engines=["fused"]).layers
            codes = sum(layer.codes for layer in layers)
            mismatches = sum(layer.mismatches["fused"] for layer in layers)
        for name, output in first.items():
            if not np.isfinite(output).all():
                raise ExportError(f"output {name!r} of the exported model is not finite: check the scales in the guide")
            largest = max(largest, float(np.abs(output.astype(np.float64) - second[name]).max(initial=0)))
            countable &= output.ndim == 2
            flips += int((output.argmax(-1) != second[name].argmax(-1)).sum()) if countable else 0
        samples += len(next(iter(feed.values())))
    return samples, largest, flips if countable else None, tuple(fast.integer_nodes()), codes, mismatches


def _few(module: Module, feed: dict[str, Array], count: int = 16) -> dict[str, Array]:
    """The first samples of a feed; all of them when the network's batch is fixed."""
    types = [value.type for value in module.graph.inputs if value.name in feed]
    if any(not isinstance(t, TensorType) or not t.shape or isinstance(t.shape[0], int) for t in types):
        return feed
    return {name: array[:count] for name, array in feed.items()}


def _random(module: Module) -> dict[str, Array]:
    """One batch of uniform noise between -1 and 1 for every input, unknown dimensions 1."""
    generator = np.random.default_rng(0)
    feeds = {}
    for value in module.graph.inputs:
        if value.constant is None and isinstance(value.type, TensorType):
            shape = [d if isinstance(d, int) else 1 for d in value.type.shape or ()]
            feeds[value.name] = generator.uniform(-1, 1, shape).astype(np.float32)
    return feeds
