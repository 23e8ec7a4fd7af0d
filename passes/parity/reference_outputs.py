"""What a network with fake-quant nodes computes: on integers where that is possible, else simulated in torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from qir.backends.integer.reference import IntegerReference
from qir.errors import QirError
from qir.module import Module
from qir.passes.infrastructure.contract import PassContext
from qir.passes.lowering.legalize import Legalize
from qir.passes.lowering.lower_qcdq import LowerQcdq
from qir.passes.lowering.profiles.profiles import find_profile
from qir.passes.simplify.upgrade_opset import UpgradeOpset
from qir.tensor import Array


def code_forms(module: Module) -> Iterator[Module]:
    """Copies of a network with fake-quant nodes whose codes lie in 8-bit containers, and in 16-bit ones."""
    for name in ("qcdq", "qdq-16"):
        copy, context = module.clone(), PassContext()
        opset = find_profile(name).opset
        upgrade = [UpgradeOpset(opset)] if module.opsets.get("", 0) < opset else []
        try:
            for step in (*upgrade, Legalize(name), LowerQcdq()):
                step.run(copy, context)
        except QirError:  # a width that the profile does not hold
            continue
        yield copy


class ReferenceNetwork:
    """A network with fake-quant nodes, executed on integers, or simulated where that is not possible.

    Attributes:
        kind: what ran last: `integer reference` or `simulation`.
    """

    def __init__(self, module: Module) -> None:
        self._module = module
        self._forms = list(code_forms(module))
        self.kind = ""

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs by name."""
        while self._forms:
            try:
                self.kind = "integer reference"
                return IntegerReference(self._forms[0]).run(feed).outputs
            except QirError:  # no integers at all, sums beyond int32
                del self._forms[0]
        self.kind = "simulation"
        return simulated(self._module, feed)


def reference_outputs(module: Module, feed: Mapping[str, Array]) -> tuple[str, dict[str, Array]]:
    """What a network with fake-quant nodes computes: the integer reference, or the simulation where that cannot.

    Returns:
        Which of the two it was, and the outputs by name.
    """
    network = ReferenceNetwork(module)
    outputs = network.run(feed)
    return network.kind, outputs


def simulated(module: Module, feed: Mapping[str, Array]) -> dict[str, Array]:
    """What the torch simulation of a network with fake-quant nodes computes, by output name."""
    import torch

    from qir.backends.torch.module import TorchModule

    given = [torch.from_numpy(np.asarray(feed[v.name])) for v in module.graph.inputs if v.constant is None]
    with torch.no_grad():
        outputs = TorchModule(module)(*given)
    names = [n for n, v in zip(module.graph.output_names, module.graph.outputs, strict=True) if v is not None]
    return {name: output.numpy() for name, output in zip(names, outputs, strict=True)}
