"""A position in a text that is being parsed, with errors that name line and column."""

from __future__ import annotations

import json.decoder
import re
from re import Pattern
from typing import NoReturn

from qir.errors import ParseError

_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"[A-Za-z_][\w.\-]*")
_INT = re.compile(r"-?\d+")
_LONGEST = 20
"""Characters that an integer of 64 bits may have."""


class Cursor:
    """Reads tokens; blanks between tokens are skipped."""

    __slots__ = ("at", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.skip()

    def skip(self) -> None:
        """Skip blanks."""
        self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]

    def fail(self, expected: str) -> NoReturn:
        """Raise `ParseError` at the current position."""
        line = self.text.count("\n", 0, self.at) + 1
        column = self.at - self.text.rfind("\n", 0, self.at)
        found = self.text[self.at : self.at + 40].split("\n")[0]
        raise ParseError(f"line {line}, column {column}: found {found!r}; expected {expected}")

    def accept(self, literal: str) -> bool:
        """Read a literal if it comes next."""
        if not self.text.startswith(literal, self.at):
            return False
        self.at += len(literal)
        self.skip()
        return True

    def expect(self, literal: str) -> None:
        """Read a literal; `ParseError` when something else comes next."""
        if not self.accept(literal):
            self.fail(repr(literal))

    def match(self, pattern: Pattern[str]) -> str | None:
        """Read what the pattern matches here, or None."""
        found = pattern.match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        self.skip()
        return found.group()

    def need(self, pattern: Pattern[str], expected: str) -> str:
        """Read what the pattern matches here; `ParseError` when it does not."""
        found = self.match(pattern)
        return self.fail(expected) if found is None else found

    def accept_word(self, word: str) -> bool:
        """Read a word if exactly it comes next."""
        found = _WORD.match(self.text, self.at)
        if found is None or found.group() != word:
            return False
        self.at = found.end()
        self.skip()
        return True

    def word(self, expected: str = "a word") -> str:
        """Read a word: a letter, then letters, digits, dots and dashes."""
        return self.need(_WORD, expected)

    def integer(self) -> int:
        """Read an integer that ONNX's fields of 64 bits hold."""
        at, digits = self.at, self.need(_INT, "an integer")
        if len(digits) > _LONGEST or not -(2**63) <= int(digits) < 2**63:
            self.at = at
            self.fail("an integer of 64 bits")
        return int(digits)

    def string(self) -> str:
        """Read a JSON string."""
        if not self.text.startswith('"', self.at):
            self.fail("a quoted string")
        try:
            found, self.at = json.decoder.scanstring(self.text, self.at + 1, True)  # type: ignore[attr-defined]
            found.encode()
        except (json.JSONDecodeError, UnicodeEncodeError):
            self.fail("a closed string with JSON escapes")
        self.skip()
        return str(found)

    def peek(self) -> str:
        """Return the next character, empty at the end."""
        return self.text[self.at : self.at + 1]
