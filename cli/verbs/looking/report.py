"""`qir report`: a page from a saved search result."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qir.cli.answers import Answer
from qir.errors import SearchError

if TYPE_CHECKING:
    from qir.search.problem.result import Result

HEADINGS = ("search", "best value", "cost", "policies", "seconds", "certificate")


def report(
    results: Annotated[
        list[Path], typer.Argument(help="Results that `qir search --result` wrote; several are compared.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML page.")] = Path("report.html"),
    cost: Annotated[str, typer.Option(help="Cost on the horizontal axis.")] = "latency",
) -> Answer:
    """Write one self-contained HTML page: value over episodes, and value against cost of every policy tried.

    qir report rl.json random.json -o report.html
    """
    from qir.search.report.console import CONSOLE
    from qir.search.report.page import Report

    read = read_all(results)
    _check_cost(read, cost)
    first = next(iter(read.values()))
    page = Report(
        title="Mixed-precision search",
        facts=[
            f"{label} ({r.method}, seed {r.seed}): {line}"
            for label, r in read.items()
            for line in r.lines("sensitivity" if r.minimised else "best measured value")
        ],
        episodes=[(i + 1, e.value) for i, e in enumerate(first.evaluations)],
        results=read,
        cost=cost,
        rows=leaderboard(read, cost),
    ).write(output)
    CONSOLE.print(f"report  {page}  ({page.stat().st_size:,} bytes)")
    return Answer({"report": page, "bytes": page.stat().st_size})


def _check_cost(results: dict[str, Result], cost: str) -> None:
    shown = [entry for result in results.values() for entry in (*result.evaluations, *result.front) if not entry.error]
    if not all(cost in entry.costs for entry in shown):
        known = sorted({name for entry in shown for name in entry.costs})
        raise SearchError(f"cost {cost!r}: the results have {', '.join(known) or 'no costs'}: name one with --cost")


def read_all(paths: list[Path]) -> dict[str, Result]:
    """Results by the names of their files; files of one name in several folders by their paths.

    Raises:
        SearchError: a file is missing or no result.
    """
    from qir.search.problem.result import read_result

    names = Counter(path.stem for path in paths)
    return {path.stem if names[path.stem] == 1 else str(path): read_result(path) for path in paths}


def leaderboard(results: dict[str, Result], cost: str) -> list[tuple[str, ...]]:
    """Rows of the results, the best first: measured values (maximised) before proxies (minimised)."""
    ordered = sorted(
        results.items(), key=lambda item: (item[1].minimised, item[1].value if item[1].minimised else -item[1].value)
    )
    rows = [
        (
            label,
            f"{result.value:.4g} (proxy, smaller is better)" if result.minimised else f"{result.value:.4f}",
            f"{result.costs[cost]:,.0f}" if cost in result.costs else "",
            str(len(result.evaluations)),
            f"{result.seconds:.1f}",
            str(result.certificate),
        )
        for label, result in ordered
    ]
    return [HEADINGS, *rows]
