"""Activations around zero: signed codes without a zero point, for targets that have none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qir.errors import PassError
from qir.fake_quant import FakeQuant
from qir.module import Module
from qir.ops import op_of
from qir.passes.infrastructure.contract import Pass, PassContext


@dataclass(frozen=True)
class SymmetricActivations(Pass):
    """Give activations that can be negative signed codes with zero point 0; run it after `calibrate`.

    Verified IR in, verified IR out. The calibrated range stays: the grid covers the larger of its ends on both sides,
    so that every width loses up to one bit against codes with a zero point. At 1 bit the codes become -1 and +1.

    Attributes:
        everywhere: also where values are never negative but no Relu says so (FINN takes unsigned codes after Relu
            only).
    """

    name: ClassVar[str] = "symmetric-activations"
    everywhere: bool = False

    def run(self, module: Module, context: PassContext) -> bool:  # noqa: ARG002
        """Make them signed; True when one was not. `PassError` for quantizers that are not calibrated."""
        changed = False
        for graph in module.graphs:
            for quantizer in map(FakeQuant, graph.fake_quants()):
                if quantizer.is_weight or quantizer.signed:
                    continue
                if _is_negative(quantizer) or (self.everywhere and not follows_activation(quantizer)):
                    quantizer.signed = True
                    changed = True
        return changed


def follows_activation(quantizer: FakeQuant) -> bool:
    """Return whether a quantizer's operand comes straight from an activation (Relu, Clip)."""
    producer = quantizer.source.producer
    return producer is not None and not producer.is_fake_quant and op_of(producer).is_activation


def _is_negative(quantizer: FakeQuant) -> bool:
    if (ranges := quantizer.calibration) is None:
        raise PassError(f"symmetric-activations: quantizer {quantizer.name!r} is not calibrated: run calibrate first")
    return bool((ranges[..., 0] < 0).any())
