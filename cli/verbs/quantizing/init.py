"""`qir init`: a job file to fill in."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qir.cli.answers import Answer
from qir.errors import QirError
from qir.support.atomic_write import atomic_write

if TYPE_CHECKING:
    from qir.support.terminal import Terminal


def init(
    job: Annotated[Path, typer.Argument(help="Job file to write.")] = Path("job.toml"),
    verb: Annotated[str, typer.Option(help="Command that the job runs: quantize or search.")] = "quantize",
) -> Answer:
    """Write a commented job file with every option of a command, to be filled in and run.

    qir init job.toml

    qir run job.toml
    """
    from qir.cli.job_files import template

    if job.exists():
        raise QirError(f"{job}: the file exists: give another name, or remove it")
    text = template(verb)
    with atomic_write(job, QirError) as file:
        file.write_text(text, encoding="utf-8")
    return Answer({"file": job, "verb": verb}, partial(_say, job))


def _say(job: Path, terminal: Terminal) -> None:
    terminal.print(f"{job}: fill in the keys without #, then: qir run {job}", soft_wrap=True)
