"""The op registry: one entry answers every question about an op."""

from qir.ops.facts import OpFacts, Operands, op_of

__all__ = ["OpFacts", "Operands", "op_of"]
