"""The op registry: one entry per (domain, op, since_version)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from qir.errors import QirError
from qir.graph import Node
from qir.module import Module
from qir.ops.definition import OpDef
from qir.ops.families import (
    activations,
    control,
    elementwise,
    indexing,
    matrix,
    movement,
    normalization,
    pooling,
    qonnx,
    quantization,
    recurrent,
    reductions,
)
from qir.ops.schemas import newest_version, since_version

Key = tuple[str, str, int]
"""Domain, op type, since_version."""

_FAMILIES = (
    activations,
    control,
    elementwise,
    indexing,
    matrix,
    movement,
    normalization,
    pooling,
    qonnx,
    quantization,
    recurrent,
    reductions,
)
_ENTRIES: dict[tuple[str, str], dict[int, OpDef]] = {}
_ALIASES = {"ai.onnx": ""}


def register(entry: OpDef) -> None:
    """Add an entry, for ops of other domains too.

    Raises:
        QirError: the registry holds an entry for this domain, op and version.
    """
    versions = _ENTRIES.setdefault((entry.domain, entry.name), {})
    if entry.since_version in versions:
        raise QirError(f"op {entry.domain}.{entry.name} since version {entry.since_version} is registered already")
    versions[entry.since_version] = entry
    _definition.cache_clear()
    _facts.cache_clear()


def entries() -> dict[Key, OpDef]:
    """Return every entry by (domain, op, since_version)."""
    return {(*key, since): entry for key, versions in _ENTRIES.items() for since, entry in versions.items()}


def op_of(node: Node) -> OpDef:
    """Return facts about a node's op that hold in every version; an unknown op is never quantized and keeps no grid."""
    return _facts(node.domain, node.op)


def lookup(node: Node, opsets: Module | Mapping[str, int]) -> OpDef:
    """Return the definition of a node's op in the operator set that its module imports: `since_version` is ONNX's.

    Args:
        node: the node.
        opsets: its module, or version by domain.
    """
    versions = opsets.opsets if isinstance(opsets, Module) else opsets
    domain = _ALIASES.get(node.domain, node.domain)
    version = versions.get(domain, versions.get(node.domain))
    if version is None:
        version = versions.get("ai.onnx") if domain == "" else None
    return _definition(domain, node.op, newest_version(domain) if version is None else version)


@cache
def _facts(domain: str, name: str) -> OpDef:
    domain = _ALIASES.get(domain, domain)
    versions = _ENTRIES.get((domain, name))
    return OpDef(name, domain, is_known=False) if versions is None else versions[max(versions)]


@cache
def _definition(domain: str, name: str, version: int) -> OpDef:
    versions = _ENTRIES.get((domain, name), {})
    fitting = [since for since in versions if since <= version]
    entry = versions[max(fitting)] if fitting else OpDef(name, domain, is_known=False)
    since = since_version(domain, name, version) if domain != "qir" else entry.since_version
    return replace(entry, since_version=max(since, entry.since_version))


for _family in _FAMILIES:
    for _entry in _family.OPS:
        register(_entry)
