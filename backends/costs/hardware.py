"""Hardware as cost models see it: widths, legal pairs, memories, padding."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from qir.backends.costs.layers.validation import Strict
from qir.constraints import OperandRules
from qir.errors import QirError


class NamedPair(Strict):
    """A legal pair of widths, by name.

    Attributes:
        activations: width of the activations, in bits.
        weights: width of the weights, in bits.
    """

    activations: int
    weights: int


def _in_order(pair: Any) -> Any:
    """Return a pair as (activation bits, weight bits), which is how it is kept, of one by name."""
    if isinstance(pair, dict):
        pair = NamedPair.model_validate(pair)
    return (pair.activations, pair.weights) if isinstance(pair, NamedPair) else pair


Pair = Annotated[tuple[int, int], BeforeValidator(_in_order, json_schema_input_type=tuple[int, int] | NamedPair)]
"""(activation bits, weight bits); a file may also say {"activations": 8, "weights": 4}."""


class Memory(Strict):
    """One memory, seen from the arithmetic units.

    Attributes:
        name: for example `dram`.
        bytes: capacity; absent = without limit.
        bits_per_cycle: width of its port.
        energy_pj_per_bit: energy of one bit read or written, in picojoules.
    """

    name: str = Field(min_length=1)
    bytes: int | None = Field(default=None, gt=0)
    bits_per_cycle: float = Field(gt=0)
    energy_pj_per_bit: float = Field(default=0.0, ge=0)


class Padding(Strict):
    """How operands are padded in memory.

    Attributes:
        storage_widths: a tensor of a width in between is stored at the next larger of these; empty = at its own.
    """

    storage_widths: tuple[int, ...] = ()

    def storage_bits(self, bits: int) -> int:
        """Return bits that one element of a width occupies in memory."""
        return next((width for width in sorted(self.storage_widths) if width >= bits), bits)


class OpSupport(Strict):
    """What a target can do with one op.

    Attributes:
        supported: False = the target cannot run it at all: its cost is unknown.
        pairs: legal (activation bits, weight bits), in place of the target's.
    """

    supported: bool = True
    pairs: tuple[Pair, ...] | None = None


class CostSpec(Strict):
    """Which cost model a target has, and the model's own parameters.

    Attributes:
        kind: of the model: `bit-serial`, `bitfusion`, `serial`, `systolic`, `micro-block`, `roofline`, `delay-table`,
            or one that an installed package declares.
        parameters: of the model, by name; `docs/reference/targets.md` lists those of the shipped targets.
    """

    kind: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class Hardware(Strict):
    """What computes a network, and what that costs.

    Attributes:
        name: of the target.
        description: what it is, for people.
        weight_widths: ascending widths of weights, in bits.
        activation_widths: ascending widths of activations, in bits.
        pairs: legal (activation bits, weight bits), as [8, 4] or as {"activations": 8, "weights": 4}; absent = every
            combination.
        accumulator_bits: width of the sums.
        padding: how operands are padded in memory.
        ops: per op type, what differs from the rest of the target.
        fused_ops: ops that run for free after the node that feeds them; absent or empty = none: activations pass
            through the memory once more.
        add_requires_equal: both operands of Add have equal widths.
        reduce_range: weights next to unsigned 8-bit activations have 7 bits: ONNX Runtime's kernels for x86 CPUs
            without VNNI saturate at 8. Where the pair of 8 and 7 bits is legal, that of 8 and 8 is not; elsewhere the
            weights are narrowed at export.
        memories: outermost first.
        cost: the cost model and its parameters.
    """

    name: str = Field(min_length=1)
    description: str = ""
    weight_widths: tuple[int, ...]
    activation_widths: tuple[int, ...]
    pairs: tuple[Pair, ...] | None = None
    accumulator_bits: int = Field(default=32, ge=8, le=64)
    padding: Padding = Padding()
    ops: dict[str, OpSupport] = Field(default_factory=dict)
    fused_ops: tuple[str, ...] = ()
    add_requires_equal: bool = False
    reduce_range: bool = False
    memories: tuple[Memory, ...] = Field(min_length=1)
    cost: CostSpec

    @field_validator("memories")
    @classmethod
    def _names_differ(cls, memories: tuple[Memory, ...]) -> tuple[Memory, ...]:
        names = [memory.name for memory in memories]
        if len(set(names)) < len(names):
            raise ValueError("expected memories with different names")
        return memories

    @model_validator(mode="after")
    def _rules_hold(self) -> Hardware:
        try:
            rules = self.operand_rules()
        except QirError as error:
            raise ValueError(f"key {str(error).removeprefix('operand rules: ')}") from error
        if not rules.legal_pairs():
            raise ValueError("key 'pairs': expected at least one legal pair of widths")
        return self

    @property
    def outermost_memory(self) -> Memory:
        """The memory that holds whole tensors."""
        return self.memories[0]

    def operand_rules(self) -> OperandRules:
        """Return the legal widths of operands, for the verifier and for constraint propagation."""
        pairs = self.pairs
        if pairs is None and self.reduce_range:
            pairs = tuple((a, w) for a in self.activation_widths for w in self.weight_widths)
        return OperandRules(
            activation_widths=self.activation_widths,
            weight_widths=self.weight_widths,
            pairs=None if pairs is None else self._safe(pairs),
            per_op={op: self._safe(support.pairs) for op, support in self.ops.items() if support.pairs is not None},
            add_requires_equal=self.add_requires_equal,
        )

    def _safe(self, pairs: tuple[tuple[int, int], ...]) -> frozenset[tuple[int, int]]:
        """Return the pairs that `reduce_range` leaves.

        8 x 8 bits go where 8 x 7 is legal, else export narrows weights.
        """
        narrowed = self.reduce_range and (8, 7) in pairs
        return frozenset(pair for pair in pairs if not (narrowed and pair == (8, 8)))
