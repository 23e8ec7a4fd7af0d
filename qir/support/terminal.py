"""The terminal: whatever is printed goes through `printable`, in tables and titles too."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from qir.support.printable import printable


class Terminal(Console):
    """A console that takes every string as one line of plain text: no markup, no codes of emoji, no control characters.

    Args:
        options: those of rich's `Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return what rich prints for a string; it asks for every one here."""
        return super().render_str(printable(text), **(options | {"markup": False, "emoji": False}))
