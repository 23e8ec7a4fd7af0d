"""Records that files hold: frozen, all keys known, and described in JSON Schema by their own docstrings."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic_core import CoreSchema

_ENTRY = re.compile(r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", re.MULTILINE)


class Record(BaseModel):
    """A frozen record that knows all of its keys; what its docstring says of them is in its JSON Schema."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Describe the record and its keys in the words of the docstrings."""
        made = handler(schema)
        resolved = handler.resolve_ref_schema(made)
        resolved["description"] = _parts(cls)[0]
        described = {name: text for base in reversed(cls.__mro__) for name, text in _described(base).items()}
        for name, entry in resolved.get("properties", {}).items():
            if name in described and "description" not in entry:
                entry["description"] = described[name]
        return made


def _parts(cls: type) -> tuple[str, str]:
    """Split a docstring into what it says of the record and of its attributes."""
    text, _, attributes = (cls.__doc__ or "").partition("\n    Attributes:\n")
    return " ".join(text.split()), attributes


def _described(cls: type) -> dict[str, str]:
    """Read what a docstring says of each attribute; `a, b: text` describes both."""
    _, attributes = _parts(cls)
    dedented = re.sub(r"^ {4}", "", attributes, flags=re.MULTILINE)
    found = {}
    for match in _ENTRY.finditer(dedented):
        for name in match[1].split(", "):
            found[name] = " ".join(match[2].split())
    return found
