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
        list[Path],
        typer.Argument(help="Results of `qir search --result`, several are compared; or one record of `--save`."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML page.")] = Path("report.html"),
    cost: Annotated[str, typer.Option(help="Cost on the horizontal axis.")] = "latency",
) -> Answer:
    """Write one self-contained HTML page: value over episodes, and value against cost of every policy tried.

    Of the record of a quantization, the page of its outcome: the closing table, bits and cycles by layer.

    qir report rl.json random.json -o report.html

    qir report done.json
    """
    from qir.search.report.page.report import Report

    if any(map(_is_record, results)):
        return _answer(_outcome(results, output))
    read = read_all(results)
    _check_cost(read, cost)
    first = next(iter(read.values()))
    page = Report(
        title="Mixed-precision search",
        facts=[
            (f"{label} ({r.method}, seed {r.seed})", line)
            for label, r in read.items()
            for line in r.lines("sensitivity" if r.minimised else "best measured value")
        ],
        results=read,
        limits=dict(first.limits),
        cost=cost,
        rows=leaderboard(read, cost),
    ).write(output)
    return _answer(page)


def _answer(page: Path) -> Answer:
    size = page.stat().st_size
    return Answer({"report": page, "bytes": size}, lambda terminal: terminal.print(f"report  {page}  ({size:,} bytes)"))


def _is_record(path: Path) -> bool:
    """Return whether a file holds a quantization, with files and figures, rather than a search's result."""
    from qir.support.json_text import parse_json

    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "written" in found


def _outcome(paths: list[Path], output: Path) -> Path:
    from qir.search import Quantized

    if len(paths) > 1:
        raise SearchError("a page shows one quantization: give one record; `qir compare` holds two against each other")
    return Quantized.load(paths[0]).report(output)


def _check_cost(results: dict[str, Result], cost: str) -> None:
    shown = [entry for result in results.values() for entry in (*result.evaluations, *result.front) if not entry.error]
    if not all(cost in entry.costs for entry in shown):
        known = sorted({name for entry in shown for name in entry.costs})
        raise SearchError(f"cost {cost!r}: the results have {', '.join(known) or 'no costs'}: name one with --cost")


def read_all(paths: list[Path]) -> dict[str, Result]:
    """Return results by the names of their files; files of one name in several folders by their paths.

    Raises:
        SearchError: a file is missing or no result.
    """
    from qir.search.problem.result import read_result

    names = Counter(path.stem for path in paths)
    return {path.stem if names[path.stem] == 1 else str(path): read_result(path) for path in paths}


def leaderboard(results: dict[str, Result], cost: str) -> list[tuple[str, ...]]:
    """Return rows of the results, the best first: measured values (maximised) before proxies (minimised)."""
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
