"""Text from files as it may be shown: no name can forge a line, color it, or turn it around."""

from __future__ import annotations

import html


def printable(text: str) -> str:
    """Return text on one line: what is not printable is escaped as Python writes it.

    That is: control characters, newline and the escape of terminals among them; overrides of the direction of text;
    separators of lines and paragraphs; halves of surrogate pairs; code points that stand for nothing.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def html_text(text: str) -> str:
    """Return printable text between the tags of HTML and SVG."""
    return html.escape(printable(text))
