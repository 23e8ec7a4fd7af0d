"""Nodes without weights whose operands and result lie on grids of their own: Add, Mul, Concat, averages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

from qir.graph import Node
from qir.ops import op_of
from qir.passes.analysis.arithmetic.multipliers import Multipliers
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic


@dataclass(frozen=True, eq=False)
class Rescaling:
    """The arithmetic of a node that rescales codes.

    Attributes:
        node: the node.
        operands: arithmetic of its operands, in order.
        output: arithmetic of its result.
    """

    node: Node
    operands: tuple[QuantizerArithmetic, ...]
    output: QuantizerArithmetic

    @cached_property
    def multipliers(self) -> Multipliers | None:
        """One multiplier an operand, one of the product for Mul; None where there are none."""
        scales = [found.scale for found in (*self.operands, self.output)]
        if any(scale is None or scale.size != 1 for scale in scales):
            return None
        *operands, output = [scale for scale in scales if scale is not None]
        products = [tuple(operands)] if self.node.op == "Mul" else [(scale,) for scale in operands]
        count = _count(self.node) if op_of(self.node).is_average else 1
        return Multipliers.of(products, output[0], count)


def is_rescaling(node: Node) -> bool:
    """Return whether a node without weights computes a result on another grid from its operands' codes."""
    facts = op_of(node)
    return facts.quantizable(node) is None and (facts.is_join or facts.is_average or node.op == "Mul")


def _count(node: Node) -> int | None:
    """Return elements of every window of an average; None where they differ or the size is unknown."""
    kernel = node.attribute("kernel_shape")
    if kernel is not None:
        whole = node.attribute("count_include_pad", 0) or not any(node.attribute("pads") or ())
        plain = not node.attribute("ceil_mode", 0) and node.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        return prod(kernel) if whole and plain else None
    shape = node.operand(0).shape
    sizes = [size for size in shape[2:] if isinstance(size, int)] if shape else []
    return prod(sizes) if shape and len(sizes) == len(shape) - 2 and node.op == "GlobalAveragePool" else None
