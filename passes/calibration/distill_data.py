"""Calibration data where there are none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from qir.module import Module
from qir.passes.data.kinds.source import Data
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.infrastructure.manager import PassManager
from qir.passes.simplify.eliminate.identities import EliminateIdentities
from qir.passes.simplify.freeze_inputs import FreezeInputs
from qir.support.packages import require_torch

DISTILLED = "distilled"
"""What stands for distilled data where data are named."""


@dataclass(frozen=True)
class DistillData(Pass):
    """Make calibration data from the statistics that BatchNormalizations store (ZeroQ; Cai et al., 2020, section 3.1).

    The module stays as it is; the passes after find the data as `calibration_data`. Run it before folding, which
    takes the statistics away (`qir.backends.training.distillation`).

    Options:
        samples: how many are made.
        iterations: steps of the optimizer.
    """

    name: ClassVar[str] = "distill-data"
    samples: int = 64
    iterations: int = 500

    def run(self, module: Module, context: PassContext) -> bool:
        """Distil; raises `QirError` when the network has no stored statistics, or not one input of known shape.

        `MissingExtraError` where torch, whose gradients it follows, is not installed.
        """
        require_torch("distilling data", "give samples")
        from qir.backends.training.distillation import distill_data

        plain = module.clone()
        for step in (FreezeInputs(), EliminateIdentities()):
            context.run(step, plain)
        context.calibration_data = distill_data(
            plain, samples=self.samples, iterations=self.iterations, seed=context.seed
        )
        return False


def given_or_distilled(module: Module, data: Data, *, seed: int = 0) -> Data:
    """Return the data, or those that `distilled` stands for.

    Args:
        module: float network, not folded.
        data: calibration data of any kind, or the text `distilled`.
        seed: seed of the noise that distillation starts from.

    Raises:
        QirError: as `DistillData.run`.
    """
    if not isinstance(data, str | Path) or str(data) != DISTILLED:
        return data
    context = PassContext(seed=seed)
    PassManager([DistillData()], reproducers=False).run(module, context)
    found: Data = context.require("calibration_data")
    return found
