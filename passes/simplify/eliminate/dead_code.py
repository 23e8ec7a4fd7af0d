"""Removal of what nothing uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qir.graph import Graph
from qir.module import Module
from qir.passes.analysis.constants import erase
from qir.passes.infrastructure.contract import Pass, PassContext


@dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """Erase nodes none of whose results is used, constants that nothing uses, and functions that nothing calls.

    Graph inputs stay: they are the network's interface.
    """

    name: ClassVar[str] = "eliminate-dead-code"

    def run(self, module: Module, context: PassContext) -> bool:
        """Erase; True when something was."""
        del context
        changed = _remove_functions(module)
        for graph in module.graphs:
            changed |= _sweep(graph)
        return changed


def _sweep(graph: Graph) -> bool:
    changed = False
    for node in reversed(graph.nodes):
        if node.graph is not graph:
            continue
        if not any(value.uses for value in node.results):
            erase(node)
            changed = True
            continue
        for inner in node.subgraphs():
            changed |= _sweep(inner)
    for value in graph.constants:
        if not value.uses:
            graph.remove_constant(value)
            changed = True
    return changed


def _remove_functions(module: Module) -> bool:
    called = module.called_functions()
    unused = [key for key in module.functions if key not in called]
    for key in unused:
        del module.functions[key]
    if unused:
        module.clock.version += 1
    return bool(unused)
