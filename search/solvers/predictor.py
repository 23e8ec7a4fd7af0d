"""APQ's search with a fixed architecture: a learned accuracy predictor, evolution on its predictions."""

from __future__ import annotations

from typing import Any

import numpy as np

from qir.errors import MissingExtraError, SearchError
from qir.search.problem.moves import Widths
from qir.search.problem.parts import Floats
from qir.search.solvers.evolution import Breeder
from qir.search.solvers.run import Outcome, Row, Run

_ROUNDS = 4
"""Times that the predictor is trained and its best policies are measured."""

_POPULATION = 100
"""Policies alive while evolving; half of the children are mutants, half crossed."""

_PARENTS = 0.25
"""Share of the population that breeds."""

_GENERATIONS = 10
"""Generations a round."""

_HIDDEN = (400, 400, 400)
"""Units in the hidden layers."""


def predictor_evolution(run: Run, share: float = 0.5) -> Outcome:
    """Measure random policies, train a perceptron on them, evolve on its predictions, measure the best, again.

    APQ (Wang et al. 2020) trains once on thousands of samples of a supernet; here the evaluations are split: `share` of
    them trains the first predictor, the rest is spent in four rounds, and every value joins the training data.

    Args:
        run: the run.
        share: share of the evaluations that are random.

    Raises:
        SearchError: the number of evaluations was not given.
    """
    if not run.ledger.limited:
        raise SearchError("apq: needs a number of evaluations: solve(..., evaluations=200)")
    breeder = Breeder(run, crossover=0.5, mutations=max(1.0, 0.1 * len(run.problem.decisions)))
    widths = Widths(run.problem)
    run.ledger.score_all(breeder.fresh(max(2, int(share * run.ledger.remaining))))
    batch = max(1, -(-run.ledger.remaining // _ROUNDS))
    trained = 0
    while run.ledger.remaining:
        model = _trained(run, widths)
        trained += 1
        chosen = _evolved(run, breeder, widths, model)
        fresh = [row for row in chosen if not run.ledger.known(row)][: min(batch, run.ledger.remaining)]
        fresh = fresh or breeder.fresh(min(batch, run.ledger.remaining))
        if not fresh:
            break
        run.ledger.score_all(fresh)
    return Outcome(counts={"predictors": trained})


def _trained(run: Run, widths: Widths) -> Any:
    """Return a perceptron on the measured policies, targets standardised; failed policies are left out."""
    try:
        from sklearn.neural_network import MLPRegressor
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "search") from error
    good = {row: score for row, score in run.ledger.scored().items() if not np.isnan(score)}
    targets = np.array(list(good.values()))
    if len(good) < 2 or float(np.ptp(targets)) == 0.0:
        return None
    model = MLPRegressor(
        hidden_layer_sizes=_HIDDEN, max_iter=200, early_stopping=False, random_state=run.seed, tol=1e-5
    )
    return model.fit(widths.of(list(good)), (targets - targets.mean()) / targets.std())


def _predicted(model: Any, widths: Widths, rows: list[Row]) -> Floats:
    return np.zeros(len(rows)) if model is None else np.asarray(model.predict(widths.of(rows)))


def _evolved(run: Run, breeder: Breeder, widths: Widths, model: Any) -> list[Row]:
    """Return policies with the best predictions, best first."""
    scored = run.ledger.scored()
    ranked = sorted(scored, key=lambda row: -np.inf if np.isnan(scored[row]) else scored[row], reverse=True)
    alive = ranked[:_POPULATION]
    met = dict(zip(alive, _predicted(model, widths, alive), strict=True))
    for _ in range(_GENERATIONS):
        best = sorted(alive, key=lambda row: met[row], reverse=True)[: max(2, int(_PARENTS * _POPULATION))]
        drawn = run.generator.integers(len(best), size=(_POPULATION, 2))
        born = {child for a, b in drawn if (child := breeder.child(best[a], best[b])) is not None}
        children = sorted(born - set(met))
        if children:
            met.update(zip(children, _predicted(model, widths, children), strict=True))
        alive = sorted({*best, *children}, key=lambda row: met[row], reverse=True)[:_POPULATION]
    return sorted(met, key=lambda row: met[row], reverse=True)
