"""`reduce_range`: weights that no x86 CPU without VNNI saturates on."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

import qir
import qir.models
from qir.backends.costs.target import load_target
from qir.cli.main import make_app
from qir.fake_quant import policy_of
from qir.passes import PassContext, export
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.passes.lowering.saturation.layers import saturating_layers
from qir.passes.lowering.saturation.reduce_range import ReduceRange
from qir.passes.parity.compare import parity


def weight_types(path):
    """Element types of the weight codes in a file."""
    for node in qir.load(path).graph:
        codes = node.operands[0].constant if node.op == "DequantizeLinear" else None
        if codes is not None and codes.dtype.label != "int32":
            yield codes.dtype.label


def shell(*arguments):
    return CliRunner().invoke(make_app(), [str(argument) for argument in arguments])


def test_export_narrows_what_can_saturate_and_leaves_the_network_alone(random_network, tmp_path) -> None:
    network, module = random_network(5, 8, 8)
    before = policy_of(module.graph)
    written = export(module, tmp_path / "m.quant.onnx", data=network.images(4), reduce_range=True)
    assert policy_of(module.graph) == before
    assert parity(qir.load(written.model), engines=["fused"]).saturating == ()
    guide = qir.guide.read_guide(written.guide)
    whole = {step.layer for step in guide.steps if step.attributes.get("group", 1) == 1}
    assert {layer.operand_pair for layer in guide.layers if layer.name in whole} == {(8, 7)}
    assert set(weight_types(written.model)) == {"int8"}


def test_layers_that_cannot_saturate_keep_their_widths(random_network) -> None:
    _, module = random_network(5, 8, 7)
    inner = [layer.weight for layer in quantized_layers(module.graph) if layer.data.bits == 7]
    ReduceRange().run(module, PassContext())
    assert inner
    assert {weight.bits for weight in inner} == {8}


def test_widths_per_channel_are_capped(random_network) -> None:
    _, module = random_network(5, 8, 8)
    layer = next(iter(quantized_layers(module.graph)))
    channels = layer.weight.calibration.shape[1]
    layer.weight.bits = (8, 4, *(0,) * (channels - 2))
    ReduceRange().run(module, PassContext())
    assert layer.weight.bits == (7, 4, *(0,) * (channels - 2))


def test_a_weight_without_narrower_candidates_keeps_its_width_and_its_range(random_network) -> None:
    _, module = random_network(5, 8, 8)
    layer = next(iter(quantized_layers(module.graph)))
    node, before = layer.weight, layer.weight.grid()
    old = QuantizerArithmetic(node).stored
    node.widths = (8,)
    ReduceRange().run(module, PassContext())
    assert node.bits == 8
    codes = QuantizerArithmetic(node).stored
    assert np.abs(codes).max() <= 64
    assert (node.grid().scale == 2 * before.scale).all()
    assert np.abs(2 * codes - old).max() <= 1


def test_it_works_where_the_pairs_of_the_target_are_closed(random_network, tmp_path) -> None:
    target = load_target("npu-148").model_copy(update={"reduce_range": True})
    assert target.operand_rules().legal_pairs() == {(2, 1), (4, 4), (8, 8)}
    network, module = random_network(5, 8, 8)
    written = export(module, tmp_path / "m.quant.onnx", data=network.images(4), target=target)
    assert saturating_layers(qir.load(written.model)) == ()
    assert set(weight_types(written.model)) == {"int8"}
    assert {layer.operand_pair for layer in qir.guide.read_guide(written.guide).layers} == {(8, 8)}


def test_the_shell_narrows_an_exported_file(random_network, tmp_path) -> None:
    network, module = random_network(5, 8, 8)
    written = export(module, tmp_path / "a.quant.onnx", data=network.images(4))
    done = shell("export", written.model, "--reduce-range", "-o", tmp_path / "b.quant.onnx")
    assert done.exit_code == 0, done.output
    assert parity(qir.load(tmp_path / "b.quant.onnx"), engines=["fused"]).saturating == ()


@pytest.mark.parametrize("target", ["bismo-pynq-z1", "npu-148"])
def test_quantize_leaves_no_product_that_saturates_on_any_target(tmp_path, target) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(16, 1, 28, 28)).astype(np.float32))
    done = shell(
        *("quantize", qir.models.path("lenet"), "-d", tmp_path / "x.npy", "-t", target, "--reduce-range"),
        *("-o", tmp_path / "m.quant.onnx"),
    )
    assert done.exit_code == 0, done.output
    assert parity(qir.load(tmp_path / "m.quant.onnx"), engines=["fused"]).saturating == ()
