"""Apply a policy: write the bits of every quantizer in place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from qir.errors import QirError
from qir.fake_quant import quantizers
from qir.granularity import PerBlock
from qir.module import Module
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.policy import Bits


def apply_policy(module: Module, policy: Mapping[str, Bits]) -> bool:
    """Write `bits` on the fake-quant nodes that the policy names; time proportional to the quantizers.

    Types of the results follow by themselves. Nothing is written when a name or a width is wrong.

    Args:
        module: network with fake-quant nodes.
        policy: bits by name of quantizer; quantizers it does not name keep theirs.

    Returns:
        Whether any bits changed.

    Raises:
        QirError: the policy names a quantizer that does not exist, or a width that is not among its candidates.
    """
    found = quantizers(module.graph)
    for name, bits in policy.items():
        if name not in found:
            raise QirError(f"policy: quantizer {name!r} does not exist; the network has {', '.join(found)}")
        widths = found[name].widths
        if not isinstance(bits, int) and isinstance(found[name].granularity, PerBlock):
            raise QirError(f"policy: quantizer {name!r} has blocks of scales: it takes one width, not one a channel")
        for width in {bits} if isinstance(bits, int) else set(bits) - {0}:
            if width not in widths:
                raise QirError(
                    f"policy: quantizer {name!r} cannot have {width} bits; its candidates are {list(widths)}"
                )
    changed = [name for name, bits in policy.items() if found[name].bits != bits]
    for name in changed:
        found[name].bits = policy[name]
    return bool(changed)


@dataclass(frozen=True)
class ApplyPolicy(Pass):
    """Write the bits that the option `bits` names, `["conv1.input:4", "conv1.weight:4"]`.

    Verified IR in, verified IR out.
    """

    name: ClassVar[str] = "apply-policy"
    bits: tuple[str, ...] = ()

    def run(self, module: Module, context: PassContext) -> bool:  # noqa: ARG002
        """Write the bits; raises `QirError` for text that is not a `name:bits`, unknown quantizers and widths."""
        policy: dict[str, Bits] = {}
        for entry in self.bits:
            name, _, bits = entry.rpartition(":")
            if not name or not bits.isdigit():
                raise QirError(f"apply-policy: {entry!r} is not a `quantizer:bits`, for example conv1.input:4")
            policy[name] = int(bits)
        return apply_policy(module, policy)
