"""The smallest description of hardware that works: where a vendor begins."""

from __future__ import annotations

from qir.backends.costs.assumed import FUSED_OPS
from qir.backends.costs.hardware import CostSpec, Memory
from qir.backends.costs.target import Target


def smallest_target(name: str) -> Target:
    """Return a roofline with invented numbers.

    A peak rate and a bandwidth, weights of 4 and 8 bits, activations of 8.
    """
    return Target(
        name=name,
        illustrative=True,
        weight_widths=(4, 8),
        activation_widths=(8,),
        fused_ops=FUSED_OPS,
        memories=(Memory(name="dram", bits_per_cycle=64),),
        cost=CostSpec(kind="roofline", parameters={"macs_per_cycle": 256, "packing": {"4": 2, "8": 1}}),
    )
