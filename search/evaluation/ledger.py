"""The ledger of a run: measures policies, never twice, counts them, keeps every one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from qir.errors import SearchError
from qir.policy import Policy
from qir.search.evaluation.parallel import InProcess, Measured, Workers
from qir.search.problem.problem import Problem
from qir.search.problem.result import VALUE, Evaluation, Progress, pareto_front
from qir.support.progress import advance

if TYPE_CHECKING:
    from qir.search.evaluation.store import Store

Row = tuple[int, ...]


class Ledger:
    """Evaluates policies of a problem on behalf of a solver.

    A policy that was evaluated before costs nothing and is not counted again. A policy whose value is NaN, or whose
    objective raises, is recorded with its error, counted, and scores NaN.

    Args:
        problem: what is searched.
        limit: most evaluations, or None.
        store: where values are looked up and kept, or None.
        executor: where the objective runs.
        progress: told after each evaluation, or after each episode of solvers that report episodes.
        deadline: `time.monotonic()` at which to stop, or None.
    """

    def __init__(
        self,
        problem: Problem,
        limit: int | None = None,
        store: Store | None = None,
        executor: Workers | None = None,
        progress: Callable[[Progress], None] | None = None,
        deadline: float | None = None,
    ) -> None:
        if store is not None and problem.objective is not None and not problem.identity:
            raise SearchError(
                "store: the problem has no identity, so a changed model or data set would go unnoticed; "
                "give Problem(identity={'model': <hash>, 'data': <hash>, 'protocol': <hash>})"
            )
        self.problem = problem
        self.minimised = problem.objective is None
        self.evaluations: list[Evaluation] = []
        self.counts = {"evaluated": 0, "failed": 0, "repeated": 0, "stored": 0}
        self.episodic = False
        self._limit = limit
        self._store = store if problem.objective is not None else None
        self._executor = executor or InProcess()
        self._progress = progress
        self._deadline = deadline
        self.selected_by = VALUE
        self._reward: Callable[[Row, float], float] | None = None
        self._scores: dict[Row, float] = {}
        self._best: tuple[tuple[float, float], Evaluation] | None = None
        self._episodes = 0
        self._best_reward = -np.inf

    @property
    def remaining(self) -> int:
        """Evaluations that are left; 0 when the time is over."""
        if self._late:
            return 0
        return 2**62 if self._limit is None else max(0, self._limit - len(self.evaluations))

    @property
    def _late(self) -> bool:
        """The time is over and there is something to return."""
        return self._deadline is not None and bool(self.evaluations) and time.monotonic() > self._deadline

    @property
    def limited(self) -> bool:
        """A number of evaluations was given."""
        return self._limit is not None

    @property
    def best(self) -> Evaluation | None:
        """The best evaluation so far."""
        return self._best[1] if self._best else None

    def select_by(self, name: str, reward: Callable[[Row, float], float]) -> None:
        """Let the best evaluation be the one with the highest reward, not with the highest score.

        Args:
            name: of the reward.
            reward: option indices and score of a policy → its reward; of equal rewards the higher score is better.
        """
        self.selected_by, self._reward, self._best = name, reward, None
        for index, (row, score) in enumerate(self._scores.items()):
            self.evaluations[index] = self._rewarded(row, score, self.evaluations[index])

    def _rewarded(self, row: Row, score: float, evaluation: Evaluation) -> Evaluation:
        """Return the evaluation with its reward; it becomes the best one if no other has more."""
        if np.isnan(score):
            return evaluation
        reward = score if self._reward is None else self._reward(row, score)
        found = evaluation if self._reward is None else replace(evaluation, reward=reward)
        if self._best is None or (reward, score) > self._best[0]:
            self._best = ((reward, score), found)
        return found

    def known(self, row: Iterable[int]) -> bool:
        """Return whether the policy with these option indices was evaluated in this run."""
        return tuple(int(i) for i in row) in self._scores

    def scored(self) -> dict[Row, float]:
        """Option indices -> score of every evaluation so far (larger is better, NaN = failed)."""
        return dict(self._scores)

    def rewards(self) -> dict[Row, float]:
        """Option indices -> what policies are selected by (larger is better, NaN = failed)."""
        found = zip(self._scores.items(), self.evaluations, strict=True)
        return {row: score if evaluation.reward is None else evaluation.reward for (row, score), evaluation in found}

    def score(self, row: Iterable[int]) -> float:
        """Evaluate one policy: larger is better; NaN if it failed or the time is over.

        Raises:
            SearchError: no evaluation is left and the policy is not known.
        """
        return self.score_all([row])[0]

    def score_all(self, rows: Iterable[Iterable[int]]) -> list[float]:
        """Evaluate policies, in parallel if the executor is; the order of the ledger is the order given.

        Policies beyond the number of evaluations left or the deadline score NaN and are not recorded.
        """
        wanted = [tuple(int(i) for i in row) for row in rows]
        fresh: list[Row] = []
        for row in wanted:
            if row in self._scores or row in fresh:
                self.counts["repeated"] += 1
            else:
                fresh.append(row)
        remaining = self.remaining
        if len(wanted) == 1 and fresh and not remaining and not self._late:
            raise SearchError("no evaluation is left")
        self._evaluate(fresh[:remaining])
        return [self._scores.get(row, float("nan")) for row in wanted]

    def report(self, row: Iterable[int], reward: float) -> None:
        """Tell the progress callback that an episode ended with this policy and reward."""
        self._episodes += 1
        if reward > self._best_reward:
            self._best_reward = reward
        if self._progress is None:
            return
        policy = self.problem.policy(row)
        name = next(iter(self.problem.budgets), None)
        self._progress(
            Progress(
                episode=self._episodes,
                evaluations=len(self.evaluations),
                reward=reward,
                best=self._best_reward,
                value=self.best.value if self.best else float("nan"),
                ratio=self.problem.ratio(name, policy) if name else float("nan"),
                policy=policy,
            )
        )

    def front(self) -> list[Evaluation]:
        """Pareto front over all evaluations so far: value against every budgeted cost (all costs without budgets)."""
        names = list(self.problem.budgets) or list(self.problem.cost_names)
        return pareto_front(self.evaluations, names, self.minimised)

    def evaluation(self, row: Sequence[int], value: float, seconds: float = 0.0) -> Evaluation:
        """Return a row of the ledger for a policy whose value is known."""
        policy = self.problem.policy(row)
        costs = {name: self.problem.cost(name, policy) for name in (*self.problem.cost_names, *self.problem.metrics)}
        return Evaluation(policy, value, costs, seconds)

    def _evaluate(self, rows: Sequence[Row]) -> None:
        """Measure rows; each value is stored as it comes, the ledger keeps the order given."""
        policies = [self.problem.policy(row) for row in rows]
        found: dict[int, tuple[Measured, bool]] = {}
        if self._store is not None:
            for i, policy in enumerate(policies):
                measured = self._store.get(self.problem.identity, policy)
                if measured is not None:
                    found[i] = (measured, True)
        missing = [i for i in range(len(rows)) if i not in found]
        recorded = self._record_ready(rows, policies, found, 0)
        for place, measured in self._measure([policies[i] for i in missing]):
            i = missing[place]
            if self._store is not None:
                self._store.put(self.problem.identity, policies[i], measured)
            found[i] = (measured, False)
            recorded = self._record_ready(rows, policies, found, recorded)
            if self._late:
                break

    def _record_ready(
        self, rows: Sequence[Row], policies: Sequence[Policy], found: dict[int, tuple[Measured, bool]], start: int
    ) -> int:
        while start in found:
            self._record(rows[start], policies[start], *found[start])
            start += 1
        return start

    def _measure(self, policies: Sequence[Policy]) -> Iterator[tuple[int, Measured]]:
        if self.problem.objective is not None:
            yield from self._executor.measure(self.problem.objective, policies)
            return
        sensitivity = self.problem.tables.proxy
        for i, policy in enumerate(policies):
            yield i, Measured(float(sensitivity.total(np.array([self.problem.indices(policy)]))[0]), 0.0, None)

    def _record(self, row: Row, policy: Policy, measured: Measured, stored: bool) -> None:
        problem = self.problem
        costs = {name: problem.cost(name, policy) for name in (*problem.cost_names, *problem.metrics)}
        evaluation = Evaluation(policy, measured.value, costs, measured.seconds, measured.error, stored)
        score = -measured.value if self.minimised else measured.value
        self.evaluations.append(self._rewarded(row, score, evaluation))
        self.counts["evaluated"] += 1
        self.counts["stored"] += stored
        self.counts["failed"] += bool(np.isnan(score))
        self._scores[row] = score
        advance(len(self.evaluations), self._limit or 0)
        if not self.episodic:
            self.report(row, score)
