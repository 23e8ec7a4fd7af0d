"""`qir opt`: data, target, instruments, reproducers, distilled data; passes of other packages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import qir
import qir.models
from qir.cli.main import make_app
from qir.errors import QirError
from qir.fake_quant import quantizers
from qir.guide import read_guide
from qir.passes.calibration.calibrate import Calibrate

LENET = str(qir.models.path("lenet"))
QUANTIZE = "fold-batchnorm,insert-fake-quant{activation_widths=8,weight_widths=4|8},calibrate{weights=minmax}"


def opt(*arguments: str):
    return CliRunner().invoke(make_app(), ["opt", *arguments], catch_exceptions=True)


def test_a_network_is_calibrated_on_data_that_are_distilled_from_it(tmp_path: Path) -> None:
    output = tmp_path / "model.qir"
    pipeline = f"distill-data{{samples=8,iterations=4}},{QUANTIZE}"
    done = opt(LENET, "-p", pipeline, "-o", str(output), "--seed", "3")
    assert done.exit_code == 0, done.output
    module = qir.parse(output.read_text())
    assert all(node.is_calibrated for node in quantizers(module.graph).values())


def test_data_of_a_file_and_a_target_reach_the_passes(tmp_path: Path) -> None:
    data = tmp_path / "data.npy"
    np.save(data, qir.models.fashion_mnist("calibration").images[:8])
    output = tmp_path / "model.qir"
    pipeline = "fold-batchnorm,insert-fake-quant,propagate-constraints,calibrate{weights=minmax},correct-bias"
    done = opt(LENET, "-p", pipeline, "-d", str(data), "-t", "npu-148", "-o", str(output))
    assert done.exit_code == 0, done.output
    module = qir.parse(output.read_text())
    assert quantizers(module.graph)["fc1.weight"].widths == (1, 4, 8)


def test_instruments_say_what_happened(tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    done = opt(LENET, "-p", "fold-batchnorm,eliminate-dead-code", "--timing", "--print-after", "--dump-ir", str(folder))
    assert done.exit_code == 0, done.output
    assert "fold-batchnorm" in done.stderr
    assert done.stdout.startswith("qir 1")
    assert sorted(path.suffix for path in folder.iterdir())


def fail(*_: object) -> bool:
    raise ValueError("boom")


def test_a_reproducer_of_an_internal_error_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(Calibrate, "run", fail)
    done = opt(LENET, "-p", "fold-batchnorm,calibrate")
    assert isinstance(done.exception, QirError)
    folder = re.search(r"--replay (\S+?)\)", str(done.exception)).group(1)
    assert Path(folder).is_relative_to(tmp_path / "qir" / "reproducers")
    again = opt("--replay", folder)
    assert isinstance(again.exception, QirError)
    assert "boom" in str(again.exception)
    run = Path(folder) / "run.json"
    run.write_text(run.read_text().replace(",calibrate", ""))
    output = tmp_path / "model.qir"
    assert opt("--replay", folder, "-o", str(output)).exit_code == 0
    assert "BatchNormalization" not in output.read_text()


def test_what_is_wrong_with_the_input_leaves_no_reproducer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    done = opt(LENET, "-p", "fold-batchnorm,calibrate")
    assert "no fake-quant nodes" in str(done.exception)
    assert "--replay" not in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_every_pass_is_listed_with_what_it_does() -> None:
    done = opt("--list")
    assert done.exit_code == 0
    for name in ("equalize-weights", "equalize-activations", "correct-bias", "correct-channels", "absorb-bias"):
        line = next(line for line in done.stdout.splitlines() if line.startswith(name))
        assert len(line.split()) > 4


def test_without_a_network_it_says_what_is_missing() -> None:
    assert "give an ONNX file" in str(opt("-p", "fold-batchnorm").exception)


def test_quantize_takes_distilled_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import qir.backends.training.distillation as distillation

    made: list[tuple[int, ...]] = []

    def few(module, *, samples, iterations, seed):
        del samples, iterations
        data = distillation_of(module, samples=16, iterations=3, seed=seed)
        made.append(data.shape)
        return data

    distillation_of = distillation.distill_data
    monkeypatch.setattr(distillation, "distill_data", few)
    output = tmp_path / "model.quant.onnx"
    command = ["quantize", LENET, "--data", "distilled", "--no-correct", "-o", str(output)]
    done = CliRunner().invoke(make_app(), command)
    assert done.exit_code == 0, (done.output, done.exception)
    assert made == [(16, 1, 28, 28)]
    assert output.exists()


TOY = {
    "pyproject.toml": """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "toy-passes"
version = "1.0"
[project.entry-points."qir.passes"]
rename-nodes = "toy_passes:RenameNodes"
no-pass = "toy_passes:NOTHING"
[tool.setuptools]
py-modules = ["toy_passes"]
""",
    "toy_passes.py": '''
from dataclasses import dataclass
from typing import ClassVar

from qir.passes import Pass

NOTHING = 3


@dataclass(frozen=True)
class RenameNodes(Pass):
    """Give every node a number."""

    name: ClassVar[str] = "rename-nodes"
    prefix: str = "node"

    def run(self, module, context):
        for number, node in enumerate(module.graph):
            node.name = f"{self.prefix}{number}"
        return True
''',
    "check.py": """
import qir, qir.models
from qir.passes import check_pass, find_pass
module = qir.load(qir.models.path("lenet"))
check_pass(find_pass("rename-nodes")(prefix="layer"), module)
print("checked")
""",
}


def test_a_pass_of_an_installed_package_is_found_checked_and_run(tmp_path: Path) -> None:
    source, site = tmp_path / "toy", tmp_path / "site"
    source.mkdir()
    for name, text in TOY.items():
        (source / name).write_text(text)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    built = subprocess.run([*install, "--target", str(site), str(source)], capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"pip cannot build a package here: {built.stderr.strip().splitlines()[-1]}")
    paths = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": paths},
        )

    main = "from qir.cli.main import main; main()"
    checked = python(str(source / "check.py"))
    assert checked.stdout.strip() == "checked", checked.stderr
    run = python("-c", main, "opt", LENET, "-p", "fold-batchnorm,rename-nodes{prefix=op}")
    assert 'name "op0"' in run.stdout, run.stderr
    listed = python("-c", main, "opt", "--list").stdout
    assert "Give every node a number." in listed
    assert "cannot be used: pass 'no-pass'" in listed
    wrong = python("-c", main, "opt", LENET, "-p", "no-pass")
    assert wrong.returncode == 2
    assert "not a subclass of qir.passes.Pass" in wrong.stderr


def test_quantize_passes_options_on_to_the_passes(tmp_path: Path) -> None:
    data = tmp_path / "data.npy"
    np.save(data, qir.models.fashion_mnist("calibration").images[:16])
    output = tmp_path / "model.quant.onnx"
    options = ["--before", "fold-batchnorm", "--insert", "block=64,keep=[conv1:8]", "--no-correct"]
    done = CliRunner().invoke(make_app(), ["quantize", LENET, "-d", str(data), "-o", str(output), *options])
    assert done.exit_code == 0, (done.output, done.exception)
    guide = read_guide(tmp_path / "model.guide.json")
    assert {entry.name: entry.weight.block for entry in guide.stored_weights} == {"fc1.weight": 64, "fc2.weight": 64}
    assert [layer.name for layer in guide.layers] == ["conv1", "conv2"]
