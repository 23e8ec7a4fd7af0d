"""The one way from a network to a quantized file: a job, stage by stage.

network → constraints → cost table → problem → bits → finished network → files → what came of it
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qir.backends.costs.building.builder import cost_table
from qir.backends.costs.target import Target, TargetLike, as_target
from qir.errors import QirError, SearchError
from qir.fake_quant import policy_of, quantizers
from qir.module import Module
from qir.passes.calibration.distill_data import given_or_distilled
from qir.passes.constraints.policies import apply_policy
from qir.passes.constraints.propagate_constraints import BitConstraints, bit_constraints
from qir.passes.correction.adaround import AdaRound
from qir.passes.correction.correct import CorrectChannels
from qir.passes.data.reading import Samples as ReadSamples
from qir.passes.exporting.export import ExportReport, export
from qir.passes.infrastructure.contract import Pass
from qir.passes.infrastructure.pipeline import parse_pipeline
from qir.passes.infrastructure.run_passes import run_passes
from qir.passes.insertion.already_quantized import refuse_quantized
from qir.passes.insertion.insert_fake_quant import InsertFakeQuant
from qir.passes.parity.agreement import float_form
from qir.passes.simplify.infer_types import InferTypes
from qir.policy import Bits, Policy
from qir.search.evaluation.splits import Splits, calibration_samples
from qir.search.job.allowance import Allowance, Extras, ended
from qir.search.job.judging import Judge, Tried, closing_rows
from qir.search.methods import ADDITIVE, GUIDED, opened, solve
from qir.search.metrics.label_free import AUTO, SENSITIVITY_IMAGES, check_metric, outputs_sensitivity
from qir.search.metrics.pace import Pace
from qir.search.network.preparation import SCALES, load_network, prepare
from qir.search.network.problem import network_problem, read_budgets
from qir.search.network.unknown_costs import refuse_cycles_of_none
from qir.search.problem.channels import completed
from qir.search.problem.parts import Budget
from qir.search.problem.problem import Problem
from qir.search.problem.result import Progress, Result
from qir.search.problem.sensitivity import Sensitivity
from qir.search.report.comparison import Comparison
from qir.search.report.grounds import Grounds
from qir.search.report.page.drawing import drawing_of
from qir.search.report.provenance import provenance
from qir.search.report.quantized import Quantized
from qir.search.report.rows import Costed
from qir.search.report.uniform_costs import UniformCosts
from qir.support.packages import require_torch
from qir.support.progress import stage

if TYPE_CHECKING:
    from qir.backends.costs.tables.table import CostTable
    from qir.backends.execution.saturation import WeightStorage
    from qir.backends.training.protocol import RetrainProtocol
    from qir.search.evaluation.accuracy import AccuracyObjective, EvaluationProtocol, Samples
    from qir.search.evaluation.parallel import Workers
    from qir.search.evaluation.store import Store

MEASURED_INSTEAD = "choose bits without labels, by how far widths move the outputs (`qir quantize`)"


@dataclass
class Job:
    """The quantization of one network for one target, stage by stage.

    A stage runs when it is asked for, after the stages that it needs, and its product is kept: `constraints` (folds,
    inserts quantizers and calibrates the network), `table`, `costs`, `objective`, `sensitivity`; then the methods
    `uniform_costs`, `problem`, `solve`, `finish`, `compare`, `export`, `outcome` and `report`.

    Attributes:
        model: float network or its ONNX file; a network that has fake-quant nodes already keeps them.
        target: hardware: a `Target`, a shipped name, or a JSON file; None costs bits, not cycles.
        splits: the data; with a validation split policies are measured, with a retraining split they are retrained.
        budgets: name of a cost → `Budget` or text such as "0.5x".
        input_widths: widths of the network's inputs, `all` makes them decisions.
        calibration: calibration method of activations.
        before: pipeline that runs before everything else.
        insert: more options of `insert-fake-quant`.
        correct: fold the channel-wise affine correction into a network that is not retrained.
        adaround: learn how weights are rounded (AdaRound) in one that is not retrained.
        reduce_range: as the target's field of this name.
        seed: of every random choice.
        store: keeps sensitivities and measured values: an SQLite file or SQLAlchemy URL.
        metric: what sensitivities are measured by: `auto`, `exhaustive`, or a name in `METRICS`.
        sensitivity_images: calibration samples that they are measured on, by default what the metric needs.
        time_limit: seconds from now, in which the choice of bits ends with the best so far.
        protocol: how a policy is measured; a short retraining where there is a retraining split.
        final: how the chosen policy is retrained.

    Raises:
        QirError: the network, the target or a budget cannot be read.
    """

    model: Module | str | Path
    target: TargetLike | None
    splits: Splits
    budgets: Mapping[str, Budget | str | float] = field(default_factory=dict)
    input_widths: str = "8"
    calibration: str = "mse"
    before: str = ""
    insert: str = ""
    correct: bool = True
    adaround: bool = False
    reduce_range: bool = False
    seed: int = 0
    store: Store | str | Path | None = None
    metric: str = AUTO
    sensitivity_images: int | None = None
    time_limit: float | None = None
    protocol: EvaluationProtocol | None = None
    final: RetrainProtocol | None = None

    hardware: Target = field(init=False, repr=False)
    network: Module = field(init=False, repr=False)
    original: Module = field(init=False, repr=False)
    result: Result | None = field(init=False, default=None, repr=False)
    measured: Sensitivity | None = field(init=False, default=None, repr=False)
    written: ExportReport | None = field(init=False, default=None, repr=False)

    def __post_init__(self) -> None:
        check_metric(self.metric)
        if self.splits.validation is not None:
            require_torch("measuring policies by accuracy", MEASURED_INSTEAD)
        if self.adaround:
            require_torch("AdaRound")
        self.allowance = Allowance.of(self.time_limit)
        hardware = as_target(self.target)
        self.hardware = hardware.model_copy(update={"reduce_range": self.reduce_range or hardware.reduce_range})
        limits, self._reports = read_budgets(self.budgets), dict[str, Any]()
        self.budgets = {name: limit.at_clock(name, hardware.clock_hz) for name, limit in limits.items()}
        refuse_cycles_of_none(self.hardware.name, self.budgets)
        if isinstance(self.store, str | Path):
            self.store = opened(self.store)
        self.network = self.model.clone() if isinstance(self.model, Module) else load_network(self.model)
        if self.before:
            run_passes(self.network, self.before, target=self.hardware, reports=self._reports)
        if not self._calibrated:
            refuse_quantized(self.network)
        named = self.model if isinstance(self.model, str | Path) else None
        self.splits = self.splits.opened(self.network, named)
        self.original = float_form(self.network) if self._calibrated else self.network.clone()
        self._finished: dict[Policy, Module] = {}
        self._finishing = 0.0
        self._exported: dict[str, Any] = {}
        self._searches: dict[str, tuple[Problem, Result]] = {}
        self._compared: Comparison | None = None

    @cached_property
    def samples(self) -> Any:
        """The calibration data; made from the network's statistics where they are `distilled`."""
        if self.splits.validation is not None:
            self.splits = replace(self.splits, calibration=calibration_samples(self.network, self.splits.calibration))
        kept = self.splits.calibration
        given = kept if isinstance(kept, ReadSamples) else getattr(kept, "images", kept)
        return given_or_distilled(self.network, given, seed=self.seed)

    @cached_property
    def constraints(self) -> BitConstraints:
        """The decisions that the target leaves open in the calibrated network."""
        samples = self.samples
        if self._calibrated:
            return bit_constraints(self.network, self.hardware.operand_rules())
        how: dict[str, Any] = {"input_widths": self.input_widths, "method": self.calibration, "insert": self.insert}
        with stage("calibration"):
            return prepare(self.network, self.hardware, samples, seed=self.seed, reports=self._reports, **how)

    @cached_property
    def table(self) -> CostTable:
        """What every node costs at every width."""
        _ = self.constraints
        return cost_table(self.network, self.hardware)

    def uniform_costs(self, widths: Iterable[int]) -> UniformCosts:
        """Tell what every node costs at uniform widths, and what bounds it.

        Raises:
            TargetError: a policy is not legal.
        """
        return UniformCosts.of(self.table, self.constraints, widths)

    @cached_property
    def costs(self) -> Problem:
        """Decisions, costs, relations and budgets, with nothing to optimise yet.

        Raises:
            SearchError: no decision is open, or a budget would not bind.
        """
        if not self.constraints.decisions:
            raise SearchError("the target leaves no decision open: quantize without a budget")
        limits = {name: limit for name, limit in self.budgets.items() if isinstance(limit, Budget)}
        return network_problem(self.network, self.constraints, self.table, budgets=limits)

    @cached_property
    def objective(self) -> AccuracyObjective | None:
        """Accuracy of a policy on the validation split, after correction and retraining; None without that split."""
        from qir.backends.training.protocol import protocol
        from qir.search.evaluation.accuracy import AccuracyObjective, EvaluationProtocol

        constraints, splits = self.constraints, self.splits
        if splits.validation is None:
            return None
        if splits.retraining is not None:
            self.protocol = self.protocol or EvaluationProtocol(retrain=protocol("short", seed=self.seed))
            self.final = self.final or protocol("final", seed=self.seed)
        self.protocol = self.protocol or EvaluationProtocol()
        data = {"calibration": splits.calibration, "validation": splits.validation, "retraining": splits.retraining}
        return AccuracyObjective(self.network, constraints, **data, protocol=self.protocol)

    @cached_property
    def sensitivity(self) -> list[list[float]]:
        """How far the outputs move at each option of each decision: divergence of classes, else distance of all."""
        if self.objective is not None:
            from qir.search.metrics.outputs.output_divergence import divergence_guide

            images: Any = self.splits.calibration.images
            return divergence_guide(self.objective, images[: self.sensitivity_images or SENSITIVITY_IMAGES])
        constraints, samples = self.constraints, self.samples
        how: dict[str, Any] = {"metric": self.metric, "images": self.sensitivity_images, "seed": self.seed}
        how |= {"store": self.store, "pace": Pace(self.allowance.of_choice())}
        with stage("sensitivities"):
            self.measured = outputs_sensitivity(self.network, constraints, samples, **how)
        return self.measured.per_decision(constraints)

    def posed(
        self,
        objective: Callable[[Policy], float] | None = None,
        sensitivity: Sequence[Sequence[float]] | None = None,
        identity: Mapping[str, str] | None = None,
    ) -> Problem:
        """Return the network's costs and budgets with something to optimise.

        Args:
            objective: measured value of a policy, to be maximised.
            sensitivity: additive proxy, to be minimised, or a guide next to an objective.
            identity: hashes of model, data and protocol, for a store.

        Raises:
            SearchError: neither is given, or as `costs`.
        """
        return replace(self.costs, objective=objective, sensitivity=sensitivity, identity=identity or {})

    def problem(self, method: str = "milp") -> Problem:
        """Return what a method solves: measured accuracy, or the sensitivity for methods that measure no policy.

        Raises:
            SearchError: as `costs`; or a budget is on a cost that only methods which measure can keep.
        """
        from qir.search.evaluation.accuracy import search_identity

        objective = None if method in ADDITIVE else self.objective
        if objective is None:
            names = ", ".join(self.costs.metrics)
            if names:
                raise SearchError(f"budgets on {names} are kept by searches that measure policies: qir search")
            return self.posed(sensitivity=self.sensitivity)
        others = [split for split in (objective.calibration, objective.retraining) if split is not None]
        identity = search_identity(self.network, objective.validation, objective.protocol, *others)
        return self.posed(objective, self.sensitivity if method in GUIDED else None, identity)

    def solve(
        self,
        method: str = "milp",
        *,
        evaluations: int | None = None,
        progress: Callable[[Progress], None] | None = None,
        executor: Workers | None = None,
        **options: Any,
    ) -> Result:
        """Choose bits; the last result is the one that is finished and written.

        Args:
            method: a name in `qir.search.METHODS`.
            evaluations: most policies to measure.
            progress: told after each episode.
            executor: where policies are measured; in this process by default.
            **options: of the method.

        Raises:
            SearchError: as `qir.solve`.
            InfeasibleError: no policy meets a budget.
        """
        posed = self.problem(method)
        where: dict[str, Any] = {"progress": progress, "executor": executor, "time_limit": self.allowance.for_choice()}
        if posed.objective is not None:
            where["store"] = self.store
        with stage("search"):
            found = solve(posed, method, evaluations=evaluations, seed=self.seed, **where, **options)
        self.result = found if self.measured is None else ended(found, self.measured)
        self._searches[method] = posed, self.result
        return self.result

    def adopt(self, result: Result, finished: Module | None = None) -> None:
        """Take bits that were chosen elsewhere for the job's network, and the network that was trained at them."""
        _ = self.constraints
        self.result = result
        if finished is not None:
            self._finished[result.policy] = finished

    @property
    def chosen(self) -> Policy:
        """Bits of every decision: those of the last result, else the widest legal ones."""
        return self.costed.widest if self.result is None else self.result.policy

    def finish(self, decided: Mapping[str, Bits] | None = None) -> Module:
        """Return a copy of the network at a policy (the chosen one), retrained or corrected.

        Equal policies are finished once.

        Raises:
            QirError: a width is not an option.
        """
        policy = self.chosen if decided is None else Policy(decided)
        if policy not in self._finished:
            measured = self.objective
            with stage("correction" if measured is None else "retraining"):
                self._finished[policy] = (
                    self._corrected(policy)
                    if measured is None
                    else run_passes(measured.finalize(self.network, policy, self.final), self._scales)
                )
        return self._finished[policy]

    def _corrected(self, policy: Policy) -> Module:
        made = self.network.clone()
        apply_policy(made, completed(self.constraints, policy))
        last: list[Pass] = [*([AdaRound()] if self.adaround else []), *([CorrectChannels()] if self.correct else [])]
        steps = [*last, *(self._scales if last else [])]
        return run_passes(made, steps, target=self.hardware, data=self.samples)

    def export(
        self,
        output: str | Path,
        *,
        decided: Mapping[str, Bits] | None = None,
        profile: str | None = None,
        weights: WeightStorage | None = None,
        allow_mismatches: bool = False,
    ) -> ExportReport:
        """Write the network at a policy (the chosen one): lowered, run, compared, and only then named.

        Args:
            output: path of the model; guide and weights lie next to it.
            decided: bits of every decision.
            profile: export profile, by default the target's.
            weights: how 8-bit weight codes are stored; by default the target's.
            allow_mismatches: write a file too whose codes differ from the integer reference.

        Raises:
            ExportError: as `qir.export`.
        """
        self._exported = {"profile": profile, "weights": weights, "allow_mismatches": allow_mismatches}
        start = time.monotonic()
        self.written = self._export(output, self.finish(decided))
        self._finishing = time.monotonic() - start
        return self.written

    @stage("export")
    def _export(self, output: str | Path, module: Module) -> ExportReport:
        sources = dict(self.splits.sources)
        return export(module, output, target=self.hardware, data=self._judge.shown, splits=sources, **self._exported)

    def compare(
        self, rows: Mapping[str, Mapping[str, Bits] | int], *, budget: str = "latency", test: Samples | None = None
    ) -> Comparison:
        """Hold the float network and policies against each other, all finished alike and tested once.

        Args:
            rows: label → bits of every decision, or one width for all.
            budget: cost whose share it shows.
            test: labelled samples; by default the test split.

        Raises:
            SearchError: there is no validation split, or nothing to test on.
        """
        tested = test or self.splits.judged
        if self.objective is None or tested is None:
            raise SearchError("a comparison measures accuracy: give labelled validation and test splits")
        self._compared = Comparison(self.objective, self.costs, budget, tested, self.finish)
        self._compared.add_float()
        for label, decided in rows.items():
            self._compared.add(label, decided)
        return self._compared

    @property
    def costed(self) -> Costed:
        """What policies of the network cost, for rows of tables."""
        return Costed(self.network, self.constraints, self.table, None if self.result is None else self.costs)

    def outcome(self, *, compare: bool = True) -> Quantized:
        """Return what was decided, what it costs, how accurate it is and what was written.

        Args:
            compare: measure uniform widths too, finished and written like the chosen policy, where bits were searched.

        Raises:
            QirError: nothing was exported yet.
        """
        if self.written is None:
            raise QirError("nothing is written yet: export the job first")
        judge, module, costed = self._judge, self.finish(), self.costed
        agreement, extras = judge.agreement(self.written), Extras[Tried](self.allowance, self._finishing)
        others = (extras, partial(self._tried, judge)) if compare and self.result is not None else None
        given = Path(self.model).stat().st_size if isinstance(self.model, str | Path) else None
        rows = closing_rows(costed, self.chosen, agreement, self.written, given=given, others=others)
        return Quantized(
            written=self.written,
            result=self.result,
            policy=policy_of(module.graph),
            agreement=agreement,
            rows=rows,
            layers=costed.layers(self.chosen),
            left_float=dict(self._reports.get(InsertFakeQuant.name, {})),
            notes=(*self._notes, *extras.notes),
            measured_by="" if self.measured is None else self.measured.metric,
            provenance=self._provenance(),
            options={name: self.constraints.options[name] for name in self.constraints.decisions},
            reference=costed.reference(self.chosen),
            grounds=Grounds.of(self.network, self.constraints, self._posed),
            target=self.hardware,
            module=module,
            samples=judge.shown,
            searches={method: result for method, (_, result) in self._searches.items()},
            compared=() if self._compared is None else tuple(self._compared.table()),
            drawing=drawing_of(module),
            noise=judge.noise(self.written),
        )

    def report(self, path: str | Path) -> Path:
        """Write the outcome as one HTML page; see `Quantized.report`."""
        return self.outcome(compare=False).report(path)

    @property
    def _posed(self) -> Problem | None:
        """The problem whose solution is the last result; None where bits were chosen elsewhere."""
        return next((posed for posed, result in self._searches.values() if result is self.result), None)

    @property
    def _notes(self) -> tuple[str, ...]:
        return (*self.splits.notes, *self._reports.get(InferTypes.name, ()), *self._without_hardware)

    @property
    def _without_hardware(self) -> tuple[str, ...]:
        model = self.hardware.cost_model()
        return () if model.knows_cycles else model.notes

    @property
    def _calibrated(self) -> bool:
        return isinstance(self.model, Module) and bool(quantizers(self.model.graph))

    @property
    def _scales(self) -> list[Pass]:
        return parse_pipeline(SCALES[self.hardware.export.requantization].lstrip(","))

    @property
    def _judge(self) -> Judge:
        chose = self.result is not None and not self.result.minimised
        return Judge(self.original, self.splits, self.samples, chose)

    def _tried(self, judge: Judge, policy: Policy) -> Tried:
        """Finish and write a policy like the chosen one, in a folder that goes."""
        return judge.try_out(lambda path: self._export(path, self.finish(policy)))

    def _provenance(self) -> dict[str, Any]:
        named = isinstance(self.model, str | Path)
        settings = (
            *("input_widths", "calibration", "before", "insert", "correct", "adaround", "reduce_range", "seed"),
            *("metric", "time_limit"),
        )
        return provenance(
            model=Path(str(self.model)).name if named else "network",
            sha256=self.network.meta.get("source_sha256", ""),
            target=self.hardware.name,
            budgets={name: limit for name, limit in self.budgets.items() if isinstance(limit, Budget)},
            splits=self.splits.sources,
            settings={name: getattr(self, name) for name in settings if getattr(self, name) not in ("", False, None)},
        )
