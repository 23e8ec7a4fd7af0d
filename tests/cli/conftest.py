from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from qir.cli.main import make_app

Shell = Callable[..., Result]


@pytest.fixture
def shell() -> Shell:
    """Run a command; an error of the input is raised as it is."""

    def run(*arguments: object) -> Result:
        done = CliRunner().invoke(make_app(), [str(argument) for argument in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done

    return run


@pytest.fixture
def answer(shell: Shell) -> Callable[..., Any]:
    """What a command answers with `--json`."""

    def run(*arguments: object) -> Any:
        done = shell(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return run
