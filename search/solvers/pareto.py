"""Dynamic program over non-dominated labels: the whole front of an additive sensitivity against additive costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qir.errors import SearchError
from qir.search.problem.completion import frontiers
from qir.search.problem.parts import Floats, Indices
from qir.search.problem.result import Evaluation
from qir.search.problem.tables import AdditiveCost, Tables
from qir.search.solvers.run import Outcome, Run

Key = tuple[int, ...]


@dataclass(slots=True)
class _Labels:
    """Non-dominated partial policies: sensitivity and costs [labels, 1 + costs], options taken [labels, decisions]."""

    points: Floats
    rows: Indices


def pareto_dp(run: Run, labels: int = 4000) -> Outcome:
    """Extend partial policies decision by decision; drop those that another one betters in every number.

    Partial policies are compared only if they agree on the decisions that later costs and relations depend on. The
    front is exact unless a set of labels grows beyond `labels`: then it is thinned out along the first cost, and the
    status says "feasible".

    Args:
        run: the run.
        labels: most partial policies that are kept per state.

    Raises:
        SearchError: no sensitivity, or budgets that are not additive.
    """
    sensitivity = run.additive_sensitivity("pareto-dp")
    tables = run.problem.tables
    names = tables.additive_budgets or tuple(tables.costs)
    costs = [sensitivity, *(tables.costs[name] for name in names)]
    limits = np.array([np.inf, *(tables.scaled_limit(n) if n in tables.limits else np.inf for n in names)])
    final, exact = _extend_all(tables, costs, limits, labels)
    feasible = run.problem.feasible(final.rows) if len(final.rows) else np.zeros(0, dtype=bool)
    if not feasible.any():
        raise SearchError("pareto-dp: thinning lost every feasible policy; allow more labels")
    rows, values = final.rows[feasible], sensitivity.total(final.rows[feasible])
    best = int(values.argmin())
    extra: list[Evaluation] = [run.ledger.evaluation(r, float(v)) for r, v in zip(rows, values, strict=True)]
    return Outcome(
        row=tuple(int(i) for i in rows[best]),
        status="optimal" if exact else "feasible",
        bound=float(values[best]) if exact else None,
        extra=extra,
        counts={"labels": len(rows)},
    )


def _extend_all(tables: Tables, costs: list[AdditiveCost], limits: Floats, most: int) -> tuple[_Labels, bool]:
    count = len(tables.sizes)
    ahead = frontiers(count, tables.edges())
    rest = _cheapest_rest(costs, tables)
    start = np.array([[cost.fixed for cost in costs]])
    states: dict[Key, _Labels] = {(): _Labels(start, np.zeros((1, 0), dtype=np.intp))}
    exact = True
    for t in range(count):
        grown: dict[Key, list[_Labels]] = {}
        for key, labels in states.items():
            given = dict(zip(ahead[t], key, strict=True))
            for option in np.flatnonzero(tables.legal[t]):
                step = _step(tables, costs, t, int(option), given)
                if step is None:
                    continue
                points = labels.points + step
                fits = (points + rest[t + 1] <= limits).all(1)
                rows = np.column_stack([labels.rows[fits], np.full(int(fits.sum()), option)])
                now = {**given, t: int(option)}
                grown.setdefault(tuple(now[i] for i in ahead[t + 1]), []).append(_Labels(points[fits], rows))
        states = {}
        for key, parts in grown.items():
            states[key], whole = _reduced(parts, most)
            exact &= whole
    return states.get((), _Labels(np.zeros((0, len(costs))), np.zeros((0, count), dtype=np.intp))), exact


def _step(tables: Tables, costs: list[AdditiveCost], t: int, option: int, given: dict[int, int]) -> Floats | None:
    """Return costs that an option of decision t adds; None if a relation forbids it."""
    step = np.array([cost.unary[t, option] for cost in costs])
    for earlier, value in given.items():
        edge = (earlier, t)
        if edge in tables.relations and not tables.relations[edge][value, option]:
            return None
        step += [cost.pairs[edge][value, option] if edge in cost.pairs else 0.0 for cost in costs]
    return step


def _cheapest_rest(costs: list[AdditiveCost], tables: Tables) -> Floats:
    """Return a lower bound [decisions + 1, costs] on what the decisions from t on add."""
    count = len(tables.sizes)
    least = np.zeros((count + 1, len(costs)))
    for c, cost in enumerate(costs):
        for t in range(count):
            least[t, c] = cost.unary[t, tables.legal[t]].min()
            least[t, c] += sum(matrix.min() for edge, matrix in cost.pairs.items() if edge[1] == t)
    return np.asarray(np.cumsum(least[::-1], axis=0)[::-1])


def _reduced(parts: list[_Labels], most: int) -> tuple[_Labels, bool]:
    points = np.concatenate([part.points for part in parts])
    rows = np.concatenate([part.rows for part in parts])
    kept = _non_dominated(points)
    if len(kept) <= most:
        return _Labels(points[kept], rows[kept]), True
    kept = kept[np.argsort(points[kept, 1] if points.shape[1] > 1 else points[kept, 0], kind="stable")]
    thinned = [part[points[part, 0].argmin()] for part in np.array_split(kept, most - 1)]
    chosen = np.unique([*thinned, kept[0]])
    return _Labels(points[chosen], rows[chosen]), False


def _non_dominated(points: Floats) -> Indices:
    order = np.lexsort(points.T[::-1])
    ordered = points[order]
    if points.shape[1] == 1:
        return np.asarray(order[:1])
    if points.shape[1] == 2:
        best = np.minimum.accumulate(ordered[:, 1])
        keep = np.concatenate([[True], ordered[1:, 1] < best[:-1]])[: len(ordered)]
        return np.asarray(order[keep])
    keep = np.ones(len(ordered), dtype=bool)
    for i in range(len(ordered)):
        if keep[i]:
            keep[i + 1 :] &= (ordered[i + 1 :] < ordered[i]).any(1)
    return np.asarray(order[keep])
