"""`recipe("autoqnn")`: QAG, QSS and QPL (Gong et al., 2024, Algorithm 2) under budgets of a target."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from qir.backends.costs.building.builder import cost_table
from qir.errors import DataError, SearchError
from qir.fake_quant import quantizers
from qir.module import Module
from qir.passes.constraints.propagate_constraints import BitConstraints, bit_constraints
from qir.passes.infrastructure.run_passes import run_passes
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.policy import Policy
from qir.quantizers import get_scheme
from qir.search.evaluation.accuracy import ArraySamples
from qir.search.network.problem import network_problem
from qir.search.problem.parts import Budget
from qir.search.problem.problem import Problem
from qir.search.problem.result import Evaluation, Result
from qir.search.recipes.run import Recipe, RecipeTask
from qir.tensor import Array

if TYPE_CHECKING:
    from torch import Tensor

    from qir.backends.costs.target import Target
    from qir.search.gradient.autoqnn import AutoQnn
    from qir.search.gradient.autoqnn_protocol import AutoQnnProtocol, PrecisionSearch, SchemeSearch
    from qir.search.gradient.differentiable_cost import ExpectedCost
    from qir.search.gradient.learned_bits import FollowingBits, LearnedBits

QAG = "insert-fake-quant{{placement=qag,input_widths={inputs}}},propagate-constraints,calibrate{{weights=mse}},fit-bias"
"""From a simplified network to AutoQNN's quantized architecture (Algorithm 1), calibrated."""

BITS = "bits"
"""Budget of the paper: average bits over all values of weights and activations that are decided (equation 6)."""

EPOCHS = 70
"""The paper's 10 epochs of scheme search and 60 of precision learning."""


@dataclass(frozen=True)
class AutoQnnResult(Result):
    """A `Result` with what AutoQNN learned next to the bits.

    Attributes:
        module: the network with schemes, bits, trained weights and fitted ranges.
        schemes: scheme of every quantizer that is decided or follows from a decision.
        scheme_search: probabilities and losses of every epoch of the scheme search.
        precision: real-valued bits and losses of precision learning.
    """

    module: Module | None = None
    schemes: Mapping[str, str] | None = None
    scheme_search: SchemeSearch | None = None
    precision: PrecisionSearch | None = None


def quantized_architecture(
    module: Module, target: Target, images: Array, *, input_widths: str = "8", seed: int = 0
) -> BitConstraints:
    """Stage 1, QAG: quantizing vertices on every edge into an expensive vertex, in place; what the target leaves open.

    A network that has quantizers already keeps them.
    """
    if not quantizers(module.graph):
        steps = f"{SIMPLIFY},{QAG.format(inputs=input_widths)}"
        run_passes(module, steps, target=target, data=images, seed=seed)
    return bit_constraints(module, target.operand_rules())


def run_autoqnn(
    module: Module,
    images: Array,
    labels: Array,
    *,
    target: Target,
    budget: Mapping[str, Budget],
    input_widths: str = "8",
    epochs: int | None = None,
    seed: int = 0,
    candidates: Sequence[str] | None = None,
    granularity: str = "layer",
    protocol: AutoQnnProtocol | None = None,
) -> AutoQnnResult:
    """Run Algorithm 2 on the first half of the samples; the result's value is the accuracy on the second half.

    Args:
        module: float or calibrated network; changed: it gets the quantizers.
        images: float32 [N, ...].
        labels: int64 [N].
        target: hardware: its legal widths and pairs, and its cost table.
        budget: `bits`, `latency`, `energy`, `bops` or `size` → limit; the expected cost is a loss while bits are
            learned, and the legal policy nearest to the learned bits within every budget is found exactly (HiGHS).
        input_widths: as in `prepare`.
        epochs: of both stages together, one seventh for the scheme search as in the paper; 70 unless given.
        seed: of every random choice, unless a protocol is given.
        candidates: schemes to choose from; the paper's by default.
        granularity: `layer` or `model`.
        protocol: rates and lengths, in place of `epochs` and `seed`.

    Raises:
        DataError: labels are missing, or there are fewer than two samples.
        SearchError: no decision is left open, or no width has a scheme.
        InfeasibleError: no policy meets a budget.
    """
    from qir.backends.torch.module import TorchModule
    from qir.backends.training.retrain import accuracy
    from qir.search.gradient.autoqnn import CANDIDATES, AutoQnn
    from qir.search.gradient.autoqnn_protocol import AutoQnnProtocol

    if len(images) != len(labels) or len(images) < 2:
        raise DataError("recipe 'autoqnn' trains: give labels, one for each image, and two images or more")
    constraints = quantized_architecture(module, target, images, input_widths=input_widths, seed=seed)
    if not constraints.decisions:
        raise SearchError("recipe 'autoqnn': the target leaves no decision open; quantize without a search")
    first = max((epochs or EPOCHS) // 7, 1)
    plan = protocol or AutoQnnProtocol(
        scheme_epochs=first, precision_epochs=max((epochs or EPOCHS) - first, 1), seed=seed
    )
    started, half = time.perf_counter(), len(images) // 2
    run = AutoQnn(module, images[:half], labels[:half], plan)
    limits = _problem(run, constraints, constraints, target, budget).tables.limits
    found = run.search_schemes(candidates or CANDIDATES, granularity=granularity)
    _give_way(constraints, found)
    open_ = _allowed(constraints, found.schemes)
    if not open_.decisions:
        raise SearchError(
            f"autoqnn: the schemes {sorted({*found.schemes.values()})} leave no width open: add candidates"
        )
    problem = _problem(
        run, constraints, open_, target, {name: Budget(maximum=float(limit)) for name, limit in limits.items()}
    )
    precision = _learn_bits(run, constraints, open_.options, found.schemes, problem)
    made = run.finish(found.schemes, precision.policy)
    policy = Policy({name: precision.policy[name] for name in constraints.decisions})
    value = accuracy(TorchModule(made), ArraySamples(images[half:], labels[half:], "second half"))
    opened = {name: policy[name] for name in open_.decisions}
    costs = {name: problem.cost(name, opened) for name in problem.cost_names}
    evaluation = Evaluation(policy, value, costs, time.perf_counter() - started)
    names = ", ".join(sorted({*found.schemes.values()}))
    return AutoQnnResult(
        method="autoqnn",
        policy=policy,
        value=value,
        minimised=False,
        status="feasible",
        bound=None,
        gap=None,
        costs=costs,
        front=(evaluation,),
        evaluations=(evaluation,),
        seed=plan.seed,
        seconds=evaluation.seconds,
        counts={"evaluated": 1, "failed": 0, "repeated": 0, "stored": 0},
        notes=(
            f"schemes: {names}",
            "accuracy of the second half of the data, trained on the first",
            *problem.notes,
        ),
        limits={name: float(limit) for name, limit in limits.items()},
        left_out={name: problem.left_out[name] for name in limits if name in problem.left_out},
        module=made,
        schemes=found.schemes,
        scheme_search=found,
        precision=precision,
    )


@dataclass(frozen=True)
class AutoQnnRecipe(Recipe):
    """AutoQNN: the one recipe that learns by gradient, and returns the network too."""

    def _carry_out(self, task: RecipeTask) -> AutoQnnResult:
        if task.store is not None:
            raise SearchError("recipe 'autoqnn' trains one network and keeps no measurements: leave the store out")
        return run_autoqnn(
            task.network,
            task.images,
            np.zeros(0, np.int64) if task.labels is None else task.labels,
            target=task.target,
            budget=task.budget,
            input_widths=task.input_widths,
            epochs=task.evaluations,
            seed=task.seed,
        )


def _allowed(constraints: BitConstraints, schemes: Mapping[str, str]) -> BitConstraints:
    """Return the constraints without the options that a decision's scheme, or that of a follower, does not have."""
    options = dict(constraints.options)
    for name, group in constraints.groups().items():
        options[name] = tuple(
            o
            for o in options[name]
            if all(m[o] in get_scheme(schemes[q]).widths for q, m in group.items() if q in schemes)
        )
        if not options[name]:
            chosen = {quantizer: schemes[quantizer] for quantizer in group if quantizer in schemes}
            raise SearchError(
                f"autoqnn: no legal width of {name!r} exists in the schemes {chosen}: change the candidates"
            )
    return replace(constraints, options=options)


def _give_way(constraints: BitConstraints, found: SchemeSearch) -> None:
    """Replace schemes of one width by the most probable one of several, where a decision would have no width left.

    A decision's options and those of its followers are tied by the target, so that all of their schemes must have one
    option in common.
    """
    for name, group in constraints.groups().items():
        members = {q: widths for q, widths in group.items() if q in found.schemes}
        if any(
            all(widths[o] in get_scheme(found.schemes[q]).widths for q, widths in members.items())
            for o in constraints.options[name]
        ):
            continue
        for quantizer in members:
            chances = found.probabilities[-1][quantizer]
            several = [scheme for scheme in chances if len(get_scheme(scheme).widths) > 1]
            if several and found.schemes[quantizer] not in several:
                found.schemes[quantizer] = max(several, key=chances.__getitem__)


def _problem(
    run: AutoQnn, constraints: BitConstraints, open_: BitConstraints, target: Target, budget: Mapping[str, Budget]
) -> Problem:
    """Return the costs and relations of the decisions with several options, with the average of bits as a further cost.

    Args:
        run: the network.
        constraints: what the target leaves open.
        open_: what is left of it; the average counts decisions of one option too.
        target: the hardware.
        budget: limits.
    """
    table = cost_table(run.module, target)
    problem = network_problem(run.module, open_, table, budgets={})
    groups = constraints.groups()
    total = sum(run.elements[quantizer] for group in groups.values() for quantizer in group)
    bits = {
        name: [sum(run.elements[q] * widths[o] for q, widths in group.items()) / total for o in open_.options[name]]
        for name, group in groups.items()
    }
    fixed = sum(bits[name][0] for name in bits if name not in open_.decisions)
    return replace(
        problem,
        costs={**problem.costs, BITS: [bits[name] for name in open_.decisions]},
        fixed_costs={**problem.fixed_costs, BITS: fixed},
        budgets=budget,
    )


def _learn_bits(
    run: AutoQnn,
    constraints: BitConstraints,
    open_options: Mapping[str, tuple[int, ...]],
    schemes: Mapping[str, str],
    problem: Problem,
) -> PrecisionSearch:
    """Carry out stage 3, QPL: a real number of bits per decision, drawn under the budgets by their expected cost.

    Args:
        run: the network and its training.
        constraints: what the target leaves open.
        open_options: the options of each decision that its scheme has; one may be all that is left.
        schemes: scheme of each quantizer.
        problem: costs and budgets of the decisions with several such options.
    """
    import torch

    from qir.search.gradient.differentiable_cost import ExpectedCost, precision_loss
    from qir.search.gradient.learned_bits import FollowingBits, LearnedBits
    from qir.search.methods import solve

    limits = {name: float(problem.limit(name)) for name in problem.budgets}
    expected = {name: ExpectedCost.of_problem(problem, name) for name in problem.budgets}
    start = _start(constraints, expected, limits)
    learned: dict[str, LearnedBits] = {}
    all_of: dict[str, LearnedBits | FollowingBits] = {}
    for name, group in constraints.groups().items():
        options = open_options[name]
        learned[name] = all_of[name] = LearnedBits(run.grid(name, schemes[name]), options, start)
        for follower, mapping in group.items():
            if follower != name and follower in schemes:
                widths = {option: mapping[option] for option in options}
                all_of[follower] = FollowingBits(run.grid(follower, schemes[follower]), learned[name], widths)

    def penalty(bits: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros(())
        for name, cost in expected.items():
            found = cost(bits)
            total = total + (
                precision_loss(found, limits[name]) if name == BITS else torch.relu(found / limits[name] - 1) ** 2
            )
        return total

    def choose(found: Mapping[str, float]) -> Mapping[str, int]:
        distance = [
            [run.elements[decision.name] * (float(option) - found[decision.name]) ** 2 for option in decision.options]  # type: ignore[arg-type]
            for decision in problem.decisions
        ]
        largest = max(max(row) for row in distance) or 1.0
        nearest = replace(problem, sensitivity=[[value / largest for value in row] for row in distance])
        chosen = {name: bits for name, bits in solve(nearest, "milp").policy.items() if isinstance(bits, int)}
        return {name: options[0] for name, options in open_options.items() if name in learned} | chosen

    return run.train_bits(all_of, penalty, choose, limits.get(BITS, float("nan")))


def _start(constraints: BitConstraints, expected: Mapping[str, ExpectedCost], limits: Mapping[str, float]) -> float:
    """Return one bit more than the number of bits that, everywhere, meets every budget."""
    import torch

    low, high = 1.0, float(max(max(constraints.options[name]) for name in constraints.decisions))
    for _ in range(20):
        middle = (low + high) / 2
        bits = dict.fromkeys(constraints.decisions, torch.tensor(middle))
        if all(float(cost(bits)) <= limits[name] for name, cost in expected.items()):
            low = middle
        else:
            high = middle
    return low + 1
