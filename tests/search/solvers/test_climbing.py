"""Steps that are kept up to date say what whole policies say."""

import numpy as np
import pytest

from qir.search import Budget, Decision, PairCost, Problem, Relation, solve
from qir.search.problem.moves import Widths, neighbours
from qir.search.solvers.climbing import Climb

LEGAL = {(2, 2), (4, 4), (8, 8), (2, 4), (8, 4)}


def chain(count, seed, *, integral=True, budgets=1):
    rng = np.random.default_rng(seed)
    names = [f"d{i}" for i in range(count)]

    def numbers(*shape):
        return rng.integers(1, 40, shape).astype(float) if integral else 40 * rng.random(shape)

    costs = {"latency": np.sort(numbers(count, 3), 1), "size": np.sort(numbers(count, 3), 1)}
    limits = {name: Budget(ratio=0.7, reference=float(costs[name][:, 2].sum())) for name in list(costs)[:budgets]}
    return Problem(
        [Decision(name, (2, 4, 8)) for name in names],
        costs=costs,
        pair_costs={"size": [PairCost(names[i], names[i + 1], numbers(3, 3) / 10) for i in range(0, count - 1, 2)]},
        relations=[Relation(names[i], names[i + 1], LEGAL) for i in range(0, count - 1, 3)],
        budgets=limits,
        sensitivity=-np.sort(-numbers(count, 3), 1),
    )


def totals(problem, row):
    tables, rows = problem.tables, np.array([row])
    return tables.sensitivity.total(rows)[0], [tables.costs[n].total(rows)[0] for n in tables.additive_budgets]


@pytest.mark.parametrize("integral", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_each_step_down_is_the_best_of_all_neighbours(seed, integral):
    problem = chain(8, seed, integral=integral, budgets=2)
    widths, row = Widths(problem), (2,) * 8
    row = row if problem.tables.related(np.array([row]))[0] else neighbours(problem, widths, row)[0]
    climb = Climb(problem, widths, problem.tables.sensitivity, row)
    limits = [float(problem.limit(name)) for name in problem.budgets]

    def excess(policy):
        return sum(max(0.0, cost / limit - 1) for cost, limit in zip(totals(problem, policy)[1], limits, strict=True))

    for _ in range(20):
        before, loss = excess(climb.row), totals(problem, climb.row)[0]
        near = [(excess(n), totals(problem, n)[0]) for n in neighbours(problem, widths, climb.row)]
        prices = [(found - loss) / (before - over) for over, found in near if before - over > 1e-9]
        assert climb.feasible == problem.feasible(np.array([climb.row]))[0]
        if climb.feasible or not climb.descend():
            break
        assert climb.loss / problem.tables.sensitivity.scale == pytest.approx(totals(problem, climb.row)[0])
        taken = (totals(problem, climb.row)[0] - loss) / (before - excess(climb.row))
        assert taken == pytest.approx(min(prices))


@pytest.mark.parametrize("seed", range(4))
def test_nothing_within_the_budgets_is_left_after_filling(seed):
    problem = chain(9, seed, budgets=2)
    found = solve(problem, "greedy")
    rows = np.array(neighbours(problem, Widths(problem), problem.indices(found.policy)))
    better = problem.tables.sensitivity.total(rows) < found.value
    assert not (better & problem.feasible(rows)).any()


@pytest.mark.parametrize("budgets", [1, 2])
@pytest.mark.parametrize("seed", range(5))
def test_bounds_of_the_relaxation_hold_and_policies_are_near(seed, budgets):
    problem = chain(30, seed, budgets=budgets)
    exact, relaxed = solve(problem, "milp"), solve(problem, "lagrangian")
    assert relaxed.bound <= exact.value + 1e-9 <= relaxed.value + 1e-9
    assert relaxed.value <= 1.03 * exact.value
    assert not problem.violations(relaxed.policy)


def test_long_chains_are_near_their_bound():
    assert solve(chain(200, 0), "lagrangian").gap < 0.005
