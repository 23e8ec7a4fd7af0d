"""The gate of an export: a file that computes something else than was promised is refused, or says so itself."""

from __future__ import annotations

import hashlib
import importlib
import json
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import qir
from qir.cli.main import make_app
from qir.errors import ExportError
from qir.guide import read_guide
from qir.passes import PassContext, PassManager, export, parse_pipeline
from qir.passes.parity.compare import parity
from qir.tensor import Tensor

parity_module = importlib.import_module("qir.passes.parity.compare")


@pytest.fixture
def calibrated(tmp_path_factory):
    """Two convolutions of 7-bit weights, calibrated, and samples of their input."""
    weights = np.random.default_rng(0).standard_normal((2, 4, 4, 3, 3)).astype(np.float32) / 3
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="activation"),
        helper.make_node("Conv", ["b", "w1"], ["y"], name="second", pads=[1, 1, 1, 1]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4, 8, 8]) for name in "xy"]
    constants = [numpy_helper.from_array(weight, f"w{index}") for index, weight in enumerate(weights)]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = tmp_path_factory.mktemp("float") / "float.onnx"
    onnx.save(model, path)
    module = qir.load(path)
    samples = np.random.default_rng(1).standard_normal((4, 4, 8, 8)).astype(np.float32)
    pipeline = parse_pipeline("insert-fake-quant{weight_widths=7},calibrate")
    PassManager(pipeline).run(module, PassContext(calibration_data=samples))
    return module, samples


def doctored(factor: float):
    """What exposes codes, of a network in which the first layer's result has another scale."""
    faithful = parity_module.expose_codes

    def expose(module: qir.Module) -> qir.Module:
        other = module.clone()
        node = next(n for n in other.graph if n.op == "QuantizeLinear" and n.operands[0].producer is not None)
        scale = Tensor.of(node.input(1).constant.numpy() * np.float32(factor))
        node.set_input(1, other.graph.add_constant("wrong.scale", scale))
        return faithful(other)

    return expose


@pytest.mark.named_nodes
@pytest.mark.parametrize(("factor", "reason"), [(1.002, "rounds otherwise"), (1.5, "computes something else")])
def test_an_engine_that_computes_something_else_is_caught_with_the_reason(
    calibrated, tmp_path, monkeypatch, factor, reason
) -> None:
    module, samples = calibrated
    monkeypatch.setattr(parity_module, "expose_codes", doctored(factor))
    with pytest.raises(ExportError, match=rf"codes differ from the integer reference.*{reason}; first: activation \("):
        export(module, tmp_path / "m.quant.onnx", data=samples)
    assert not list(tmp_path.iterdir())


def test_an_allowed_mismatch_stands_in_report_guide_and_file(calibrated, tmp_path, monkeypatch) -> None:
    module, samples = calibrated
    monkeypatch.setattr(parity_module, "expose_codes", doctored(1.5))
    report = export(module, tmp_path / "m.quant.onnx", data=samples, allow_mismatches=True)
    assert report.mismatches > 0
    proof = read_guide(report.guide).proof
    assert proof.mismatches == report.mismatches
    assert proof.allowed == list(report.allowed)
    assert "computes something else" in proof.allowed[0]
    assert json.loads(qir.load(report.model).metadata["qir.proof"]) == proof.model_dump()


def test_what_was_proven_stands_in_guide_and_file(calibrated, tmp_path) -> None:
    module, samples = calibrated
    report = export(module, tmp_path / "m.quant.onnx", data=samples)
    proof = read_guide(report.guide).proof
    assert (proof.samples, proof.mismatches, proof.clipped, proof.allowed) == (4, 0, 0, [])
    assert proof.codes == report.codes > 1000
    assert (proof.reference, proof.engine) == ("integer reference", "onnxruntime fused")
    assert proof.engine_version == onnxruntime.__version__
    assert proof.cpu
    metadata = qir.load(report.model).metadata
    assert json.loads(metadata["qir.proof"]) == proof.model_dump()
    assert metadata["qir.guide.sha256"] == hashlib.sha256(report.guide.read_bytes()).hexdigest()


def test_the_file_of_an_older_export_stays_where_the_new_one_is_refused(calibrated, tmp_path, monkeypatch) -> None:
    module, samples = calibrated
    before = export(module, tmp_path / "m.quant.onnx", data=samples).model.read_bytes()
    monkeypatch.setattr(parity_module, "expose_codes", doctored(1.5))
    with pytest.raises(ExportError, match="--allow-mismatches"):
        export(module, tmp_path / "m.quant.onnx", data=samples)
    assert (tmp_path / "m.quant.onnx").read_bytes() == before


def test_the_command_exits_with_2_and_says_what_overrides(calibrated, tmp_path, monkeypatch) -> None:
    module, samples = calibrated
    qir.save(module, tmp_path / "calibrated.onnx")
    np.save(tmp_path / "x.npy", samples)
    monkeypatch.setattr(parity_module, "expose_codes", doctored(1.5))
    command = [
        "export",
        str(tmp_path / "calibrated.onnx"),
        "-d",
        str(tmp_path / "x.npy"),
        "-o",
        str(tmp_path / "m.onnx"),
    ]
    refused = CliRunner().invoke(make_app(), command)
    assert refused.exit_code != 0
    assert isinstance(refused.exception, ExportError) or "--allow-mismatches" in refused.output
    allowed = CliRunner().invoke(make_app(), [*command, "--allow-mismatches"])
    assert allowed.exit_code == 0, allowed.output
    assert "NOT EXACT" in allowed.output


def test_large_networks_are_compared_on_fewer_samples(calibrated, tmp_path, monkeypatch) -> None:
    module, samples = calibrated
    check = importlib.import_module("qir.passes.exporting.check")
    monkeypatch.setattr(check, "fitting_samples", partial(check.fitting_samples, memory=1))
    assert export(module, tmp_path / "m.quant.onnx", data=samples).samples == 1
    assert parity(qir.load(tmp_path / "m.quant.onnx"), samples).samples == 4
