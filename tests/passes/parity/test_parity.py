"""`parity` and `qir verify`: what is compared, what is found, and the exit code."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from typer.testing import CliRunner

import qir
import qir.models
from qir.backends import load_target
from qir.cli.main import make_app
from qir.errors import QirError
from qir.passes import PassContext, PassManager, apply_policy, bit_constraints, export, parse_pipeline, run_passes
from qir.passes.correction.power_of_two_scales import PowerOfTwoScales
from qir.passes.parity.compare import parity
from qir.tensor import Tensor

parity_module = importlib.import_module("qir.passes.parity.compare")


def test_a_faithful_file_keeps_its_promise(exported) -> None:
    network, module, _ = exported(0, 4, 5)
    report = parity(module, network.images(8), against=network.module())
    assert report.keeps_promise
    assert not report.exact
    assert report.samples == 8
    assert not report.refused
    assert all(layer.mismatches["fused"] == 0 for layer in report.layers if layer.promised)
    assert all(layer.reason == "" for layer in report.layers if layer.kernel != "float")
    assert {"border", "integer"} <= {layer.kernel for layer in report.layers}
    noise = [layer.sqnr for layer in report.layers if layer.sqnr is not None]
    assert len(noise) == len(report.layers)
    assert min(noise) > 3


def test_the_export_report_counts_the_codes_it_compared(exported) -> None:
    _, _, report = exported(3, 8, 8)
    assert report.codes > 1000
    assert report.mismatches == 0


@pytest.mark.named_nodes
def test_a_softmax_at_the_end_is_named_and_breaks_nothing(tmp_path, random_network) -> None:
    network, _ = random_network(0, 8, 8)
    network.output = network.op("Softmax", network.output)
    module = quantize(network)
    written = export(module, tmp_path / "soft.quant.onnx", data=network.images(4))
    report = parity(qir.load(written.model), network.images(4))
    assert report.keeps_promise
    assert report.float_nodes
    assert all("softmax" in name for name in report.float_nodes)


def quantize(network) -> qir.Module:
    module = network.module()
    pipeline = parse_pipeline("insert-fake-quant,calibrate")
    PassManager(pipeline).run(module, PassContext(calibration_data=network.images(16)))
    return module


def test_more_bits_give_less_noise(exported) -> None:
    few, many = exported(1, 3, 3), exported(1, 8, 8)
    noise = [
        parity(module, network.images(8), against=network.module()).layers[-1].sqnr
        for network, module, _ in (few, many)
    ]
    assert noise[1] > noise[0] + 10


def test_a_layer_on_floats_is_named_with_its_reason(exported) -> None:
    network, module, _ = exported(1, 8, 8)
    report = parity(module, network.images(8))
    floats = [layer for layer in report.layers if layer.kernel == "float"]
    assert all(layer.reason and not layer.promised for layer in floats)


def broken(module: qir.Module) -> qir.Module:
    """The same network with one scale that is wrong by one percent."""
    other = module.clone()
    node = next(n for n in other.graph if n.op == "QuantizeLinear" and n.operands[0].producer is not None)
    scale = other.graph.add_constant("wrong.scale", Tensor.of(node.input(1).constant.numpy() * np.float32(1.01)))
    node.set_input(1, scale)
    return other


def test_a_file_that_computes_something_else_breaks_its_promise(exported, monkeypatch, tmp_path) -> None:
    network, module, written = exported(0, 8, 8)
    faithful = parity_module.expose_codes
    monkeypatch.setattr(parity_module, "expose_codes", lambda m: faithful(broken(m)))
    report = parity(module, network.images(4))
    assert not report.keeps_promise
    first = report.first["fused"]
    assert first.node in {layer.node for layer in report.layers}
    assert abs(first.found - first.expected) >= 1
    assert len(first.index) == 4
    result = CliRunner().invoke(make_app(), ["verify", str(written.model)])
    assert result.exit_code == 1
    assert f"{first.node} (" in result.output
    assert "codes covered: broken" in result.output


def test_the_command_prints_every_layer_and_exits_with_zero(exported, tmp_path) -> None:
    network, _, written = exported(2, 4, 4)
    np.save(tmp_path / "x.npy", network.images(6))
    result = CliRunner().invoke(make_app(), ["verify", str(written.model), "--data", str(tmp_path / "x.npy")])
    assert result.exit_code == 0, result.output
    assert "codes covered: exact" in result.output
    assert all(name in result.output for name in ("fused", "plain", "dyadic", "x86 without VNNI"))
    assert "on integer kernels in ONNX Runtime: " in result.output
    assert len(result.output.splitlines()) <= 24
    longer = CliRunner().invoke(make_app(), ["verify", str(written.model), "--all"]).output
    layers = parity(qir.load(written.model)).layers
    assert all(layer.node in longer for layer in layers)


PROFILES = ("qcdq-packed", "qdq-int4", "qdq-int2", "qdq-16", "qoperator", "float")


@pytest.mark.parametrize("widths", [(8, 8), (4, 4), (2, 2)])
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_that_onnx_runtime_runs_is_verified(random_network, tmp_path, profile, widths) -> None:
    network, module = random_network(5, *widths)
    written = export(module, tmp_path / "m.quant.onnx", profile=profile, data=network.images(2))
    report = parity(qir.load(written.model), network.images(4), against=network.module())
    assert report.keeps_promise
    assert set(report.first) | set(report.refused) == {"fused", "unfused", "plain", "precise"} | (
        set() if profile == "float" else {"dyadic"} if profile == "qdq-int2" else {"dyadic", "no-vnni"}
    )
    assert all(layer.codes and layer.mismatches for layer in report.layers)
    assert all(not layer.reason for layer in report.layers if layer.kernel != "float")
    assert all(layer.reason for layer in report.layers if layer.kernel == "float")
    if profile in ("qcdq-packed", "qoperator"):
        assert all(layer.promised for layer in report.layers)
    assert all(layer.sqnr is not None for layer in report.layers)
    assert len(report.layers) >= (1 if profile == "float" else 10)


def test_a_qonnx_file_is_verified_in_its_own_executor(random_network, tmp_path) -> None:
    network, module = random_network(5, 4, 4)
    written = export(module, tmp_path / "m.quant.onnx", profile="qonnx", data=network.images(2))
    report = parity(qir.load(written.model), network.images(4))
    assert list(report.first) == ["qonnx"]
    assert report.keeps_promise
    assert report.rate("qonnx") == 0
    assert not report.exact


@pytest.mark.parametrize("profile", ["qcdq", "qoperator", "float"])
def test_equal_codes_are_promised_of_all_only_with_powers_of_two(random_network, tmp_path, profile) -> None:
    _, module = random_network(5, 4, 4)
    assert not parity(qir.load(export(module, tmp_path / "a.quant.onnx", profile=profile).model)).exact
    PassManager([PowerOfTwoScales()]).run(module, PassContext())
    report = parity(qir.load(export(module, tmp_path / "b.quant.onnx", profile=profile).model))
    assert report.exact == (profile != "float")
    assert report.keeps_promise


def test_native_types_below_8_bits_are_named_where_they_fall_back(random_network, tmp_path) -> None:
    network, module = random_network(5, 4, 4)
    written = export(module, tmp_path / "m.quant.onnx", profile="qdq-int4", data=network.images(2))
    reasons = [layer.reason for layer in parity(qir.load(written.model), network.images(2)).layers]
    assert "ONNX Runtime does not fuse Conv with the element types uint4, int4, uint4" in reasons


def test_a_file_made_for_a_session_option_keeps_its_promise_with_it(random_network, tmp_path) -> None:
    network, module = random_network(5, 2, 2)
    written = export(module, tmp_path / "m.quant.onnx", profile="qdq-int2", data=network.images(2))
    report = parity(qir.load(written.model), network.images(2))
    assert "fused" in report.refused
    assert report.default == "unfused"
    assert report.keeps_promise


def test_16_bit_networks_are_compared_code_by_code(tmp_path, random_network) -> None:
    network, _ = random_network(5, 8, 8)
    module = network.module()
    pipeline = "insert-fake-quant{weight_widths=12,activation_widths=10},calibrate{method=minmax}"
    run_passes(module, pipeline, data=network.images(16))
    written = export(module, tmp_path / "m.quant.onnx", profile="qdq-16", data=network.images(2))
    report = parity(qir.load(written.model), network.images(4), against=network.module())
    assert report.float_nodes == ()
    assert max(max(layer.largest.values()) for layer in report.layers) <= 1
    assert max(layer.sqnr for layer in report.layers) > 50


def test_a_target_with_reduce_range_leaves_no_layer_that_saturates(random_network, tmp_path) -> None:
    network, module = random_network(5, 8, 8)
    target = load_target("bitfusion-e").model_copy(update={"reduce_range": True})
    policy = bit_constraints(module, target.operand_rules()).uniform(8)
    apply_policy(module, policy)
    written = export(module, tmp_path / "m.quant.onnx", data=network.images(2), target=target)
    assert parity(qir.load(written.model), engines=["fused"]).saturating == ()


def test_dyadic_multipliers_change_few_codes(exported) -> None:
    network, module, _ = exported(5, 8, 8)
    report = parity(module, network.images(64))
    assert report.rate("dyadic") < 1e-3
    assert max(layer.largest["dyadic"] for layer in report.layers) <= 1


def test_a_float_network_is_bad_input() -> None:
    with pytest.raises(QirError, match="no quantizers: it is not an export"):
        parity(qir.load(qir.models.path("lenet")))
