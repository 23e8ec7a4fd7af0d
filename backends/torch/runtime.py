"""Nodes that torch has no lowering of, run by ONNX Runtime: forward only, one session a node."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from qir.backends.execution.node_sessions import NodeSessions
from qir.backends.torch.ops import Lowering, Operands
from qir.errors import QirError
from qir.graph import Node

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Domains whose operators ONNX Runtime has kernels of."""


class RuntimeLowerings:
    """Lowerings that leave a node to ONNX Runtime; where that has no kernel, to ONNX's reference.

    Args:
        opsets: version by domain.

    Attributes:
        nodes: the nodes that were left so; no gradient passes them.
    """

    def __init__(self, opsets: Mapping[str, int]) -> None:
        self.nodes: list[Node] = []
        self._sessions = NodeSessions(opsets, constants_change=True)

    def lowering(self, node: Node) -> Lowering:
        """Return the lowering of a node."""
        self.nodes.append(node)
        return self._run

    def _run(self, node: Node, operands: Operands) -> tuple[torch.Tensor, ...]:
        given = [operand for operand in operands if operand is not None]
        if torch.is_grad_enabled() and any(operand.requires_grad for operand in given):
            raise QirError(without_gradient([node]))
        device = given[0].device if given else torch.device("cpu")
        arrays = [None if operand is None else operand.detach().cpu().numpy() for operand in operands]
        found = self._sessions.run(node, arrays)
        return tuple(torch.from_numpy(np.array(result)).to(device) for result in found)


def without_gradient(nodes: list[Node]) -> str:
    """Return why something that needs gradients cannot be done with a network that has such nodes."""
    names = ", ".join(str(node) for node in nodes[:3]) + (", …" if len(nodes) > 3 else "")
    return (
        f"gradients are needed, and torch has no lowering of {names}: what is measured without gradients works; or "
        "enter a lowering with qir.backends.torch.ops.lowers"
    )
