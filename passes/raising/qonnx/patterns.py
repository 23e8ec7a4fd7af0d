"""What every pattern of a QONNX operator says: the operator stands in one of three domains."""

from __future__ import annotations

from qir.ops.families.qonnx import QONNX_DOMAINS
from qir.rewriting.engine import Pattern, either, op


def of_qonnx(ops: str | tuple[str, ...], *operands: Pattern, only_use: bool = False) -> Pattern:
    """Return a value named `quantizer` that a QONNX operator produces; operands may follow those given."""
    found = (op(ops, *operands, ..., name="quantizer", domain=domain, only_use=only_use) for domain in QONNX_DOMAINS)
    return either(*found)
