"""The page: a record in JSON, and a style and a script of our own that draw it; nothing is fetched."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qir.errors import SearchError
from qir.search.problem.result import Evaluation, Result, finite
from qir.search.report.page.drawing import Drawing
from qir.search.report.page.front import Front
from qir.support.atomic_write import atomic_write
from qir.support.printable import html_text, printable

if TYPE_CHECKING:
    from qir.policy import Bits
    from qir.search.report.grounds import Grounds
    from qir.search.report.rows import Layer

MOST_BITS = 12
"""Decisions of a policy that are named under the pointer."""

MOST_TRIED = 1500
"""Policies of one search that are drawn; of more, so many evenly."""


@dataclass
class Report:
    """What the page shows; everything is measured by the caller, and what is empty is left out.

    Attributes:
        title: heading.
        lead: the outcome in a sentence.
        certificate: how good the choice is proven to be, in words.
        facts: label and text of what made it: model, hash, data, command, versions, date.
        files: what it is, name, link (relative to the page) and bytes of each file.
        rows: closing table, headings first.
        layers: bits and costs of every layer.
        noise: node → signal to quantization noise ratio of its result in decibels.
        drawing: the network.
        grounds: what the bits were decided on.
        policy: bits of every quantizer.
        front: what the slider walks along.
        results: every evaluation of each searcher, by label; the first is the one whose episodes are shown.
        probabilities: [episode][decision][option], of agents that record them.
        options: option labels by decision, in the order of `probabilities`.
        limits: budget → the most that it allows.
        cost: cost on the horizontal axis, where there is no front.
        reference: what the first budget's cost is at 8 bits everywhere.
    """

    title: str
    lead: str = ""
    certificate: str = ""
    facts: Sequence[tuple[str, str]] = ()
    files: Sequence[tuple[str, str, str, str]] = ()
    rows: Sequence[Sequence[str]] = ()
    layers: Sequence[Layer] = ()
    noise: Mapping[str, float] = field(default_factory=dict)
    drawing: Drawing = field(default_factory=Drawing)
    grounds: Grounds | None = None
    policy: Mapping[str, Bits] = field(default_factory=dict)
    front: Front | None = None
    results: Mapping[str, Result] = field(default_factory=dict)
    probabilities: Sequence[Sequence[Sequence[float]]] = ()
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    cost: str = ""
    reference: float | None = None

    def write(self, path: str | Path) -> Path:
        """Write the page atomically.

        Raises:
            SearchError: the file cannot be written.
        """
        page = self.to_html()
        with atomic_write(path, SearchError) as file:
            file.write_text(page, encoding="utf-8")
        return Path(path)

    def to_html(self) -> str:
        """Return the page as text: style, script and record are inline."""
        place = files("qir.search.report.page")
        style, script = ((place / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
        record = json.dumps(finite(self.record()), separators=(",", ":")).replace("<", "\\u003c")
        return (
            "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
            "<meta name='viewport' content='width=device-width,initial-scale=1'>"
            f"<title>{html_text(self.title)}</title><style>{style}</style></head>"
            f"<body><main id='page'></main><script type='application/json' id='record'>{record}</script>"
            f"<script>{script}</script></body></html>\n"
        )

    def record(self) -> dict[str, Any]:
        """Return what the script draws, as plain numbers, lists and text; names are printable."""
        found = {
            "title": self.title,
            "lead": self.lead,
            "certificate": self.certificate,
            "facts": [list(fact) for fact in self.facts],
            "files": [list(file) for file in self.files],
            "table": [list(row) for row in self.rows],
            "layers": [asdict(layer) for layer in self.layers],
            "noise": dict(self.noise),
            "steps": [asdict(step) for step in self.drawing.steps],
            "quantizers": {name: self._quantizer(name) for name in self.policy},
            "front": self._front(),
            "searches": [_searched(label, result) for label, result in self.results.items()],
            "probabilities": self._probabilities(),
            "options": {name: list(labels) for name, labels in self.options.items()},
            "limits": dict(self.limits),
            "cost": self.cost,
            "reference": self.reference,
        }
        clean: dict[str, Any] = _printable(found)
        return clean

    def _quantizer(self, name: str) -> dict[str, Any]:
        grounds = self.grounds
        decision, widths = (name, {}) if grounds is None else grounds.decided_by.get(name, ("", {}))
        histogram = self.drawing.weights.get(name)
        return {
            "bits": self.policy[name],
            "scheme": self.drawing.schemes.get(name, ""),
            "decision": decision,
            "widths": {str(option): bits for option, bits in widths.items()},
            "why": "" if grounds is None else grounds.restrictions.get(name, ""),
            "ranges": {} if grounds is None else {str(b): list(r) for b, r in grounds.ranges.get(name, {}).items()},
            "sensitivity": self._sensitivity(decision),
            "histogram": None if histogram is None else asdict(histogram),
        }

    def _sensitivity(self, decision: str) -> dict[str, float]:
        problem = None if self.grounds is None else self.grounds.problem
        if problem is None or problem.sensitivity is None or decision not in problem.names:
            return {}
        place = problem.names.index(decision)
        options, values = problem.decisions[place].options, problem.sensitivity[place]
        return {str(option): float(value) for option, value in zip(options, values, strict=True)}

    def _front(self) -> dict[str, Any] | None:
        front = self.front
        if front is None or len(front.points) < 2:
            return None
        decisions, names = list(front.points[0].policy), list(front.points[0].costs)
        return {
            "cost": front.cost,
            "exact": front.exact,
            "minimised": front.minimised,
            "found": front.found,
            "names": names,
            "decisions": decisions,
            "points": [[e.value, list(e.costs.values()), [e.policy[name] for name in decisions]] for e in front.points],
            "chosen": {name: self.policy.get(name) for name in decisions},
        }

    def _probabilities(self) -> list[list[list[float]]]:
        """Return probabilities to three places, of at most 400 episodes."""
        step = max(len(self.probabilities) // 400, 1)
        return [[[round(p, 3) for p in row] for row in episode] for episode in self.probabilities[::step]]


def _searched(label: str, result: Result) -> dict[str, Any]:
    """Return what the page draws of a search: number, value, costs and bits of each policy, and its front."""
    good = [(number, entry) for number, entry in enumerate(result.evaluations, 1) if entry.error is None]
    step = max(-(-len(good) // MOST_TRIED), 1)
    names = list(good[0][1].costs) if good else []
    return {
        "label": label,
        "minimised": result.minimised,
        "names": names,
        "tried": [[number, e.value, [e.costs.get(name) for name in names], _text(e)] for number, e in good[::step]],
        "front": [[e.value, [e.costs.get(name) for name in names]] for e in result.front],
    }


def _text(evaluation: Evaluation) -> str:
    bits = [f"{name}={bits}" for name, bits in evaluation.policy.items()]
    more = len(bits) - MOST_BITS
    return " ".join(bits[:MOST_BITS]) + (f" and {more} more" if more > 0 else "")


def _printable(item: Any) -> Any:
    if isinstance(item, str):
        return printable(item)
    if isinstance(item, Mapping):
        return {printable(str(key)): _printable(value) for key, value in item.items()}
    return [_printable(value) for value in item] if isinstance(item, list | tuple) else item
