"""Names for nodes that have none, or one that another node has too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qir.labels import unique_labels
from qir.module import Module
from qir.passes.infrastructure.contract import Pass, PassContext


@dataclass(frozen=True)
class NameNodes(Pass):
    """Give every node of the main graph and its subgraphs a name of its own.

    ONNX lets files leave names of nodes out and repeat them; reports, guides and cost tables tell nodes apart by them.
    A node without a name is called after its first result; of nodes with one name the first keeps it. Quantizers keep
    their names, which policies know.
    """

    name: ClassVar[str] = "name-nodes"

    def run(self, module: Module, context: PassContext) -> bool:
        """Name nodes; True when a node got another name."""
        del context
        return name_nodes(module)


def name_nodes(module: Module) -> bool:
    """Give every node a name of its own; True when one got another."""
    wanted = {node: name for node, name in unique_labels(module.graph).items() if not node.is_fake_quant}
    changed = {node: name for node, name in wanted.items() if node.name != name}
    for node, name in changed.items():
        node.name = name
    return bool(changed)


def with_names(module: Module) -> Module:
    """Return the module itself where every node has a name of its own, else a copy in which it has."""
    labels = unique_labels(module.graph)
    if all(node.name == name for node, name in labels.items() if not node.is_fake_quant):
        return module
    copy = module.clone()
    name_nodes(copy)
    return copy
