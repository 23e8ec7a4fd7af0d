"""The documents: their Python runs, their links lead somewhere, and the commands that they name exist."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer.main
from typer.testing import CliRunner

import qir.models
from qir.backends import load_target
from qir.cli.main import make_app
from qir.fake_quant import FakeQuant
from qir.policy import Policy
from qir.quantizers import registry
from qir.search import load_network, prepare

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
IDS = [path.name for path in DOCUMENTS]


def code(path: Path) -> str:
    """Everything that stands in code fences or between backticks, one piece a line."""
    text = path.read_text(encoding="utf-8")
    fences = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    return "\n".join([*fences, *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))])


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_links_lead_somewhere(document: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = document if not name else document.parent / name
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def script_of(words: list[str]) -> Path:
    """Find the file that `python …` runs; `benchmarks NAME` runs the script of that name."""
    if words[0] == "benchmarks":
        listed = runpy.run_path(str(ROOT / "benchmarks" / "__main__.py"))["BENCHMARKS"]
        return ROOT / "benchmarks" / (listed[words[1]].script if len(words) > 1 else "__main__.py")
    return Path(importlib.util.find_spec(words[1]).origin) if words[0] == "-m" else ROOT / words[0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_scripts_modules_and_their_options_exist(document: Path) -> None:
    for command in re.findall(r"^(?:.*&& |\w+=\w+ )*python (.*)$", code(document), re.MULTILINE):
        words = command.split()
        if words[0] == "-c":
            continue
        script = script_of(words)
        assert script.is_file(), command
        text = script.read_text(encoding="utf-8")
        for option in re.findall(r"(?<=\s)--[a-z-]+", command):
            assert f'"{option}"' in text or f"{option[2:].replace('-', '_')}: Annotated" in text, command


@pytest.mark.parametrize("document", DOCUMENTS, ids=IDS)
def test_verbs_of_the_shell_and_their_options_exist(document: Path) -> None:
    verbs = typer.main.get_command(make_app()).commands
    for command in re.findall(r"^qir (.*)$", code(document), re.MULTILINE):
        verb = command.split()[0]
        assert verb in verbs, command
        found = getattr(verbs[verb], "commands", {}).get((*command.split(), "")[1], verbs[verb])
        options = {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)}
        for option in re.findall(r"(?<=\s)(--?[a-z][a-z-]*)", command):
            assert option in options, command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(qir.models.path("lenet"), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(name: str, names: dict, **shorter: str) -> int:
    """Run a document's blocks of Python; `shorter` replaces figures that take long. Returns how many there are."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / name).read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        for key, value in shorter.items():
            block = re.sub(rf"\b{key}=\d+", f"{key}={value}", block)
        exec(compile(block, name, "exec"), names)
    return len(blocks)


def test_the_python_of_models_runs() -> None:
    names: dict = {}
    assert run("reference/models.md", names) == 1
    assert names["samples"].images.shape == (512, 1, 28, 28)


def test_the_python_of_schemes_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.SCHEMES, "_own", dict(registry.SCHEMES._own))
    weights = np.random.default_rng(0).standard_normal((4, 9)).astype(np.float32)
    ranges = np.array([[-1, 1]] * 4, np.float32)
    assert run("reference/schemes.md", {"weights": weights, "ranges": ranges, "__name__": __name__}) == 2
    assert registry.get_scheme("halves").widths == (2, 3, 4)


def test_the_python_of_training_runs(folder: Path) -> None:
    calibration = qir.models.fashion_mnist("calibration").take(16)
    module = load_network(folder / "model.onnx")
    prepare(module, load_target("npu-148"), calibration.images)
    names = {
        "module": module,
        "policy": Policy({node.name: FakeQuant(node).bits for node in module.graph.fake_quants()}),
        "images": calibration.images,
        "labels": calibration.labels,
        "samples": calibration,
        "held_out": calibration,
        "path": folder / "checkpoint.pt",
    }
    assert run("guides/training.md", names, iterations="20", images="16") == 3
    assert (folder / "checkpoint.pt").is_file()
    assert names["result"].schemes


def run_shell(name: str, runner: CliRunner) -> int:
    """Run the commands of a document's shell blocks, one after the other. Returns how many there are."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```shell\n(.*?)```", text, re.DOTALL)
    commands = [line.removeprefix("qir ") for block in blocks for line in block.splitlines() if line.startswith("qir ")]
    for command in commands:
        done = runner.invoke(make_app(), shlex.split(command, comments=True))
        assert done.exit_code == 0, (command, done.output, done.exception)
    return len(commands)


def test_the_commands_of_your_npu_run_and_its_file_is_the_smallest(folder: Path) -> None:
    np.save(folder / "calibration.npy", qir.models.fashion_mnist("calibration").images[:64])
    assert run_shell("learn/your-npu.md", CliRunner()) == 6
    shown = re.search(r"```json\n(.*?)```", (ROOT / "docs" / "learn" / "your-npu.md").read_text("utf-8"), re.DOTALL)
    written = json.loads((folder / "my-npu.json").read_text(encoding="utf-8"))
    assert json.loads(shown[1]) == {key: value for key, value in written.items() if key != "illustrative"}


@pytest.mark.slow
def test_the_python_and_the_commands_of_the_job_run(folder: Path) -> None:
    assert run("guides/job.md", {}) == 3
    np.save(folder / "x.npy", qir.models.fashion_mnist("calibration").images[:32])
    assert run_shell("guides/job.md", CliRunner()) == 3


def test_the_tutorial_runs_word_for_word(folder: Path) -> None:
    assert run("learn/tutorial.md", {}) == 1
    assert run_shell("learn/tutorial.md", CliRunner()) == 8
    assert {"half.quant.onnx", "half.guide.json", "half.job.toml"} <= {path.name for path in (folder / "out").iterdir()}


@pytest.mark.parametrize("name", ["index.md", "learn/shell.md"])
def test_the_commands_of_the_front_pages_run(folder: Path, name: str) -> None:
    assert run_shell(name, CliRunner()) == 2


def test_every_document_is_in_the_navigation_of_the_site() -> None:
    listed = re.findall(r"^ +- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    docs = ROOT / "docs"
    assert sorted(listed) == sorted(path.relative_to(docs).as_posix() for path in docs.rglob("*.md"))


def test_what_the_reference_describes_exists() -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE):
        module, _, attribute = name.rpartition(".")
        assert getattr(importlib.import_module(module), attribute).__doc__, name


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    page = tmp_path / "site" / "reference" / "python" / "index.html"
    assert "From a network to a file" in page.read_text(encoding="utf-8")
