"""Ctrl-C and SIGTERM end a command with its exit code and one line: no traceback, no reproducer, no file left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import qir.models
from qir.cli.interruption import NOT_STORED, STORED, WHOLE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals between processes")

COMMAND = "import qir.cli.main as start; print('ready', flush=True); start.main()"
LENET = str(qir.models.path("lenet"))


def interrupted(number: int, seconds: float, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that gets a signal so long after its start, with home and temporary folder of its own."""
    for name in ("home", "temporary"):
        (folder / name).mkdir(exist_ok=True)
    given = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary"), "XDG_CACHE_HOME": ""}
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | given,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(seconds)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Enough images that a command is not done before the signal."""
    path = tmp_path_factory.mktemp("data") / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(20_000, 1, 28, 28)).astype(np.float32))
    return path


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("seconds", [0.1, 0.4, 1.0, 2.0])
def test_a_signal_ends_a_command_in_one_line(tmp_path, images, number, code, seconds) -> None:
    output = tmp_path / "out" / "m.quant.onnx"
    done = interrupted(number, seconds, tmp_path, "quantize", LENET, "--data", str(images), "-o", str(output))
    assert done.returncode == code, done.stderr
    assert done.stderr == f"interrupted: {WHOLE}; {NOT_STORED}\n"
    assert not output.exists()
    left = [path for path in (tmp_path / "temporary").rglob("*") if path.name != ".ses"]  # ONNX Runtime's own
    assert not left
    assert not list((tmp_path / "home").rglob("qir-reproducer-*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("module", ["typer", "qir.cli.options", "torch"])
def test_a_signal_during_an_import_ends_a_command_in_one_line(tmp_path, number, code, module) -> None:
    script = f"""
import os, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Interrupting())
from qir.cli.main import main
main()
"""
    words = ["cost", LENET, "-t", "npu-148"] if module != "torch" else ["quantize", LENET, "-d", "distilled"]
    command = [sys.executable, "-P", "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (code, f"interrupted: {WHOLE}; {NOT_STORED}\n")


def test_the_line_says_that_a_store_keeps_what_was_measured(tmp_path, images) -> None:
    store = (
        "-t",
        "npu-148",
        "-b",
        "latency=0.5x",
        "--store",
        str(tmp_path / "s.db"),
        "-o",
        str(tmp_path / "m.quant.onnx"),
    )
    done = interrupted(signal.SIGTERM, 0.3, tmp_path, "quantize", LENET, "--data", str(images), *store)
    assert (done.returncode, done.stderr) == (143, f"interrupted: {WHOLE}; {STORED}\n")


def test_a_command_that_ends_a_search_early_and_writes_the_best_says_so() -> None:
    """The verb takes the interrupt for the end of its search, as `qir search` does."""
    script = """
import os, signal, sys
import qir.cli.main as start
def verb():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        sys.exit(0)
start.make_app = lambda *_: verb
start.main()
"""
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr.startswith("interrupted: the best that was found until then is written; ")
