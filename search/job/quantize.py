"""`quantize`: one call from a float network to a quantized file that was run and compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qir.backends.costs.target import TargetLike, as_target
from qir.memory import budgeted
from qir.module import Module
from qir.passes.data.kinds.preprocessing import Preprocessing
from qir.passes.data.kinds.source import Data
from qir.passes.lowering.profiles.profiles import find_profile
from qir.search.evaluation.splits import Labelled, Splits
from qir.search.job.stages import MEASURED_INSTEAD, Job
from qir.search.methods import ADDITIVE, check_options
from qir.search.metrics.label_free import AUTO, check_metric
from qir.search.network.problem import read_budgets
from qir.search.problem.parts import Budget
from qir.search.problem.result import Progress
from qir.search.report.quantized import Quantized
from qir.support.atomic_write import make_folder
from qir.support.packages import require_torch
from qir.support.progress import Step, told
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.execution.saturation import WeightStorage
    from qir.search.evaluation.parallel import Workers
    from qir.search.evaluation.store import Store

EVALUATIONS = 50
"""Policies that a method measures unless told otherwise."""


def quantize(
    model: Module | str | Path,
    *,
    data: Data,
    target: TargetLike | None = None,
    labels: Array | str | Path | None = None,
    retraining: Labelled | None = None,
    validation: Labelled | None = None,
    test: Labelled | None = None,
    budgets: Mapping[str, Budget | str | float] | None = None,
    output: str | Path = "model.quant.onnx",
    method: str = "milp",
    evaluations: int | None = None,
    input_widths: str = "8",
    calibration: str = "mse",
    sensitivity: str = AUTO,
    time_limit: float | None = None,
    memory: int | str | None = None,
    profile: str | None = None,
    correct: bool = True,
    adaround: bool = False,
    before: str = "",
    insert: str = "",
    seed: int = 0,
    store: Store | str | Path | None = None,
    reduce_range: bool = False,
    weights: WeightStorage | None = None,
    allow_mismatches: bool = False,
    compare: bool = True,
    progress: Callable[[Progress], None] | None = None,
    stages: Callable[[Step], None] | None = None,
    executor: Workers | None = None,
    images: Preprocessing | None = None,
    **options: Any,
) -> Quantized:
    """Quantize a network: fold, insert, calibrate, choose bits, correct or retrain, export and check.

    Without labels, bits are chosen by the exact solver (HiGHS) from how far each width moves the outputs: to second
    order, for all decisions from the same backward passes (`gauss-newton`), or where no gradient passes the network, or
    torch is not installed, by one partial forward pass for each decision and width (`output-distance`). `exhaustive` is
    the dear measurement that both are held against. Without budgets every quantizer gets its widest legal width.

    A method that measures (`rl`, `random`, `evolution`, …) chooses bits by accuracy on labelled samples, each policy
    retrained shortly, and the winner retrained longer: on the splits given, or on the data with their labels, divided.

    Args:
        model: float network or its ONNX file.
        target: hardware: a `Target`, a shipped name, or a JSON file; without one costs are bits, not cycles.
        data: calibration data of any kind (`qir.passes.data.reading.read_samples`): arrays, feeds, readers, a .npy or
            .npz file, a folder of images, of class folders or of WAV files, lines of ids; `distilled`
            makes them from the statistics of the network's BatchNormalizations.
        labels: of the data, int64 [N], or a .npy file; accuracy is told on them, and methods that measure need them.
        retraining: labelled samples to retrain on: samples, (images, labels), or a .npz file with `images` and
            `labels`, or a folder of class folders.
        validation: labelled samples that policies are judged by, likewise; no image may be in both.
        test: labelled samples that the file is measured on at the end, likewise.
        budgets: name of a cost (`latency`, `energy`, `bops`, `size`, `average-bits`) → `Budget` or text such as
            "0.5x". Sizes that the network leaves open are those of the first samples.
        output: path of the quantized model, or a folder (one that exists, or text that ends in `/`); guide and weights
            lie next to it.
        method: a name in `qir.search.METHODS`.
        evaluations: policies that a method may measure, 50 unless given.
        input_widths: widths of the network's inputs, `all` makes them decisions.
        calibration: calibration method of activations.
        sensitivity: what bits are chosen by where no policy is measured: `auto`, `exhaustive`, or a name in
            `qir.search.metrics.measuring.METRICS`.
        time_limit: seconds in which measuring and search end with the best so far, which the certificate says, and
            uniform widths are compared; calibration, export and its checks are done whole. Ctrl-C ends them at once.
        memory: bytes that the process may take in all, or text such as `2GB`; by default half of what is free. It
            decides what is kept and what is computed again, not the result.
        profile: export profile, by default the target's.
        correct: fold the channel-wise affine correction into a network that is not retrained.
        adaround: learn how weights are rounded (AdaRound), in place of nearest rounding.
        before: pipeline that runs before everything else, for example `freeze-inputs{values=[sr:16000]},infer-types`.
        insert: more options of `insert-fake-quant`, for example `block=32,keep=[fc.*:8]`.
        seed: of every random choice.
        store: SQLite file or SQLAlchemy URL that keeps sensitivities and measured values: later budgets and restarts
            measure nothing again.
        reduce_range: as the target's field of this name: weights next to 8-bit activations have 7 bits, or are narrowed
            at export, so that no product saturates on x86 CPUs without VNNI.
        weights: how 8-bit weight codes are stored (`export`): `auto`, `int8` or `uint8`; by default the target's.
        allow_mismatches: as for `export`.
        compare: measure uniform widths too, where bits are searched.
        progress: told after each episode of a method that measures.
        stages: told how far each stage is, and how many seconds it has left.
        executor: where policies are measured; in this process by default.
        images: what is done with images of folders; what it leaves open comes from a `preprocessing.json` or
            `preprocessor_config.json` in their folder or next to the network.
        **options: of the method, such as `reward` of `rl`.

    Raises:
        QirError: bad input of any kind, no policy meets a budget (the message says the smallest reachable), or the
            cost of a node with decisions is unknown, so that the budget would not bind, or the memory does not hold one
            sample.
        MissingExtraError: a package that an option needs is not installed: torch for methods that measure, AdaRound,
            distilled data and most sensitivities.
    """
    check_options(method, options)
    check_metric(sensitivity)
    measured = method not in ADDITIVE
    if measured:
        require_torch(f"method {method!r} measures policies by accuracy, which", MEASURED_INSTEAD)
    hardware = as_target(target)
    find_profile(profile or hardware.export.profile)
    limits, path = read_budgets(budgets or {}), _output(output, model)
    make_folder(path)
    with told(stages), budgeted(memory):
        job = Job(
            model,
            hardware,
            Splits.read(data, labels=labels, retraining=retraining, validation=validation, test=test, images=images),
            budgets=limits,
            input_widths=input_widths,
            calibration=calibration,
            before=before,
            insert=insert,
            correct=correct,
            adaround=adaround,
            reduce_range=reduce_range,
            seed=seed,
            store=store,
            metric=sensitivity,
            time_limit=time_limit,
        )
        if measured and job.splits.validation is None:
            job.splits = job.splits.divided(job.network, seed=seed)
        if limits or measured:
            count = evaluations or (EVALUATIONS if measured else None)
            job.solve(method, evaluations=count, progress=progress, executor=executor, **options)
        job.export(path, profile=profile, weights=weights, allow_mismatches=allow_mismatches)
        return job.outcome(compare=compare)


def _output(output: str | Path, model: Module | str | Path) -> Path:
    """Return the path of the model file: in a folder it is called after the float network's file."""
    if not (str(output).endswith(("/", "\\")) or Path(output).is_dir()):
        return Path(output)
    stem = Path(model).stem if isinstance(model, str | Path) else "model"
    return Path(output) / f"{stem}.quant.onnx"
