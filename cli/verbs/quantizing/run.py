"""`qir run`: a job from its file."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path
from typing import Annotated

import typer

from qir.cli.answers import Answer
from qir.errors import QirError


def run(
    job: Annotated[Path, typer.Argument(help="Job file (.toml): of `qir init`, or next to a file that qir made.")],
    more: Annotated[
        list[str] | None,
        typer.Argument(help="Options after `--`, in place of those of the file: `-- --seed 1`.", show_default=False),
    ] = None,
) -> Answer:
    """Run a job file: a command with all its options, from the folder of the file.

    What qir quantizes has its job next to it (`model.job.toml`), so that the same file is made again.

    qir run out/model.job.toml

    qir run job.toml -- --seed 1 --output other.quant.onnx
    """
    from qir.cli.job_files import command_of, read_job

    verb, words = read_job(job)
    if verb in ("run", "init"):
        raise QirError(f"job {job}: verb {verb!r} runs no job: expected quantize or search, for example")
    with chdir(job.parent):
        found = command_of(verb).main([*words, *(more or [])], prog_name=f"qir {verb}", standalone_mode=False)
    return Answer(found.record, code=found.code) if isinstance(found, Answer) else Answer(None, code=int(found or 0))
