"""A newer version of ONNX's operator set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from qir.errors import PassError
from qir.graph import Graph, Node
from qir.module import Module
from qir.ops import infer
from qir.ops.schemas import least_ir_version, newest_version, schema_at
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.simplify.opset_adapters import ADAPTERS, Site
from qir.rewriting.engine import Rewriter
from qir.types import Type, UnknownType

LOWEST = 6
"""Oldest version that can be upgraded."""


@dataclass(frozen=True)
class UpgradeOpset(Pass):
    """Bring a module to a newer version of ONNX's operator set, node by node and in place.

    Names, types, metadata, external data and other domains' operators stay. Models of version 13 and newer need it for
    newer element types (4-bit integers and blocks of scales: 21), older ones for per-channel scales (13). Verified IR
    in, verified IR out; the network computes the same.

    Options:
        version: version that is wanted; a module that has it or a newer one is left as it is.
    """

    name: ClassVar[str] = "upgrade-opset"
    version: int = 21

    def run(self, module: Module, context: PassContext) -> bool:
        """Upgrade; raises `PassError` for a node that the wanted version has no form for."""
        del context
        return upgrade_opset(module, self.version)


def upgrade_opset(module: Module, version: int) -> bool:
    """Bring a module, its subgraphs and its functions to at least a version of ONNX's operator set.

    Args:
        module: changed in place.
        version: version that is wanted.

    Returns:
        Whether anything changed.

    Raises:
        PassError: the module is older than `LOWEST`, no version of that number is known, or a node has no form in the
            wanted version; the message names it.
    """
    if not LOWEST <= version <= newest_version(""):
        raise PassError(f"upgrade-opset: version {version} of the operator set is unknown; 21 is for example")
    changed = False
    for function in module.functions.values():
        changed |= _upgrade(function.graph, function.opsets, module.opsets, version, in_function=True)
    changed |= _upgrade(module.graph, module.opsets, module.opsets, version, in_function=False)
    module.ir_version = max(module.ir_version, least_ir_version(module.opsets.get("", version)))
    return changed


def _upgrade(
    graph: Graph, own: dict[str, int], fallback: Mapping[str, int], version: int, *, in_function: bool
) -> bool:
    key = next((key for key in ("", "ai.onnx") if key in own), "")
    before = own.get(key, fallback.get("", fallback.get("ai.onnx", version)))
    if before >= version:
        return False
    if before < LOWEST:
        raise PassError(f"upgrade-opset: version {before} of the operator set is older than {LOWEST}: export it again")
    rewriter = Rewriter(UpgradeOpset.name)
    nodes = [node for node in graph.walk() if node.domain in {"", "ai.onnx"}]
    for node in nodes:
        _adapt(Site(node, rewriter, in_function), before, version)
    own[key] = version
    for node in nodes:
        _check(node, version)
    if not in_function:
        _type_new_results(graph, own)
    return True


def _adapt(site: Site, before: int, version: int) -> None:
    """Apply the adapter of every form of the operator that began after `before`, in order.

    Every node is visited once, version by version, so that no rule could be tried on what another one made.
    """
    for step in range(before + 1, version + 1):
        adapter = ADAPTERS.get((site.node.op, step))
        if adapter is not None:
            site.rewriter.modify(site.node, partial(adapter, site))


def _check(node: Node, version: int) -> None:
    schema = schema_at("", node.op, version)
    unknown = sorted(set(node.attributes) - set(schema.attributes)) if schema is not None else []
    if schema is None or schema.deprecated or unknown:
        what = f"the attribute {unknown[0]!r}" if unknown else "it"
        raise PassError(
            f"upgrade-opset: {node.op} {node.name or node.result.name!r}: version {version} does not have {what}"
        )


def _type_new_results(graph: Graph, opsets: Mapping[str, int]) -> None:
    for node in graph.walk():
        for result, found in zip(node.results, _inferred(node, opsets), strict=False):
            if isinstance(result.type, UnknownType):
                result.type = found


def _inferred(node: Node, opsets: Mapping[str, int]) -> tuple[Type, ...]:
    if not any(isinstance(result.type, UnknownType) for result in node.results) or node.domain not in {"", "ai.onnx"}:
        return ()
    return () if node.subgraphs() else infer(node, opsets)
