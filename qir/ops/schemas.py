"""ONNX's own op schemas: the source of arity, attributes and versions."""

from __future__ import annotations

from functools import cache
from typing import Any

_NEWEST = 2**31 - 1
"""The largest number that ONNX compares versions with."""


def _canonical(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


@cache
def schema_at(domain: str, name: str, version: int) -> Any:
    """Return the `OpSchema` in force at a version of an operator set, or None when ONNX defines no such op."""
    import onnx.defs

    try:
        return onnx.defs.get_schema(name, min(version, _NEWEST), _canonical(domain))
    except onnx.defs.SchemaError:
        return None


@cache
def since_version(domain: str, name: str, version: int) -> int:
    """Return the version in which the schema in force at `version` began; 1 when ONNX defines no such op."""
    schema = schema_at(domain, name, version)
    return 1 if schema is None else int(schema.since_version)


@cache
def newest_version(domain: str) -> int:
    """Return the newest version of an operator set that the installed onnx knows, 1 for domains it does not know."""
    import onnx.defs

    return max(
        (int(s.since_version) for s in onnx.defs.get_all_schemas_with_history() if s.domain == _canonical(domain)),
        default=1,
    )


def least_ir_version(opset: int) -> int:
    """Return the oldest ONNX IR version whose files may import a version of ONNX's own operator set."""
    from onnx.helper import find_min_ir_version_for, make_opsetid

    return int(find_min_ir_version_for([make_opsetid("", opset)]))
