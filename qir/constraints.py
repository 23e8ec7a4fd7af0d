"""Which bit widths an operation may compute with: the operand rules of a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from qir.errors import QirError

MAXIMUM_WIDTH = 32


@dataclass(frozen=True, slots=True)
class OperandRules:
    """Legal widths, in bits, of the operands of expensive operations.

    Attributes:
        activation_widths: ascending widths that an activation may have.
        weight_widths: ascending widths that a weight may have.
        pairs: legal (activation bits, weight bits); `None` allows every combination of the two sets.
        per_op: op type → its own legal pairs, in place of `pairs`.
        add_requires_equal: operands of an addition have equal widths.
    """

    activation_widths: tuple[int, ...]
    weight_widths: tuple[int, ...]
    pairs: frozenset[tuple[int, int]] | None = None
    per_op: Mapping[str, frozenset[tuple[int, int]]] = field(default_factory=dict)
    add_requires_equal: bool = False

    def __post_init__(self) -> None:
        for name, widths in (("activation_widths", self.activation_widths), ("weight_widths", self.weight_widths)):
            if not widths or list(widths) != sorted(set(widths)):
                raise QirError(f"operand rules: {name} is {list(widths)}; expected ascending widths without repeats")
            if widths[0] < 1 or widths[-1] > MAXIMUM_WIDTH:
                raise QirError(f"operand rules: {name} is {list(widths)}; expected widths from 1 to {MAXIMUM_WIDTH}")
        legal = {(a, w) for a in self.activation_widths for w in self.weight_widths}
        for where, pairs in (("pairs", self.pairs), *self.per_op.items()):
            for pair in sorted(pairs or ()):
                if pair not in legal:
                    raise QirError(
                        f"operand rules: {where} holds {list(pair)}; expected (activation, weight) of the widths"
                    )

    def legal_pairs(self, op_type: str = "") -> frozenset[tuple[int, int]]:
        """Return the legal (activation bits, weight bits) of an operation.

        Without rules of its own, the common ones.
        """
        common = self.pairs
        if common is None:
            common = frozenset((a, w) for a in self.activation_widths for w in self.weight_widths)
        return self.per_op.get(op_type, common)

    def allows(self, activation_bits: int, weight_bits: int, op_type: str = "") -> bool:
        """Return whether an operation may multiply an activation by a weight of these widths."""
        return (activation_bits, weight_bits) in self.legal_pairs(op_type)
