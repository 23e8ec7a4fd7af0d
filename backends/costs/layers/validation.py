"""Read parameters into pydantic models; what is wrong becomes a `TargetError` that names the nearest valid key."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from qir.errors import TargetError
from qir.support.nearest import nearest
from qir.support.record import Record

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class Strict(Record):
    """A frozen record that knows all of its keys; its numbers are finite."""

    model_config = ConfigDict(allow_inf_nan=False)


R = TypeVar("R", bound=BaseModel)


def validated(record: type[R], data: Any, where: str) -> R:
    """Read `data` into a record.

    Args:
        record: type of the record.
        data: what a JSON file held.
        where: what the message begins with: a file or the name of a target.

    Raises:
        TargetError: a key is unknown or missing, or a value is invalid; names the key.
    """
    try:
        return record.model_validate(data)
    except ValidationError as error:
        messages = [_message(record, data, details) for details in error.errors()]
        raise TargetError(f"{where}: {'; '.join(messages)}") from error


_JSON_WORDS = (
    ("Value error, ", ""),
    ("Input should be greater", "expected a number greater"),
    ("Input should be less", "expected a number less"),
    ("Input should be ", "expected "),
    ("a valid tuple", "a list"),
    ("a valid dictionary", "an object"),
    ("a valid boolean", "true or false"),
    ("a valid string", "text"),
    ("a valid integer", "an integer"),
    ("a valid number", "a number"),
    ("Tuple should have", "expected"),
)
"""What pydantic says → what a reader of JSON calls it."""

_LENGTH = re.compile(r"(items?) after validation, not \d+")

OF_THE_WHOLE = "key "
"""Beginning of a message that a validator of a whole record raises: it names the key itself."""


def _message(record: type[BaseModel], data: Any, details: ErrorDetails) -> str:
    location = details["loc"]
    key = _place(location)
    if details["type"] == "extra_forbidden":
        return f"unknown key {key!r}: {nearest(str(location[-1]), _siblings(record, location[:-1]))}"
    if details["type"] == "missing":
        return f"key {key!r} is missing"
    said = details["msg"]
    if details["type"] in ("model_type", "model_attributes_type"):
        said = "expected an object"
    for word, plain in _JSON_WORDS:
        said = said.replace(word, plain)
    if not key and said.startswith(OF_THE_WHOLE):
        return said
    said = _LENGTH.sub(r"\1", said)
    where = f"key {key!r}: " if key else ""
    return f"{where}{said}, found {_brief(details.get('input', data))}"


def _place(location: tuple[int | str, ...]) -> str:
    """Return the place in the file: `memories[0].bits_per_cycle`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _brief(value: Any) -> str:
    """Return a value as its file writes it."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _siblings(record: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Return valid keys of the record that `path` leads to; list indices and map keys are stepped over."""
    current = record
    for step in path:
        if isinstance(step, str) and step in current.model_fields:
            current = _record_in(current.model_fields[step].annotation) or current
    return list(current.model_fields)


def _record_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _record_in(argument)
        if found is not None:
            return found
    return None
