"""`run_passes`: one call from a module and the text of a pipeline to the rewritten module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from qir.passes.data.kinds.source import Data
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.infrastructure.manager import PassManager
from qir.passes.infrastructure.pipeline import parse_pipeline

if TYPE_CHECKING:
    from qir.backends.costs.target import TargetLike
    from qir.module import Module


def run_passes(
    module: Module,
    passes: str | Iterable[Pass],
    *,
    target: TargetLike | None = None,
    data: Data | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    reports: dict[str, Any] | None = None,
) -> Module:
    """Run passes on a module, in place; it is verified after each of them.

    Args:
        module: network; changed.
        passes: text of a pipeline such as `fold-batchnorm,calibrate{method=mse}`, or passes.
        target: hardware, for passes that ask for it: a `Target`, a shipped name, or a JSON file.
        data: samples, for passes that ask for them: of any kind that `calibrate` takes.
        seed: of every random choice.
        progress: told when a long step advances.
        reports: gets what the passes report, by their names; it may hold reports of passes before.

    Returns:
        The module.

    Raises:
        PassError: the text names no pipeline, or a pass failed; the message names it and the passes before it.
        QirError: the target cannot be read.
    """
    steps = parse_pipeline(passes) if isinstance(passes, str) else passes
    context = PassContext(target=target, calibration_data=data, seed=seed, progress=progress, reports=reports)
    PassManager(steps).run(module, context)
    return module
