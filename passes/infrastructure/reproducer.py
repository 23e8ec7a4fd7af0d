"""Reproducers: the module and the pipeline of a failed run in a folder from which the run can be repeated.

They are written for internal errors, which a bug report needs; what is wrong with the input, its message says.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from qir.passes.infrastructure.contract import PassContext

if TYPE_CHECKING:
    from qir.module import Module

KEPT = 10
"""Reproducers that are kept in a folder, the newest."""

MODULE_FILE = "module.onnx"
RUN_FILE = "run.json"
_PREFIX = "qir-reproducer-"


def default_folder() -> Path:
    """Return where reproducers are written.

    `qir/reproducers` in `$XDG_CACHE_HOME`, or in `.cache` of the home folder.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qir" / "reproducers"


def _forget(parent: Path) -> None:
    """Remove the oldest reproducers beyond the limit."""
    folders = [path for path in parent.glob(f"{_PREFIX}*") if path.is_dir() and not path.is_symlink()]
    for folder in sorted(folders, key=lambda path: path.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(folder, ignore_errors=True)


def write_reproducer(
    module: Module, pipeline: str, message: str, context: PassContext, parent: str | Path | None = None
) -> Path:
    """Write the module as it was before the run, the pipeline up to the failed pass, and what went wrong.

    Calibration data are not written; whether they were there is noted.

    Returns:
        The new folder, under `parent` or `default_folder()`; beyond the newest `KEPT` the folders there are removed.
    """
    from qir.onnx_io import save

    parent = default_folder() if parent is None else Path(parent)
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    _forget(parent)
    save(module, folder / MODULE_FILE)
    run = {
        "pipeline": pipeline,
        "error": message,
        "seed": context.seed,
        "target": getattr(context.target, "name", None),
        "calibration_data": context.calibration_data is not None,
    }
    (folder / RUN_FILE).write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")
    return folder
