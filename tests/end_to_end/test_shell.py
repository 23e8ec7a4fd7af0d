"""The commands of the README, and what the shell says to bad input: one line, exit code 2, no partial files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qir.backends
import qir.models
from qir.guide import read_guide

LENET = str(qir.models.path("lenet"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from qir.cli.main import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "calibration.npy"
    np.save(path, qir.models.fashion_mnist("calibration").images[:128])
    return path


def test_quantize_writes_a_model_within_the_budget(calibration: Path, tmp_path: Path) -> None:
    output = tmp_path / "model.quant.onnx"
    done = run("quantize", LENET, "--data", str(calibration), "-t", "npu-148", "-b", "latency=0.5x", "-o", str(output))
    assert done.returncode == 0, done.stderr
    assert "optimal" in done.stdout
    guide = read_guide(tmp_path / "model.guide.json")
    assert guide.total_cycles is not None
    assert guide.total_cycles <= 0.5 * 24111


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("missing.onnx",), "missing.onnx"),
        (("{text}",), "ONNX"),
        (("{truncated}",), "truncated"),
        ((LENET, "-t", "npu-148", "-b", "latency=0.01x"), "smallest reachable"),
        ((LENET, "-b", "latency=0.5x"), "no hardware is named"),
        ((LENET, "-b", "latency"), "name=limit"),
        ((LENET, "-b", "weather=0.5x"), "weather"),
        ((LENET, "-t", "npu-149"), "npu-148"),
        ((LENET, "--method", "guess"), "guess"),
        ((LENET, "--profile", "flat"), "flat"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], said: str, calibration: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.onnx").write_text("this is not a model")
    (tmp_path / "truncated.onnx").write_bytes(Path(LENET).read_bytes()[:1000])
    files = {"text": tmp_path / "text.onnx", "truncated": tmp_path / "truncated.onnx"}
    filled = [argument.format(**files) for argument in arguments]
    done = run("quantize", *filled, "--data", str(calibration), "-o", str(tmp_path / "out.onnx"))
    assert done.returncode == 2, done.stdout + done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_data_of_a_wrong_shape_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "wrong.npy", np.zeros((4, 3, 28, 28), np.float32))
    done = run("quantize", LENET, "--data", str(tmp_path / "wrong.npy"), "-o", str(tmp_path / "out.onnx"))
    assert done.returncode == 2
    assert "do not fit" in done.stderr


def test_an_empty_graph_a_network_without_layers_and_a_target_without_pairs_are_refused(
    calibration: Path, tmp_path: Path
) -> None:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 28, 28])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 28, 28])
    opset = [helper.make_opsetid("", 18)]
    empty = helper.make_model(helper.make_graph([], "empty", [], []), opset_imports=opset, ir_version=8)
    relu = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", [value], [result])
    onnx.save(empty, tmp_path / "empty.onnx")
    onnx.save(helper.make_model(relu, opset_imports=opset, ir_version=8), tmp_path / "relu.onnx")
    shipped = Path(qir.backends.__file__).parent / "targets" / "npu-148.json"
    described = json.loads(shipped.read_text())
    (tmp_path / "target.json").write_text(json.dumps({**described, "pairs": []}))
    for arguments, said in (
        ([str(tmp_path / "empty.onnx")], "empty"),
        ([str(tmp_path / "relu.onnx")], "no quantizable layers"),
        ([LENET, "-t", str(tmp_path / "target.json")], "pair"),
    ):
        done = run("quantize", *arguments, "--data", str(calibration), "-o", str(tmp_path / "out.onnx"))
        assert done.returncode == 2, done.stdout + done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out*"))


def test_help_lists_the_verbs() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(verb in done.stdout for verb in ("quantize", "search", "report"))
