"""Results, policies and cost tables show themselves in notebooks as tables of escaped text."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

import qir
import qir.models
from qir.policy import Policy
from qir.search import Budget, Decision, Problem, solve
from qir.support.html_table import MOST_ROWS, html_table


def cells(html: str) -> list[list[str]]:
    """The rows of the one table."""
    table = ET.fromstring(f"<div>{html.replace('<br>', '<br/>')}</div>").find("table")
    return [["".join(cell.itertext()) for cell in row] for row in table]


@pytest.fixture
def problem() -> Problem:
    return Problem(
        decisions=[Decision("<b>", (4, 8)), Decision("b", (4, 8))],
        costs={"size": [[4, 8], [4, 8]]},
        budgets={"size": Budget(maximum=12)},
        sensitivity=[[1, 0], [3, 0]],
    )


def test_a_result_shows_its_front(problem):
    rows = cells(solve(problem, "pareto-dp")._repr_html_())
    assert rows[0] == ["size", "sensitivity", "policy"]
    assert rows[-1] == ["2 bytes (12 bits)", "1", "<b>=4,b=8"]


def test_a_policy_shows_bits_by_quantizer():
    assert cells(Policy({"<b>": 4, "a": 8})._repr_html_()) == [["quantizer", "bits"], ["<b>", "4"], ["a", "8"]]


def test_a_cost_table_shows_its_widest_widths():
    table = qir.cost(qir.load(qir.models.path("lenet")), "npu-148")
    rows = cells(table._repr_html_())
    assert [row[0] for row in rows[1:]] == [row.node for row in table.rows(table.uniform(8, 8))]


def test_long_tables_are_cut():
    html = html_table(["n"], [[number] for number in range(MOST_ROWS + 5)])
    assert len(cells(html)) == MOST_ROWS + 1
    assert "5 more rows" in html
