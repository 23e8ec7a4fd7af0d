"""Every verb has --json, -q and -v; networks that come with qir go by their names."""

from __future__ import annotations

import logging
import re
import subprocess
import sys

import pytest
import typer.main

from qir.cli.answers import is_verbose
from qir.cli.main import ROOMS, make_app
from qir.errors import ModelFileError
from qir.support.progress import stage


def commands() -> dict[str, typer.core.TyperCommand]:
    """Every command, those of groups by both words."""
    found = {}
    for name, command in typer.main.get_command(make_app()).commands.items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {part}": one for part, one in inner.items()}
    return found


@pytest.mark.parametrize("name", commands())
def test_every_command_has_the_shared_options_and_shows_an_example(name):
    command = commands()[name]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {"--json", "--quiet", "-q", "--verbose", "-v"} <= options
    assert f"qir {name}" in command.help, "the help shows how the command is written"


def test_verbs_stand_in_rooms_that_the_help_names():
    written = subprocess.run([sys.executable, "-P", "-m", "qir", "--help"], capture_output=True, text=True, check=True)
    for heading, verbs in ROOMS.values():
        assert heading in written.stdout
        assert all(verb in written.stdout for verb in verbs)
    assert "Exit codes: 0 done" in written.stdout


def test_the_help_and_the_version_load_no_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from qir.cli.main import make_app\n"
        "for option in ('--help', '--version'): assert CliRunner().invoke(make_app(), [option]).exit_code == 0\n"
        "print(*[name for name in ('torch', 'onnx', 'onnxruntime', 'scipy', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_answer_is_json_on_standard_output_alone(answer):
    found = answer("profiles", "qcdq")
    assert found["name"] == "qcdq"


def test_quiet_prints_nothing(shell):
    assert shell("inspect", "lenet", "-q").stdout == ""
    assert '"macs": 2293000' in shell("inspect", "lenet", "-q", "--json").stdout


def test_networks_that_come_with_qir_go_by_their_names(answer):
    assert answer("cost", "lenet", "-t", "npu-148")["policies"]["8/8"]["totals"]["cycles"] == 24111.0


def test_a_name_of_no_network_is_told_the_nearest(shell):
    with pytest.raises(ModelFileError, match="did you mean 'lenet'"):
        shell("cost", "lenett")


def test_verbose_says_how_long_each_stage_took(caplog):
    with caplog.at_level(logging.INFO, logger="qir"), stage("calibration"):
        assert is_verbose()
    assert re.fullmatch(r"calibration: 0\.\d s", caplog.messages[0])
