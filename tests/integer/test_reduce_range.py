"""`reduce_range`: weights that no x86 CPU without VNNI saturates on."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

import qir
import qir.models
from qir.cli.main import make_app
from qir.errors import PassError
from qir.fake_quant import bits_of, policy_of, quantizers
from qir.passes import PassContext, export
from qir.passes.parity import parity
from qir.passes.quantized_layers import quantized_layers
from qir.passes.reduce_range import ReduceRange


def shell(*arguments):
    return CliRunner().invoke(make_app(), [str(argument) for argument in arguments])


def test_export_narrows_what_can_saturate_and_leaves_the_network_alone(random_network, tmp_path) -> None:
    network, module = random_network(5, 8, 8)
    before = policy_of(module.graph)
    written = export(module, tmp_path / "m.quant.onnx", data=network.images(4), reduce_range=True)
    assert policy_of(module.graph) == before
    assert parity(qir.load(written.model), engines=["fused"]).saturating == ()
    widths = {layer.operand_pair for layer in qir.guide.read_guide(written.guide).layers}
    assert widths == {(8, 7)}


def test_layers_that_cannot_saturate_keep_their_widths(random_network) -> None:
    _, module = random_network(5, 8, 7)
    inner = [layer.weight for layer in quantized_layers(module.graph) if bits_of(layer.data) == 7]
    ReduceRange().run(module, PassContext())
    assert inner
    assert {bits_of(weight) for weight in inner} == {8}


def test_widths_per_channel_are_capped(random_network) -> None:
    _, module = random_network(5, 8, 8)
    layer = next(iter(quantized_layers(module.graph)))
    channels = layer.weight.attribute("ranges").numpy().shape[1]
    layer.weight.set_attribute("bits", (8, 4, *(0,) * (channels - 2)))
    ReduceRange().run(module, PassContext())
    assert bits_of(layer.weight) == (7, 4, *(0,) * (channels - 2))


def test_a_weight_without_narrower_candidates_is_named(random_network) -> None:
    _, module = random_network(5, 8, 8)
    name, node = next((n, q) for n, q in quantizers(module.graph).items() if n.endswith("weight"))
    ranges = node.attribute("ranges").numpy()
    node.set_attribute("widths", (8,))
    node.set_attribute("ranges", qir.tensor.Tensor.of(ranges[-1:]))
    with pytest.raises(PassError, match=rf"'{name.removesuffix('.weight')}'.*weight_widths=7\|8"):
        ReduceRange().run(module, PassContext())


def test_the_shell_narrows_an_exported_file(random_network, tmp_path) -> None:
    network, module = random_network(5, 8, 8)
    written = export(module, tmp_path / "a.quant.onnx", data=network.images(4))
    done = shell("export", written.model, "--reduce-range", "-o", tmp_path / "b.quant.onnx")
    assert done.exit_code == 0, done.output
    assert parity(qir.load(tmp_path / "b.quant.onnx"), engines=["fused"]).saturating == ()


def test_quantize_chooses_no_pair_that_saturates(tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(16, 1, 28, 28)).astype(np.float32))
    done = shell(
        *("quantize", qir.models.path("lenet"), "-d", tmp_path / "x.npy", "-t", "bismo-pynq-z1", "--reduce-range"),
        *("-o", tmp_path / "m.quant.onnx"),
    )
    assert done.exit_code == 0, done.output
    assert parity(qir.load(tmp_path / "m.quant.onnx"), engines=["fused"]).saturating == ()
