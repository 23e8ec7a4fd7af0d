"""A published method as a composition of a metric, a solver and an objective, and how it is run on a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qir.backends.costs.layers.open_sizes import remember_samples
from qir.backends.costs.target import Target, TargetLike, as_target
from qir.errors import DataError, SearchError
from qir.module import Module
from qir.passes.calibration.distill_data import given_or_distilled
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.passes.data.kinds.source import Data
from qir.passes.data.samples import batches
from qir.policy import Policy
from qir.search.evaluation.identity import data_digest, module_digest
from qir.search.evaluation.splits import Splits, calibration_samples
from qir.search.job.stages import Job
from qir.search.metrics.measuring import measure
from qir.search.network.problem import read_budgets
from qir.search.problem.channels import ChannelGroups
from qir.search.problem.parts import Budget
from qir.search.problem.result import Progress, Result
from qir.search.recipes.weights_alone import weights_alone, with_kept
from qir.tensor import Array

if TYPE_CHECKING:
    from qir.backends.training.protocol import RetrainProtocol
    from qir.search.evaluation.accuracy import Samples
    from qir.search.evaluation.store import Store

OBJECTIVES = {
    "proxy": "none measured: the additive sensitivity is minimised",
    "accuracy": "measured accuracy, corrected, retrained where `train=` is given",
    "output-mse": "measured output error of the whole network (no labels)",
    "learned": "the training loss, by gradient; accuracy is measured on the half that is not trained on",
}
"""What a recipe optimises."""

MEASURED_EVALUATIONS = 50
METRIC_IMAGES = 64


@dataclass(frozen=True)
class RecipeTask:
    """What a recipe is asked for: the arguments of `Recipe.run`, read.

    Attributes:
        network: a copy that is free to be changed.
        images: float32 [N, …].
        labels: int64 [N], or None.
        train: samples that every measured policy is retrained on, or None.
        protocol: how, or None.
        target: the hardware.
        budget: limits by name of a cost.
        evaluations, seed, input_widths, metric_images, store, progress: as in `Recipe.run`.
    """

    network: Module
    images: Array
    labels: Array | None
    train: Samples | None
    protocol: RetrainProtocol | None
    target: Target
    budget: Mapping[str, Budget]
    evaluations: int | None
    seed: int
    input_widths: str
    metric_images: int
    store: Store | str | Path | None
    progress: Callable[[Progress], None] | None


@dataclass(frozen=True)
class Recipe:
    """A published method.

    Attributes:
        name: its name here.
        source: the paper.
        solver: a name in `qir.search.METHODS`.
        metric: a name in `METRICS`, or None.
        objective: a name in `OBJECTIVES`.
        differs: what differs from the paper, and why.
        metric_options: of the metric.
        solver_options: of the solver.
        channel_groups: most groups of output channels of a weight with widths of their own; 0 = one width a weight.
        relative: the solver's reward is relative to an accuracy: that of the widest policy, which is measured first.
        more_budgets: costs of its own that a budget can limit.
        insert: options of `insert-fake-quant`, such as the scheme of the weights.
        weights_only: activations keep their widest width where no weight's width depends on theirs.
        needs_budget: without a budget the widest policy would be the answer.
        protocol: name of the preset that policies are retrained by where training data are given.
    """

    name: str
    source: str
    solver: str
    metric: str | None
    objective: str
    differs: str
    metric_options: Mapping[str, Any] = field(default_factory=dict)
    solver_options: Mapping[str, Any] = field(default_factory=dict)
    channel_groups: int = 0
    relative: bool = False
    more_budgets: tuple[str, ...] = ()
    insert: str = ""
    weights_only: bool = False
    needs_budget: bool = True
    protocol: str = "short"

    def run(
        self,
        module: Module | str | Path,
        *,
        target: TargetLike,
        data: Data,
        labels: Array | None = None,
        budget: Mapping[str, Budget | str | float] | None = None,
        train: Samples | tuple[Array, Array] | None = None,
        protocol: str | RetrainProtocol | None = None,
        evaluations: int | None = None,
        seed: int = 0,
        input_widths: str = "8",
        metric_images: int = METRIC_IMAGES,
        store: Store | str | Path | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Result:
        """Choose bits for a network.

        A recipe that measures accuracy fits the correction to the first half of the data and measures on the second;
        with `train` every policy is retrained before it is measured, each from the float weights.

        Args:
            module: float or calibrated network (not changed), or a path to a float ONNX file.
            target: hardware: a `Target`, a shipped name, or a JSON file.
            data: calibration data of any kind that `calibrate` takes, one input; `distilled` makes them (ZeroQ).
            labels: int64 [N]; needed where accuracy is measured, used by metrics of the loss.
            budget: name of a cost (`latency`, `energy`, `bops`, `size`) → `Budget` or text such as "0.6x"; `releq`
                needs none.
            train: images and labels that policies are retrained on, none of them in `data`.
            protocol: how: a preset's name (`qir.backends.training.loop.PRESETS`) or a protocol; the paper's where there
                is one, else `short`.
            evaluations: policies to measure, 50 unless given; epochs of `autoqnn`, 70 unless given; nothing to a recipe
                that measures none. `releq` ends after 2000 episodes unless they are given.
            seed: of every random choice.
            input_widths: widths of the network's inputs, `all` makes them decisions.
            metric_images: how many of the data the sensitivity metric sees; nothing to a recipe without one.
            store: keeps sensitivities and measured values; later budgets and restarts measure nothing again. A recipe
                that trains keeps none, and refuses a store.
            progress: told after each episode (each evaluation where there are no episodes) of a recipe that measures
                policies.

        Returns:
            The result; its policy names decisions.

        Raises:
            QirError: bad input of any kind, no policy meets the budget, or the cost of a node with decisions is
                unknown, so that the budget would not bind.
        """
        network, images = read_data(module, data, seed)
        hardware, limits = as_target(target), read_budgets(budget or {}, self.more_budgets)
        samples, plan = self._training(train, protocol, seed)
        task = RecipeTask(
            network=network,
            images=images,
            labels=labels,
            train=samples,
            protocol=plan,
            target=hardware,
            budget={name: limit.at_clock(name, hardware.clock_hz) for name, limit in limits.items()},
            evaluations=evaluations,
            seed=seed,
            input_widths=input_widths,
            metric_images=metric_images,
            store=store,
            progress=progress,
        )
        return self._carry_out(task)

    def equip(self, job: Job) -> None:
        """Give a job that is not prepared yet the quantizers of the paper, unless it asks for others."""
        job.insert = job.insert or self.insert

    def decide(
        self,
        job: Job,
        *,
        evaluations: int | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Result:
        """Choose the bits of a job, which goes on with them: `job.export`, `job.outcome`.

        Args:
            job: its calibration data and their labels serve the recipe, its budgets, seed and store too.
            evaluations: as in `run`.
            progress: as in `run`.

        Raises:
            QirError: as `run`.
        """
        self.equip(job)
        _ = job.constraints
        samples = calibration_samples(job.network, job.samples)
        asked = None if job.protocol is None else job.protocol.retrain
        train, plan = self._training(None if asked is None else job.splits.retraining, asked, job.seed)
        task = RecipeTask(
            network=job.network.clone(),
            images=samples.images,
            labels=job.splits.labels,
            train=train,
            protocol=plan,
            target=job.hardware,
            budget=read_budgets(job.budgets, self.more_budgets),
            evaluations=evaluations,
            seed=job.seed,
            input_widths=job.input_widths,
            metric_images=METRIC_IMAGES,
            store=job.store,
            progress=progress,
        )
        found = self._carry_out(task)
        job.adopt(found, getattr(found, "module", None))
        return found

    def _carry_out(self, task: RecipeTask) -> Result:
        from qir.search.methods import solve

        job = Job(
            task.network,
            task.target,
            Splits(task.images),
            budgets=task.budget,
            input_widths=task.input_widths,
            insert=self.insert,
            seed=task.seed,
        )
        whole = job.constraints
        self._check(whole, task)
        constraints = job.constraints = weights_alone(job.network, whole) if self.weights_only else whole
        problem = job.posed(
            self._objective(job, task),
            None if self.metric is None else self._sensitivity(self.metric, job, task),
            {
                "model": module_digest(job.network),
                "data": data_digest(task.images, task.labels),
                "protocol": self._identity(task),
            },
        )
        groups = ChannelGroups.of(job.network, constraints, self.channel_groups) if self.channel_groups else None
        if groups is not None:
            problem = groups.expanded(problem)
        measures = None if self.objective == "proxy" else task.evaluations or self._evaluations()
        options = dict(self.solver_options)
        if self.relative and problem.objective is not None:
            widest = problem.policy(len(decision.options) - 1 for decision in problem.decisions)
            options["reference"] = problem.objective(widest)
        asked: dict[str, Any] = {"seed": task.seed, "store": task.store, "progress": task.progress}
        result = solve(problem, self.solver, evaluations=measures, **asked, **options)
        result = result if groups is None else replace(result, policy=groups.policy(result.policy))
        kept = {name: constraints.options[name][0] for name in set(whole.decisions) - set(constraints.decisions)}
        return with_kept(result, kept) if kept else result

    def _evaluations(self) -> int | None:
        return MEASURED_EVALUATIONS if self.needs_budget else None

    def _training(
        self, train: Samples | tuple[Array, Array] | None, protocol: str | RetrainProtocol | None, seed: int
    ) -> tuple[Samples | None, RetrainProtocol | None]:
        """Return the samples and the protocol that policies are retrained with.

        Raises:
            SearchError: the recipe measures no accuracy, or a protocol came without samples.
        """
        if train is None and protocol is None:
            return None, None
        if self.objective != "accuracy":
            raise SearchError(
                f"recipe {self.name!r} retrains no policy: leave train and protocol out, and retrain what it finds"
            )
        if train is None:
            raise SearchError(f"recipe {self.name!r}: a protocol without samples: give train=(images, labels)")
        from qir.backends.training.protocol import protocol as preset
        from qir.search.evaluation.accuracy import ArraySamples

        samples = ArraySamples(train[0], train[1], "training") if isinstance(train, tuple) else train
        if len(samples.images) != len(samples.labels):
            raise DataError(f"train: {len(samples.images)} images but {len(samples.labels)} labels; expected as many")
        given = self.protocol if protocol is None else protocol
        return samples, preset(given, seed=seed) if isinstance(given, str) else given

    def _identity(self, task: RecipeTask) -> str:
        if task.train is None:
            return f"recipe {self.objective} {self.insert}".strip()
        data = data_digest(task.train.images, task.train.labels)
        return f"recipe {self.objective} {self.insert} {task.protocol} {data}"

    def _check(self, constraints: BitConstraints, task: RecipeTask) -> None:
        images, labels = task.images, task.labels
        if not constraints.decisions:
            raise SearchError(f"recipe {self.name!r}: the target leaves no decision open; quantize without a search")
        if self.needs_budget and not task.budget:
            raise SearchError(f"recipe {self.name!r}: give a budget; without one the widest policy is the answer")
        if self.objective == "accuracy" and labels is None:
            raise DataError(f"recipe {self.name!r} measures accuracy: give labels, one for each image")
        if labels is not None and len(labels) != len(images):
            raise DataError(f"recipe {self.name!r}: {len(images)} images but {len(labels)} labels; expected as many")
        if self.objective == "accuracy" and len(images) < 2:
            raise DataError(f"recipe {self.name!r}: {len(images)} images; expected 2 or more, for two splits")

    def _sensitivity(self, metric: str, job: Job, task: RecipeTask) -> list[list[float]]:
        found = measure(
            metric,
            job.network,
            job.constraints,
            task.images[: task.metric_images],
            labels=None if task.labels is None else task.labels[: task.metric_images],
            seed=task.seed,
            store=task.store,
            **self.metric_options,
        )
        return found.per_decision(job.constraints)

    def _objective(self, job: Job, task: RecipeTask) -> Callable[[Policy], float] | None:
        module, constraints, images, labels = job.network, job.constraints, task.images, task.labels
        if self.objective == "output-mse":
            from qir.search.metrics.outputs.output_error import NetworkOutputError

            return NetworkOutputError(module, constraints, images[:50])
        if self.objective == "proxy" or labels is None:
            return None
        from qir.search.evaluation.accuracy import AccuracyObjective, ArraySamples, EvaluationProtocol

        half = len(images) // 2
        return AccuracyObjective(
            module,
            constraints,
            calibration=ArraySamples(images[:half], labels[:half], "first half"),
            validation=ArraySamples(images[half:], labels[half:], "second half"),
            retraining=task.train,
            protocol=EvaluationProtocol(retrain=task.protocol),
        )


def read_data(module: Module | str | Path, data: Data, seed: int) -> tuple[Module, Array]:
    """Return a copy of a network, or the one of a file, and the images of its one input as one array.

    Images are made from the network's batch-norm statistics where the data are the text `distilled` (ZeroQ).

    Raises:
        DataError: the network has more than one input, or the data do not fit.
    """
    from qir.search.network.preparation import load_network

    network = module.clone() if isinstance(module, Module) else load_network(module)
    feeds = list(batches(network, given_or_distilled(network, data, seed=seed)))
    if len(feeds[0]) != 1:
        raise DataError(f"recipes take networks with one input; this one has {', '.join(feeds[0])}")
    remember_samples(network, feeds[0])
    return network, np.concatenate([next(iter(feed.values())) for feed in feeds])
