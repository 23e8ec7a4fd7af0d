"""What a search returns: the best policy, a certificate, the front, and every evaluation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, PlainValidator

from qir.errors import QirError, SearchError
from qir.policy import Bits, Policy
from qir.support.atomic_write import atomic_write
from qir.support.html_table import html_table
from qir.support.json_text import parse_json, typed

VALUE = "value"
"""What policies are selected by where nothing else is said."""


def read_policy(found: Any) -> Policy:
    """Return a policy of JSON, where the bits of channels are lists.

    Raises:
        ValueError: it is not a map.
        QirError: bits that no quantizer can have.
    """
    if not isinstance(found, Mapping):
        raise ValueError("a policy is quantizer → bits")  # noqa: TRY004 - pydantic takes it for a wrong value
    return Policy({name: tuple(bits) if isinstance(bits, list) else bits for name, bits in found.items()})


def _number(found: Any) -> Any:
    return float("nan") if found is None else found


Number = Annotated[float, BeforeValidator(_number)]
"""A number of JSON, where null stands for NaN (`finite`)."""

ReadPolicy = Annotated[Policy, PlainValidator(read_policy)]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One policy that was looked at.

    Attributes:
        policy: the policy.
        value: measured objective, or sensitivity where the problem has no objective; NaN if it failed.
        costs: cost by name, in each cost's unit.
        seconds: wall time of the evaluation.
        error: why it failed, or None.
        stored: the value came from a store, nothing was computed.
        reward: what the method prefers policies by, where that is not the value.
    """

    policy: ReadPolicy
    value: Number
    costs: Mapping[str, Number]
    seconds: float = 0.0
    error: str | None = None
    stored: bool = False
    reward: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """What a progress callback is told after each episode (each evaluation of solvers without episodes).

    Attributes:
        episode: number of this episode, from 1.
        evaluations: policies evaluated so far.
        reward: reward of this episode (value of the policy for solvers without rewards); NaN if it failed.
        best: best reward so far.
        value: value of the best policy so far.
        ratio: cost of this episode's policy as a share of its reference, of the first budget; NaN without budgets.
        policy: this episode's policy.
    """

    episode: int
    evaluations: int
    reward: float
    best: float
    value: float
    ratio: float
    policy: Policy


@dataclass(frozen=True)
class Result:
    """The outcome of a search.

    Attributes:
        method: name of the solver.
        policy: best policy that meets every budget.
        value: its objective (maximised) or sensitivity (minimised, `minimised`).
        minimised: the value is a sensitivity: smaller is better.
        status: "optimal" (proved), "feasible" (no proof), "time-limit" (the best when time ran out),
            "interrupted" (the best when the user stopped it).
        bound: no policy has a better value than this; None where nothing was proved.
        gap: |value - bound| / |value|; None where nothing was proved.
        costs: what the policy costs, by name.
        front: policies that no other evaluated policy betters in value and every budgeted cost.
        evaluations: every evaluation, in order.
        seed: seed of the run.
        seconds: wall time of the run.
        counts: "evaluated", "failed", "repeated", "stored" and what the solver counts on its own.
        probabilities: [episode, decision, option] of agents that record them, else empty.
        notes: assumptions and limits that a reader of the figures should know.
        limits: budget name -> the most that it allowed, in the unit of its cost.
        left_out: budget name -> nodes of unknown cost that it does not count, and why.
        selected_by: what is best in the policy: "value", or the name of the reward that evaluations have.
        reward: reward of the policy, None where it was selected by its value.
    """

    method: str
    policy: ReadPolicy
    value: Number
    minimised: bool
    status: str
    bound: float | None
    gap: float | None
    costs: Mapping[str, Number]
    front: Sequence[Evaluation]
    evaluations: Sequence[Evaluation]
    seed: int
    seconds: float
    counts: Mapping[str, int] = field(default_factory=dict)
    probabilities: Sequence[Sequence[Sequence[float]]] = ()
    notes: Sequence[str] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    selected_by: str = VALUE
    reward: float | None = None

    @property
    def certificate(self) -> str:
        """Status, bound and gap in one line, and which budgets do not count all; "none" where nothing was proved."""
        if self.bound is None or self.gap is None:
            return "none" if self.status == "feasible" else f"none ({self.status})"
        partly = "".join(f", of the known part of {name}" for name in self.left_out)
        return f"{self.status}, bound {self.bound:.6g}, gap {100 * self.gap:.3g} %{partly}"

    def lines(self, measured: str) -> list[str]:
        """Return what a reader wants to know first: bits, costs against their limits, value, certificate, notes.

        Args:
            measured: what the value is, for example "accuracy".
        """
        widths = Counter(self.policy.values()).most_common()
        counted = ", ".join(f"{count} at {_option(bits)}" for bits, count in widths)
        found = [("bits", f"{len(self.policy)} decisions, {counted} bits: {self.policy}")]
        for name, limit in self.limits.items():
            found.append((name, f"{_cost(name, self.costs[name])} of at most {_cost(name, limit)}"))
        found.append(("value", f"{measured} {self.value:.4g}" + (" (smaller is better)" if self.minimised else "")))
        if self.reward is not None:
            found.append(("selected by", f"reward {self.selected_by}: {self.reward:.4g}, the highest met"))
        found.append(("certificate", self.certificate))
        found += [("left out", f"not in {name}: {what}") for name, what in self.left_out.items()]
        found += [("note", note) for note in self.notes]
        return [f"{label:<12}{text}" for label, text in found]

    def _repr_html_(self) -> str:
        """Show the front in a notebook, and what `lines` says."""
        names = list(self.limits) or sorted(self.costs)
        value = "sensitivity" if self.minimised else "value"
        rows = [
            (*(_cost(name, entry.costs[name]) for name in names), f"{entry.value:.4g}", str(entry.policy))
            for entry in self.front
        ]
        return html_table((*names, value, "policy"), rows, self.lines(value))

    def best_after(self, evaluations: int) -> float:
        """Return the best value among the first so many evaluations; NaN if all of them failed."""
        values = [e.value for e in self.evaluations[:evaluations] if not np.isnan(e.value)]
        return (min(values) if self.minimised else max(values)) if values else float("nan")

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain numbers, lists and text."""
        return {
            "method": self.method,
            "policy": _plain(self.policy),
            "value": self.value,
            "minimised": self.minimised,
            "status": self.status,
            "bound": self.bound,
            "gap": self.gap,
            "costs": dict(self.costs),
            "front": [_evaluation(e) for e in self.front],
            "evaluations": [_evaluation(e) for e in self.evaluations],
            "seed": self.seed,
            "seconds": self.seconds,
            "counts": dict(self.counts),
            "probabilities": [list(map(list, episode)) for episode in self.probabilities],
            "notes": list(self.notes),
            "limits": dict(self.limits),
            "left_out": dict(self.left_out),
            "selected_by": self.selected_by,
            "reward": self.reward,
        }

    def save(self, path: str | Path) -> None:
        """Write the result as JSON, atomically.

        Raises:
            SearchError: the file cannot be written.
        """
        with atomic_write(path, SearchError) as file:
            file.write_text(json.dumps(finite(self.to_json()), indent=1), encoding="utf-8")


def read_result(path: str | Path) -> Result:
    """Read a result that `Result.save` wrote.

    Raises:
        SearchError: the file is missing or no result.
    """
    try:
        return result_of(parse_json(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, QirError) as error:
        raise SearchError(f"{path}: no search result ({error}): expected a file of `qir search --result`") from error


def result_of(found: Any) -> Result:
    """Return the result that `Result.to_json` wrote.

    Raises:
        ValueError: it holds anything else; names the entry.
        QirError: a policy has bits that no quantizer can have.
    """
    read: Result = typed(Result, found)
    if unknown := sorted(read.limits.keys() - read.costs.keys()):
        raise ValueError(f"a limit of {unknown[0]!r}, which is not a cost of its policy")
    return read


def _option(bits: Bits) -> str:
    return "/".join(map(str, bits)) if isinstance(bits, tuple) else str(bits)


def _cost(name: str, value: float) -> str:
    """Return a cost as text; the size, which is counted in bits, in bytes too."""
    return f"{value / 8:,.0f} bytes ({_short(value)} bits)" if name == "size" else _short(value)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def pareto_front(evaluations: Iterable[Evaluation], names: Sequence[str], minimised: bool) -> list[Evaluation]:
    """Return evaluations that no other one betters in value and in every named cost, from cheap to dear.

    Args:
        evaluations: failed ones (NaN) are left out; of equals the first is kept.
        names: the costs that count.
        minimised: a smaller value is better.
    """
    good = [e for e in evaluations if not np.isnan(e.value)]
    if not good:
        return []
    sign = 1.0 if minimised else -1.0
    points = np.array([[*(e.costs[n] for n in names), sign * e.value] for e in good])
    order = np.lexsort(points.T[::-1])
    kept: list[int] = []
    for i in order:
        if not kept or not (points[kept] <= points[i]).all(1).any():
            kept.append(int(i))
    return [good[i] for i in kept]


def _evaluation(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "policy": _plain(evaluation.policy),
        "value": evaluation.value,
        "costs": dict(evaluation.costs),
        "seconds": evaluation.seconds,
        "error": evaluation.error,
        "stored": evaluation.stored,
        "reward": evaluation.reward,
    }


def _plain(policy: Mapping[str, Bits]) -> dict[str, int | list[int]]:
    return {name: list(bits) if isinstance(bits, tuple) else bits for name, bits in policy.items()}


def finite(item: Any) -> Any:
    """Return plain data for JSON, which has no NaN: these become null."""
    if isinstance(item, dict):
        return {key: finite(value) for key, value in item.items()}
    if isinstance(item, list):
        return [finite(value) for value in item]
    return None if isinstance(item, float) and not np.isfinite(item) else item
