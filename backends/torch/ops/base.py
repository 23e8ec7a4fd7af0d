"""The table of torch lowerings, keyed like the op registry, and what all lowerings share."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from qir.errors import QirError
from qir.graph import Node

Operands = list[torch.Tensor | None]
Result = torch.Tensor | tuple[torch.Tensor, ...]
Lowering = Callable[[Node, Operands], Result]
"""Takes a node and its operands as tensors (None where one is left out) and returns its result or results."""

LOWERINGS: dict[tuple[str, str, int], Lowering] = {}
"""(domain, op, since_version) → lowering."""

_NEWEST = 1 << 30


def lowers(*names: str, since: int = 1, domain: str = "") -> Callable[[Lowering], Lowering]:
    """Enter a function as the lowering of ops from a version of their operator set on."""

    def enter(function: Lowering) -> Lowering:
        for name in names:
            LOWERINGS[domain, name, since] = function
        return function

    return enter


def has_lowering(node: Node, opsets: Mapping[str, int] | None = None) -> bool:
    """Return whether torch execution knows a node's op in the operator sets of its module (by default the newest)."""
    return bool(_fitting(node, opsets))


def lowering_of(node: Node, opsets: Mapping[str, int] | None = None) -> Lowering:
    """Return the lowering of a node in the operator sets of its module (by default the newest).

    Raises:
        QirError: torch execution does not know the op.
    """
    fitting = _fitting(node, opsets)
    if not fitting:
        raise QirError(
            f"node {node}: torch execution does not know this op; run the network with OrtSession, or enter a lowering "
            "with qir.backends.torch.ops.lowers; calls of a model-local function: run the pass inline-functions first"
        )
    return LOWERINGS[max(fitting)]


def _fitting(node: Node, opsets: Mapping[str, int] | None) -> list[tuple[str, str, int]]:
    domain = "" if node.domain == "ai.onnx" else node.domain
    version = _NEWEST if opsets is None else opsets.get(domain, opsets.get("ai.onnx", _NEWEST))
    return [key for key in LOWERINGS if key[:2] == (domain, node.op) and key[2] <= version]


def tensor(operands: Operands, index: int = 0) -> torch.Tensor:
    """Return an operand that must be there; `QirError` when it is left out."""
    found = operands[index] if index < len(operands) else None
    if found is None:
        raise QirError(f"operand {index} is required")
    return found


def optional(operands: Operands, index: int) -> torch.Tensor | None:
    """Return an operand, or None where it is left out."""
    return operands[index] if index < len(operands) else None


def integers(operands: Operands, index: int) -> list[int] | None:
    """Return the numbers of an integer operand, or None where it is left out."""
    found = optional(operands, index)
    return None if found is None else [int(number) for number in found.reshape(-1).tolist()]


def axes_of(node: Node, operands: Operands, index: int = 1) -> list[int] | None:
    """Return axes, an operand in newer operator sets and an attribute in older ones."""
    given = integers(operands, index)
    if given is not None:
        return given
    found = node.attribute("axes")
    return None if found is None else list(found)


def torch_dtype(code: int) -> torch.dtype:
    """Return the torch element type of an ONNX element type code; `QirError` when torch has none."""
    from qir.types import DType

    label = DType.from_onnx(code).label
    found = getattr(torch, _NAMES.get(label, label), None)
    if not isinstance(found, torch.dtype):
        raise QirError(f"torch has no element type {label}")
    return found


_NAMES = {"float8e4m3fn": "float8_e4m3fn", "float8e5m2": "float8_e5m2"}
