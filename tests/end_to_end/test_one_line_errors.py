"""What goes wrong in the shell is one line and exit code 2, never a traceback."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from qir.backends.training.checkpoint import save_checkpoint
from qir.cli import main as shell
from qir.errors import DataError
from qir.policy import Policy
from qir.search.problem.result import Evaluation, Result


def run(monkeypatch, capsys, *arguments):
    """Exit code and what went to standard error."""
    monkeypatch.setattr("sys.argv", ["qir", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        shell.main()
    return ended.value.code, capsys.readouterr().err


def test_a_product_that_does_not_fit_is_named(tmp_path, monkeypatch, capsys):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "s", "zw"], ["wd"]),
        helper.make_node("Gemm", ["d", "wd"], ["g"], name="product"),
        helper.make_node("QuantizeLinear", ["g", "s", "z"], ["gq"]),
        helper.make_node("DequantizeLinear", ["gq", "s", "z"], ["y"]),
    ]
    constants = {"s": np.float32(0.1), "z": np.uint8(0), "zw": np.int8(0), "w": np.ones((5, 3), np.int8)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, ["n", 4])],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "m.onnx")
    code, said = run(monkeypatch, capsys, "verify", tmp_path / "m.onnx")
    assert code == 2
    assert "Gemm" in said
    assert said.count("\n") == 1


def test_a_cost_that_no_result_has_is_named(tmp_path, monkeypatch, capsys):
    costs = {"latency": 1.0, "size": 2.0}
    tried = Evaluation(Policy({"a": 4}), 0.5, costs)
    found = Result("random", tried.policy, 0.5, False, "none", None, None, costs, [tried], [tried], 0, 1.0)
    found.save(tmp_path / "r.json")
    code, said = run(monkeypatch, capsys, "report", tmp_path / "r.json", "--cost", "nope", "-o", tmp_path / "r.html")
    assert code == 2
    assert "'nope'" in said
    assert "latency, size" in said


@pytest.mark.parametrize("error", [MemoryError(), RecursionError("maximum recursion depth exceeded")])
def test_memory_and_recursion_end_at_the_door(monkeypatch, capsys, error):
    def fail():
        raise error

    monkeypatch.setattr(shell, "make_app", lambda *_: fail)
    code, said = run(monkeypatch, capsys, "opt")
    assert code == 2
    assert said.startswith("error: ")


def test_a_checkpoint_on_a_full_disk_is_an_error(tmp_path, monkeypatch):
    def full(*arguments):
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed\nmore lines")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DataError, match=r"c\.pt: cannot be written.*make room"):
        save_checkpoint(tmp_path / "c.pt", "run", {})
    assert not list(tmp_path.iterdir())
