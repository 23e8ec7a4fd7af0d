"""Pipelines as text: `fold-constants,insert-fake-quant{placement=qag},repeat{limit=4}(canonicalize,fold-constants)`.

Grammar (blanks are free):

    pipeline := pass ("," pass)*
    pass     := name options? ("(" pipeline ")")?
    options  := "{" key "=" value ("," key "=" value)* "}"
    value    := "[" value ("," value)* "]" | '"' text '"' | text without , { } [ ] ( ) "

A value is read as the option's declared type: text, int, float, bool (`true`, `false`), `none`, or a list of them.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from qir.errors import PassError
from qir.passes.infrastructure.contract import Pass, Repeat, default_of
from qir.passes.infrastructure.registry import find_pass

_TOKEN = re.compile(r'\s*(?:([,{}\[\]()=])|"((?:[^"\\]|\\.)*)"|([^,{}\[\]()="\s]+))')

Raw = str | list[Any]


def parse_pipeline(text: str) -> list[Pass]:
    """Return the passes that a pipeline text names.

    Raises:
        PassError: the text is malformed (with the position), a pass or option is unknown, or a value does not fit.
    """
    reader = _Reader(text)
    if reader.peek() == "":
        return []
    passes = _read_pipeline(reader)
    if reader.peek():
        reader.fail("a comma or the end")
    return passes


def pipeline_text(passes: list[Pass] | tuple[Pass, ...]) -> str:
    """Return the text that `parse_pipeline` reads back to equal passes."""
    return ",".join(map(str, passes))


class _Reader:
    """Tokens of a pipeline text; quoted text carries a leading quote so that it is never taken for a sign."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def _scan(self) -> tuple[str, int]:
        rest = self.text[self.position :]
        if not rest.strip():
            return "", len(self.text)
        match = _TOKEN.match(self.text, self.position)
        if match is None:
            self.fail("a closing quote")
        sign, quoted, plain = match.groups()
        token = '"' + re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else sign or plain
        return token, match.end()

    def peek(self) -> str:
        return self._scan()[0]

    def next(self) -> str:
        token, self.position = self._scan()
        return token

    def expect(self, sign: str) -> None:
        if self.peek() != sign:
            self.fail(f"{sign!r}")
        self.next()

    def accept(self, sign: str) -> bool:
        if self.peek() != sign:
            return False
        self.next()
        return True

    def word(self, what: str) -> str:
        token = self.peek()
        if not token or token[0] in ',{}[]()="':
            self.fail(what)
        return self.next()

    def fail(self, expected: str) -> NoReturn:
        raise PassError(f"pipeline {self.text!r}, position {self.position}: expected {expected}")


def _read_pipeline(reader: _Reader) -> list[Pass]:
    passes = [_read_pass(reader)]
    while reader.accept(","):
        passes.append(_read_pass(reader))
    return passes


def _read_pass(reader: _Reader) -> Pass:
    cls = find_pass(reader.word("the name of a pass"))
    options: dict[str, Any] = {}
    if reader.accept("{") and not reader.accept("}"):
        _read_option(reader, cls, options)
        while reader.accept(","):
            _read_option(reader, cls, options)
        reader.expect("}")
    if issubclass(cls, Repeat):
        reader.expect("(")
        options["passes"] = tuple(_read_pipeline(reader))
        reader.expect(")")
    required = [f.name for f in fields(cls) if default_of(f) is MISSING and f.name not in options]
    if required:
        raise PassError(
            f"pass {cls.name!r}: option {required[0]!r} has no default: write {cls.name}{{{required[0]}=...}}"
        )
    return cls(**options)


def _read_option(reader: _Reader, cls: type[Pass], options: dict[str, Any]) -> None:
    key = reader.word("the name of an option").replace("-", "_")
    reader.expect("=")
    raw = _read_value(reader)
    known = {f.name for f in fields(cls) if f.init}
    if key not in known:
        listed = ", ".join(sorted(known)) or "none"
        raise PassError(f"pass {cls.name!r} has no option {key!r}; its options: {listed}")
    if key in options:
        raise PassError(f"pass {cls.name!r}: option {key!r} is given twice")
    declared = get_type_hints(cls)[key]
    try:
        options[key] = _convert(raw, declared)
    except ValueError as error:
        raise PassError(f"pass {cls.name!r}, option {key!r}: {error}") from error


def _read_value(reader: _Reader) -> Raw:
    if not reader.accept("["):
        token = reader.peek()
        return reader.next()[1:] if token.startswith('"') else reader.word("a value")
    items: list[Any] = []
    if reader.accept("]"):
        return items
    items.append(_read_value(reader))
    while reader.accept(","):
        items.append(_read_value(reader))
    reader.expect("]")
    return items


def _convert(raw: Raw, declared: Any) -> Any:
    """Return the value of type `declared` that the text means; `ValueError` when it means none."""
    origin = get_origin(declared)
    if origin in {Union, UnionType}:
        return _convert_union(raw, get_args(declared))
    if origin is Literal:
        for choice in get_args(declared):
            if raw == str(choice):
                return choice
        raise ValueError(f"{raw!r} is not one of {', '.join(map(str, get_args(declared)))}")
    if isinstance(raw, list):
        if origin is not tuple:
            raise ValueError(f"a list was not expected here, found {raw}")
        inner = get_args(declared)
        kinds = [inner[0]] * len(raw) if inner[-1:] == (...,) else list(inner)
        return tuple(_convert(item, kind) for item, kind in zip(raw, kinds, strict=True))
    if origin is tuple:
        return _convert([raw], declared)
    return _convert_scalar(raw, declared)


def _convert_union(raw: Raw, choices: tuple[Any, ...]) -> Any:
    if NoneType in choices and raw == "none":
        return None
    errors = []
    for choice in sorted((c for c in choices if c is not NoneType), key=lambda c: c is str):
        try:
            return _convert(raw, choice)
        except ValueError as error:
            errors.append(str(error))
    raise ValueError("; ".join(errors))


def _convert_scalar(raw: str, declared: Any) -> Any:
    if declared is bool:
        if raw not in {"true", "false"}:
            raise ValueError(f"expected true or false, found {raw!r}")
        return raw == "true"
    if declared in {int, float}:
        try:
            return declared(raw)
        except ValueError:
            raise ValueError(f"expected a number ({declared.__name__}), found {raw!r}") from None
    if declared is str or (isinstance(declared, type) and issubclass(declared, str)):
        return declared(raw)
    raise ValueError(f"options of type {declared} cannot be written as text")
