"""Tables and lines as HTML, for notebooks: every cell is escaped text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qir.support.printable import html_text

MOST_ROWS = 60
"""Rows that a notebook shows of a long table."""


def html_table(headings: Sequence[object], rows: Iterable[Sequence[object]], below: Iterable[str] = ()) -> str:
    """Return a table, its first `MOST_ROWS` rows, and lines below it.

    Args:
        headings: one a column.
        rows: cells of each row.
        below: lines of text.
    """
    found = [list(row) for row in rows]
    titles = "".join(f"<th>{html_text(str(cell))}</th>" for cell in headings)
    body = "".join(
        "<tr>" + "".join(f"<td>{html_text(str(cell))}</td>" for cell in row) + "</tr>" for row in found[:MOST_ROWS]
    )
    more = [f"… {len(found) - MOST_ROWS} more rows"] if len(found) > MOST_ROWS else []
    lines = "<br>".join(html_text(line) for line in (*more, *below))
    return f"<table><tr>{titles}</tr>{body}</table>" + (f"<p>{lines}</p>" if lines else "")
