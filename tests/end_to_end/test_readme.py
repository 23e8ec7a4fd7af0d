"""The README's Python runs as it stands there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import qir.models
from qir.backends import load_target
from qir.fake_quant import FakeQuant
from qir.search import load_network, prepare

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(qir.models.path("lenet"), tmp_path / "model.onnx")
    np.save(tmp_path / "calibration.npy", qir.models.fashion_mnist("calibration").images[:64])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_one_call_writes_a_model(folder: Path) -> None:
    exec(compile(BLOCKS[0], "README.md", "exec"), {})
    assert (folder / "out" / "lenet_fashion_mnist.quant.onnx").is_file()
    assert "uniform" in (folder / "out" / "report.html").read_text(encoding="utf-8")


def test_the_pass_of_ones_own_narrows_every_quantizer(folder: Path) -> None:
    module = load_network(folder / "model.onnx")
    prepare(module, load_target("npu-148"), folder / "calibration.npy")
    exec(compile(BLOCKS[1], "README.md", "exec"), {"module": module, "__name__": __name__})
    widths = [FakeQuant(node).bits for node in module.graph.fake_quants() if min(FakeQuant(node).widths) <= 4]
    assert max(widths) == 4
