"""What the benchmarks of searches on networks share: calibrated networks, splits, targets, measured objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qir import models
from qir.backends import cost_table, load_target
from qir.backends.costs.tables.table import CostTable
from qir.backends.costs.target import Target
from qir.models.data.samples import Samples
from qir.module import Module
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.policy import Policy
from qir.search import AccuracyObjective, Budget, EvaluationProtocol, Problem, load_network, network_problem, prepare
from qir.search.metrics.label_free import SENSITIVITY_IMAGES
from qir.search.metrics.measuring import measure

_CIFAR_HELD = 25
"""Of the official training images of CIFAR-10, the last of so many in a row is search-validation."""

_CALIBRATION = 512


@dataclass(frozen=True)
class Setting:
    """A calibrated network on a target, with its data.

    Attributes:
        name: what it is, for print-outs.
        module: calibrated.
        target: hardware.
        constraints: decisions and options.
        table: costs.
        calibration, validation, test: disjoint splits.
        path: of the float network.
    """

    name: str
    module: Module
    target: Target
    constraints: BitConstraints
    table: CostTable
    calibration: Samples
    validation: Samples
    test: Samples
    path: Path

    def objective(
        self, images: int | None = None, *, test: bool = False, correction_images: int = 256
    ) -> AccuracyObjective:
        """PTQ accuracy with the affine correction on the first images of the validation or the test split."""
        samples = self.test if test else self.validation
        samples = samples if images is None else samples.take(images)
        protocol = EvaluationProtocol(correction_images=correction_images)
        given = {"calibration": self.calibration, "validation": samples}
        return AccuracyObjective(self.module, self.constraints, **given, protocol=protocol)

    def sensitivity(self, images: int = SENSITIVITY_IMAGES) -> list[list[float]]:
        """Divergence of the outputs, corrected: `qir.quantize(sensitivity="exhaustive")`."""
        found = measure("output-divergence", self.module, self.constraints, self.calibration.images[:images])
        return found.per_decision(self.constraints)

    def problem(self, budgets: Mapping[str, str], **given: object) -> Problem:
        """The search problem under budgets such as {"average-bits": "3"}."""
        parsed = {name: Budget.parse(limit) for name, limit in budgets.items()}
        return network_problem(self.module, self.constraints, self.table, budgets=parsed, **given)


def weights_only(widths: tuple[int, ...] = (2, 4, 8)) -> Target:
    """A target whose activations stay at 8 bits."""
    fields = load_target("npu-148").model_dump() | {
        "name": "weights-only",
        "description": "Weights of some widths, activations at 8 bits.",
        "weight_widths": widths,
        "activation_widths": (8,),
        "pairs": tuple((8, width) for width in widths),
    }
    return Target.model_validate(fields)


def setting(network: str, target: Target, *, input_widths: str = "8", cifar: Path | None = None) -> Setting:
    """A shipped network or a file, on Fashion-MNIST or (given the folder or archive of its images) on CIFAR-10."""
    path = Path(network) if network.endswith(".onnx") else models.path(network)
    if cifar is None:
        splits = tuple(models.fashion_mnist(name) for name in ("calibration", "search-validation", "test"))
        name = f"{Path(network).stem} on Fashion-MNIST"
    else:
        train = models.cifar10("train", cifar)
        held = np.arange(len(train)) % _CIFAR_HELD == _CIFAR_HELD - 1
        first = np.flatnonzero(~held)[:_CALIBRATION]
        splits = (
            Samples(train.images[first], train.labels[first], "calibration"),
            Samples(train.images[held], train.labels[held], "search-validation"),
            models.cifar10("test", cifar),
        )
        name = f"{path.stem} on CIFAR-10"
    module = load_network(path)
    constraints = prepare(module, target, splits[0].images, input_widths=input_widths)
    table = cost_table(module, target)
    return Setting(name, module, target, constraints, table, *splits, path=path)


class Remembered:
    """An objective whose values are kept, shared by all methods: the same policy is measured once."""

    def __init__(self, objective: AccuracyObjective) -> None:
        self._objective, self.network = objective, objective.network
        self.values: dict[Policy, float] = {}

    def __call__(self, policy: Policy) -> float:
        """The measured value."""
        if policy not in self.values:
            self.values[policy] = self._objective(policy)
        return self.values[policy]


def verdict(good: bool) -> str:
    """How a line begins."""
    return "ok    " if good else "SHORT "
