"""The report: one self-contained HTML page that shows what was traded for what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from qir.errors import MissingExtraError, SearchError
from qir.search.problem.result import Evaluation, Result
from qir.support.atomic_write import atomic_write
from qir.support.printable import html_text


@dataclass
class Report:
    """What the page shows; everything is measured by the caller.

    Attributes:
        title: heading.
        facts: lines of text above the pictures, such as seed, splits and the target's name.
        layers: layer names, in order.
        bits: per layer (input bits, weight bits) of the policy found.
        cycles: per layer (cycles of the reference, cycles of the policy found).
        bound_by: per layer what bounds it.
        episodes: number and value of every policy measured, in order.
        probabilities: [episode][decision][option], of agents that record them.
        options: option labels by decision, in the order of `probabilities`.
        results: every evaluation of each searcher, by label.
        budget: name of the cost and its limit as a share of the reference.
        reference_cost: what ratios are shares of.
        cost: name of the cost on the horizontal axis where there is no budget.
        rows: closing table, first row headings.
    """

    title: str
    facts: Sequence[str] = ()
    layers: Sequence[str] = ()
    bits: Sequence[tuple[int, int]] = ()
    cycles: Sequence[tuple[float, float]] = ()
    bound_by: Sequence[str] = ()
    episodes: Sequence[tuple[int, float]] = ()
    probabilities: Sequence[Sequence[Sequence[float]]] = ()
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    results: Mapping[str, Result] = field(default_factory=dict)
    budget: tuple[str, float] | None = None
    reference_cost: float = 1.0
    cost: str = "latency"
    rows: Sequence[Sequence[str]] = ()

    def write(self, path: str | Path) -> Path:
        """Write the page atomically.

        Raises:
            MissingExtraError: Plotly is not installed.
            SearchError: the file cannot be written.
        """
        page = self.to_html()
        with atomic_write(path, SearchError) as file:
            file.write_text(page, encoding="utf-8")
        return Path(path)

    def to_html(self) -> str:
        """Return the page as text; pictures are inline, nothing is fetched."""
        pictures = [self._bits(), self._cycles(), self._rewards(), self._probabilities(), self._trade()]
        parts = [picture for picture in pictures if picture is not None]
        figures = "".join(f"<section>{_inline(figure, index)}</section>" for index, figure in enumerate(parts))
        facts = "".join(f"<li>{html_text(fact)}</li>" for fact in self.facts)
        return (
            "<!doctype html><html lang='en'><meta charset='utf-8'>"
            f"<title>{html_text(self.title)}</title><style>{_STYLE}</style>"
            f"<h1>{html_text(self.title)}</h1><ul>{facts}</ul>{_table(self.rows)}{figures}</html>\n"
        )

    def _bits(self) -> Any:
        if not self.bits:
            return None
        go = _plotly()
        bars = {"input bits": [a for a, _ in self.bits], "weight bits": [w for _, w in self.bits]}
        figure = go.Figure([go.Bar(name=name, x=_labels(self.layers), y=y, text=y) for name, y in bars.items()])
        return figure.update_layout(title="Bits per layer of the policy found", yaxis_title="bits", **_LAYOUT)

    def _cycles(self) -> Any:
        if not self.cycles:
            return None
        go = _plotly()
        figure = go.Figure(
            [
                go.Bar(name="uniform 8/8", x=_labels(self.layers), y=[before for before, _ in self.cycles]),
                go.Bar(
                    name="policy found",
                    x=_labels(self.layers),
                    y=[after for _, after in self.cycles],
                    text=_labels(self.bound_by),
                ),
            ]
        )
        return figure.update_layout(
            title="Latency per layer before and after (label: what bounds it)", yaxis_title="cycles", **_LAYOUT
        )

    def _rewards(self) -> Any:
        if not self.episodes:
            return None
        go = _plotly()
        x = [episode for episode, _ in self.episodes]
        values = [value for _, value in self.episodes]
        best = list(accumulate(values, max))
        figure = go.Figure(
            [
                go.Scatter(name="measured", x=x, y=values, mode="markers"),
                go.Scatter(name="best so far", x=x, y=best, mode="lines", line_shape="hv"),
            ]
        )
        return figure.update_layout(
            title="Accuracy on the search-validation split over episodes (reward = 10 x accuracy)",
            xaxis_title="episode",
            yaxis_title="accuracy",
            **_LAYOUT,
        )

    def _probabilities(self) -> Any:
        """Return the probability of every option over the episodes (ReLeQ, Elthakeb et al., 2020, figure 5)."""
        if not self.probabilities or not self.options:
            return None
        go = _plotly()
        from plotly.subplots import make_subplots

        rows = -(-len(self.options) // _COLUMNS)
        figure = make_subplots(rows=rows, cols=_COLUMNS, subplot_titles=_labels(self.options), shared_yaxes=True)
        x = list(range(1, len(self.probabilities) + 1))
        shown: dict[str, str] = {}
        for place, labels in enumerate(self.options.values()):
            for option, label in enumerate(labels):
                y = [episode[place][option] for episode in self.probabilities]
                color, name = {"color": shown.get(label, _color(len(shown)))}, html_text(label)
                line = go.Scatter(
                    name=name,
                    x=x,
                    y=y,
                    line=color,
                    mode="lines",
                    legendgroup=label,
                    showlegend=label not in shown,
                )
                shown[label] = color["color"]
                figure.add_trace(line, row=place // _COLUMNS + 1, col=place % _COLUMNS + 1)
        layout = {**_LAYOUT, "height": 120 + 220 * rows}
        return figure.update_layout(title="Probability of every option over the episodes", **layout)

    def _trade(self) -> Any:
        if not self.results:
            return None
        go = _plotly()
        name = self.budget[0] if self.budget else self.cost
        shown = html_text(name)
        proxy = any(result.minimised for result in self.results.values())
        what = "Sensitivity (proxy)" if proxy else "Accuracy (search-validation split)"
        figure = go.Figure()
        for number, (label, result) in enumerate(self.results.items()):
            color = _color(number)
            tried, front = (
                [e for e in found if e.error is None and name in e.costs]  # what has no such cost has no place here
                for found in (result.evaluations, result.front)
            )
            figure.add_scatter(
                name=html_text(label),
                x=[e.costs[name] / self.reference_cost for e in tried],
                y=[e.value for e in tried],
                mode="markers",
                marker={"color": color},
                text=_labels(map(_short, tried)),
            )
            figure.add_scatter(
                name=f"{html_text(label)}: front",
                x=[e.costs[name] / self.reference_cost for e in front],
                y=[e.value for e in front],
                mode="lines",
                line={"color": color, "shape": "hv"},
            )
        if self.budget:
            figure.add_vline(x=self.budget[1], line_dash="dash", annotation_text="budget")
        return figure.update_layout(
            title=f"{what} against {shown} of every policy tried",
            xaxis_title=shown if self.reference_cost == 1.0 else f"{shown}, share of uniform 8/8",
            yaxis_title="sensitivity" if proxy else "accuracy",
            **_LAYOUT,
        )


def _labels(texts: Iterable[str]) -> list[str]:
    """Return labels for plotly, which reads tags in them."""
    return [html_text(text) for text in texts]


def _color(number: int) -> str:
    """Return one of a few colors, the same for the same number in every picture."""
    from plotly.colors import qualitative

    return str(qualitative.Plotly[number % len(qualitative.Plotly)])


def _inline(figure: Any, index: int) -> str:
    """Return a picture as HTML; the first one brings the library."""
    options = {"full_html": False, "include_plotlyjs": index == 0, "config": {"displaylogo": False}}
    return str(figure.to_html(div_id=f"figure-{index}", **options))


_COLUMNS = 4
_LAYOUT: dict[str, Any] = {"template": "plotly_white", "height": 420, "barmode": "group"}
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:1000px;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "th,td{border-bottom:1px solid #ccc;padding:.3rem .8rem;text-align:right}"
    "th:first-child,td:first-child{text-align:left}"
)


def _short(evaluation: Evaluation) -> str:
    return " ".join(f"{name}={bits}" for name, bits in evaluation.policy.items())


def _table(rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{html_text(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{html_text(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<table><tr>{head}</tr>{body}</table>"


def _plotly() -> Any:
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise MissingExtraError("plotly", "report") from error
    return go
