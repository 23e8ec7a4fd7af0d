"""From a float network to a calibrated one with its decisions: the pipeline in front of every search."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from qir.backends.costs.target import TargetLike, as_target
from qir.module import Module
from qir.passes.constraints.propagate_constraints import BitConstraints, bit_constraints
from qir.passes.data.kinds.source import Data
from qir.passes.infrastructure.run_passes import run_passes
from qir.passes.insertion.already_quantized import refuse_quantized
from qir.passes.simplify.canonicalize import SIMPLIFY

QUANTIZE = (
    "insert-fake-quant{{input_widths={inputs}{insert}}},propagate-constraints,calibrate{{method={method}}},fit-bias"
)
"""After `SIMPLIFY`, the pipeline of float networks."""

SCALES = {"float32": "", "dyadic": "", "power-of-two": ",power-of-two-scales"}
"""What a target's requantization asks of the ranges, after calibration."""


def load_network(path: str | Path) -> Module:
    """Read an ONNX file and remember its hash, which the guide and the store carry."""
    import qir

    module = qir.load(path)
    module.meta["source_sha256"] = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    return module


def prepare(
    module: Module,
    target: TargetLike,
    calibration: Data,
    *,
    input_widths: str = "8",
    method: str = "mse",
    seed: int = 0,
    insert: str = "",
    reports: dict[str, Any] | None = None,
) -> BitConstraints:
    """Fold, insert fake-quant nodes, propagate the target's constraints and calibrate, in place.

    Args:
        module: float network.
        target: hardware that the network is quantized for: a target, the name of one, or its file.
        calibration: calibration data of any kind that `calibrate` takes.
        input_widths: widths of the network's inputs, `all` makes them decisions.
        method: calibration method of activations.
        seed: seed of the passes.
        insert: more options of `insert-fake-quant`, for example `block=32,keep=[fc.*:8]`.
        reports: gets what the passes report, by their names; it may hold reports of passes before.

    Returns:
        The decisions that remain, with their options and relations.

    Raises:
        QirError: the network is quantized already, nothing can be quantized, no width remains, or the data do not fit.
    """
    refuse_quantized(module)
    target = as_target(target)
    options = f",{insert}" if insert else ""
    steps = f"widen-floats,{SIMPLIFY},{QUANTIZE.format(inputs=input_widths, method=method, insert=options)}"
    steps += SCALES[target.export.requantization]
    run_passes(module, steps, target=target, data=calibration, seed=seed, reports=reports)
    return bit_constraints(module, target.operand_rules())
