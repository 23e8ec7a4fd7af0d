"""One call from a float ONNX file to a quantized one, for users without labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qir.backends.costs.building import cost_table
from qir.backends.costs.target import Target, TargetLike, as_target
from qir.backends.execution.saturation import WeightStorage
from qir.errors import QirError
from qir.module import Module
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.passes.calibration.distill_data import given_or_distilled
from qir.passes.constraints.policies import apply_policy
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.passes.correction.adaround import AdaRound
from qir.passes.correction.correct import CorrectChannels
from qir.passes.data.recording import readable_again
from qir.passes.data.samples import KEPT_MEMORY, batches, fitting_batch
from qir.passes.exporting.export import ExportReport, export
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.infrastructure.manager import PassManager
from qir.passes.infrastructure.pipeline import parse_pipeline
from qir.passes.insertion.insert_fake_quant import InsertFakeQuant
from qir.passes.lowering.profiles.profiles import find_profile
from qir.passes.parity.agreement import Agreement, agreement_of_file, labels_in
from qir.passes.simplify.infer_types import InferTypes
from qir.search.network.preparation import SCALES, load_network, prepare
from qir.search.network.problem import network_problem, read_budgets
from qir.search.problem.parts import Budget
from qir.search.problem.result import Result
from qir.support.atomic_write import make_folder
from qir.types import TensorType

if TYPE_CHECKING:
    from qir.search.problem.sensitivity import Sensitivity

SENSITIVITY_IMAGES = 128
SENSITIVITY_BATCHES = 16


@dataclass(frozen=True)
class Quantized:
    """What `quantize` made.

    Attributes:
        written: the files, and how they compared with the reference.
        result: how the bits were chosen; None without a budget.
        left_float: layers that stayed float, and why.
        agreement: the outputs of the file against the float network's, on the data given.
        notes: where the file declares types that contradict its operands.
    """

    written: ExportReport
    result: Result | None
    left_float: Mapping[str, str]
    agreement: Agreement
    notes: tuple[str, ...] = ()


def quantize(
    model: str | Path,
    *,
    target: TargetLike,
    data: Any,
    budgets: Mapping[str, Budget | str] | None = None,
    output: str | Path = "model.quant.onnx",
    input_widths: str = "8",
    method: str = "mse",
    profile: str | None = None,
    correct: bool = True,
    adaround: bool = False,
    before: str = "",
    insert: str = "",
    store: str | Path | None = None,
    reduce_range: bool = False,
    weights: WeightStorage | None = None,
    allow_mismatches: bool = False,
) -> Quantized:
    """Quantize a network: fold, insert, calibrate, choose bits, correct, export and check.

    Bits are chosen by the exact solver (HiGHS) from the divergence of the outputs, measured per decision and width.
    Where these are not scores of classes, [N, classes], or the network has several inputs or takes one sample at a time
    (a correction that is fitted to one sample leaves no divergence), they are chosen from the distance of all outputs.
    Without budgets every quantizer gets its widest legal width.

    Args:
        model: float ONNX file.
        target: hardware: a `Target`, a shipped name, or a JSON file.
        data: calibration data of any kind that `calibrate` takes, without labels; `distilled` makes them from the
            statistics of the network's BatchNormalizations.
        budgets: name of a cost (`latency`, `energy`, `bops`, `size`, `average-bits`) → `Budget` or text such as
            "0.5x". Sizes that the network leaves open are those of the first samples.
        output: path of the quantized model; guide and weights lie next to it.
        input_widths: widths of the network's inputs, `all` makes them decisions.
        method: calibration method of activations.
        profile: export profile, by default the target's.
        correct: fold the channel-wise affine correction into the file.
        adaround: learn how weights are rounded (AdaRound), in place of nearest rounding.
        before: pipeline that runs before everything else, for example `freeze-inputs{values=[sr:16000]},infer-types`.
        insert: more options of `insert-fake-quant`, for example `block=32,keep=[fc.*:8]`.
        store: SQLite file or SQLAlchemy URL that keeps the sensitivities: later budgets measure nothing again.
        reduce_range: as the target's field of this name: weights next to 8-bit activations have 7 bits, or are narrowed
            at export, so that no product saturates on x86 CPUs without VNNI.
        weights: how 8-bit weight codes are stored (`export`): `auto`, `int8` or `uint8`; by default the target's.
        allow_mismatches: as for `export`.

    Raises:
        QirError: bad input of any kind, no policy meets a budget (the message says the smallest reachable), or the
            cost of a node with decisions is unknown, so that the budget would not bind.
    """
    hardware, reports = as_target(target), dict[str, Any]()
    hardware = hardware.model_copy(update={"reduce_range": reduce_range or hardware.reduce_range})
    find_profile(profile or hardware.export.profile)
    limits = read_budgets(budgets or {})
    make_folder(output)
    module = load_network(model)
    if before:
        PassManager(parse_pipeline(before)).run(module, PassContext(target=hardware, reports=reports))
    data = readable_again(data)
    original, given = module.clone(), data
    data = given_or_distilled(module, data)
    how: dict[str, Any] = {"input_widths": input_widths, "method": method, "insert": insert}
    constraints = prepare(module, hardware, data, **how, reports=reports)
    result = None
    if limits:
        result = _choose(module, hardware, constraints, data, limits, store)
        apply_policy(module, constraints.complete({k: v for k, v in result.policy.items() if isinstance(v, int)}))
    else:
        apply_policy(module, constraints.uniform(max(max(options) for options in constraints.options.values())))
    last: list[Pass] = [*([AdaRound()] if adaround else []), *([CorrectChannels()] if correct else [])]
    last += parse_pipeline(SCALES[hardware.export.requantization].lstrip(",")) if last else []
    PassManager(last).run(module, PassContext(target=hardware, calibration_data=data, reports=reports))
    written = export(
        module,
        output,
        profile=profile,
        target=hardware,
        data=data,
        splits={"calibration": "the data given"},
        weights=weights,
        allow_mismatches=allow_mismatches,
    )
    called = "the calibration data" if data is given else "samples distilled from the network"
    found = agreement_of_file(
        written.model, original, data, called=called, labels=labels_in(given, "the calibration data")
    )
    notes = tuple(reports.get(InferTypes.name, ()))
    return Quantized(written, result, reports[InsertFakeQuant.name], found, notes)


def _choose(
    module: Module,
    target: Target,
    constraints: BitConstraints,
    data: Any,
    budgets: Mapping[str, Budget],
    store: Path | str | None,
) -> Result:
    from qir.search.methods import solve
    from qir.search.metrics.measuring import measure

    if not constraints.decisions:
        raise QirError("the target leaves no decision open: quantize without a budget")
    problem = network_problem(module, constraints, cost_table(module, target), budgets=budgets)
    if problem.metrics:
        raise QirError(
            f"budgets on {', '.join(problem.metrics)} are kept by searches that measure policies: qir search"
        )
    results = (layer.node.result for layer in quantized_layers(module.graph))
    count = fitting_batch(results, SENSITIVITY_IMAGES, memory=KEPT_MEMORY)
    feed = next(iter(batches(module, data, batch=count)))
    images = next(iter(feed.values()))
    if len(feed) == 1 and len(images) > 1 and _scores_classes(module):
        found = measure("output-divergence", module, constraints, images, store=store)
    else:
        found = _by_distance(module, constraints, data, count)
    return solve(replace(problem, sensitivity=found.per_decision(constraints)), "milp")


def _scores_classes(module: Module) -> bool:
    """Whether the network has one output, of shape [N, classes]."""
    found = [value.type for value in module.graph.outputs if value is not None]
    shape = found[0].shape if len(found) == 1 and isinstance(found[0], TensorType) else None
    return shape is not None and len(shape) == 2 and shape[1] != 1


def _by_distance(module: Module, constraints: BitConstraints, data: Any, batch: int) -> Sensitivity:
    """Sensitivities of a network with several inputs, or outputs that are not classes."""
    import torch

    from qir.backends.torch.module import TorchModule
    from qir.search.metrics.outputs.output_distance import output_distance

    names = [value.name for value in module.graph.inputs if value.constant is None]
    feeds = islice(batches(module, data, batch=batch), SENSITIVITY_BATCHES)
    tensors = [[torch.from_numpy(np.array(feed[name])) for name in names] for feed in feeds]
    return output_distance(TorchModule(module), constraints, tensors)
