"""Replay: the run of a reproducer, again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import TypedDict

from qir.errors import PassError
from qir.passes.infrastructure.contract import PassContext
from qir.passes.infrastructure.manager import PassManager
from qir.passes.infrastructure.pipeline import parse_pipeline
from qir.passes.infrastructure.reproducer import MODULE_FILE, RUN_FILE
from qir.support.json_text import parse_json, typed

if TYPE_CHECKING:
    from qir.module import Module


class _Run(TypedDict):
    """What a reproducer tells of its run."""

    pipeline: str
    seed: int


def replay(folder: str | Path, context: PassContext | None = None) -> Module:
    """Run a reproducer's pipeline on its module again.

    Args:
        folder: what `PassError` named.
        context: target and calibration data, when the failed run had them; its seed is replaced by the recorded one.

    Returns:
        The module after the pipeline, if it does not fail any more.

    Raises:
        PassError: the failure, again; or the folder holds no reproducer.
    """
    from qir.onnx_io import load

    folder = Path(folder)
    try:
        run = typed(_Run, parse_json((folder / RUN_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise PassError(f"{folder}: no reproducer is here ({error}); expected {MODULE_FILE} and {RUN_FILE}") from error
    context = context or PassContext()
    context.seed = run["seed"]
    module = load(folder / MODULE_FILE)
    PassManager(parse_pipeline(run["pipeline"]), reproducers=False).run(module, context)
    return module
