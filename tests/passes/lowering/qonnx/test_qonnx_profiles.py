from __future__ import annotations

import numpy as np
import pytest

import qir
from qir.errors import DataError, ExportError, PassError
from qir.fake_quant import FakeQuant, quantizers
from qir.passes import PassContext, PassManager, export, parse_pipeline, raise_quantized, run_passes
from qir.passes.parity.executors import executor


@pytest.mark.parametrize("profile", ["qonnx", "finn-thresholds"])
@pytest.mark.parametrize(("weight", "activation"), [(8, 8), (4, 4), (1, 2)])
def test_profiles_are_exported_and_compared(quantized_network, tmp_path, profile, weight, activation):
    network, module = quantized_network(1, weight, activation)
    report = export(module, tmp_path / "m.quant.onnx", profile=profile, data=network.images())
    assert report.codes == 20
    assert report.mismatches == 0
    assert qir.load(report.model).metadata["qir.profile"] == profile


def prepared(module, *, everywhere: str):
    text = f"freeze-inputs{{shapes=[input:4x3x10x10]}},infer-types,symmetric-activations{{everywhere={everywhere}}}"
    run_passes(module, text)


def test_a_network_made_for_finn_is_taken(quantized_network, tmp_path):
    network, module = quantized_network(1, 4, 4, pooled=False)
    prepared(module, everywhere="true")
    report = export(module, tmp_path / "m.quant.onnx", profile="finn", data=network.images())
    assert (report.mismatches, report.samples) == (0, 4)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (None, r"input 'input' .* freeze-inputs"),
        ("none", r"'conv0.input' has a zero point: run symmetric-activations"),
        ("true", r"'hidden.input' follows GlobalAveragePool.*finn-thresholds"),
    ],
)
def test_what_finn_refuses_is_refused_with_a_remedy(quantized_network, tmp_path, prepare, message):
    network, module = quantized_network(1, 4, 4)
    if prepare == "true":
        prepared(module, everywhere="true")
    elif prepare == "none":
        run_passes(module, "freeze-inputs{shapes=[input:4x3x10x10]},infer-types")
    with pytest.raises((ExportError, PassError), match=message):
        export(module, tmp_path / "m.quant.onnx", profile="finn", data=network.images())
    assert not list(tmp_path.iterdir())


def test_symmetric_activations_have_no_zero_points(quantized_network):
    _, module = quantized_network(0, 8, 8)
    prepared(module, everywhere="false")
    grids = [FakeQuant(node).grid() for node in module.graph.fake_quants()]
    assert not any(grid.zero_point.any() for grid in grids)
    assert any(not grid.signed for grid in grids)
    prepared_again = module.clone()
    assert not PassManager(parse_pipeline("symmetric-activations")).run(prepared_again, PassContext())


@pytest.mark.parametrize("profile", ["qonnx", "finn-thresholds"])
@pytest.mark.parametrize("scheme", ["potq", "quaternary", "ternary", "clipq", "fixedq", "dorefa"])
def test_schemes_of_integers_times_a_step_are_exact(tmp_path, quantized_network, profile, scheme):
    network, module = quantized_network(1, 2, 8, options=f"weight_scheme={scheme}", weight_widths="2")
    report = export(module, tmp_path / "m.quant.onnx", profile=profile, data=network.images())
    assert report.mismatches == 0
    context = PassContext()
    raised = raise_quantized(qir.load(report.model), context)
    assert not context.reports["raise-quantized"].left
    feeds = {"input": network.images()}
    np.testing.assert_array_equal(
        *(executor("torch", each).run(feeds).outputs[network.output] for each in (module, raised))
    )


@pytest.mark.parametrize("profile", ["qonnx", "finn-thresholds"])
@pytest.mark.parametrize("scheme", ["kmeans", "zoomq"])
def test_codebooks_are_refused_by_name(tmp_path, quantized_network, profile, scheme):
    network, module = quantized_network(1, 3, 8, options=f"weight_scheme={scheme}", weight_widths="3")
    with pytest.raises((ExportError, PassError), match=r"conv0.weight.*table of levels.*profiles that hold it: qcdq"):
        export(module, tmp_path / "m.quant.onnx", profile=profile, data=network.images())


def test_zero_points_are_marked_where_the_profile_has_none(tmp_path, quantized_network):
    network, module = quantized_network(1, 4, 4)
    report = export(module, tmp_path / "m.quant.onnx", profile="qonnx", data=network.images())
    marked = {name for name, reason in report.emulated if "zero point" in reason}
    grids = {name: node.grid() for name, node in quantizers(module.graph).items()}
    assert marked == {name for name, grid in grids.items() if grid.zero_point.any() and grid.zero_point[0] != 8}
    assert "conv0.input" in marked


@pytest.mark.parametrize("profile", ["qonnx", "finn-thresholds"])
def test_a_width_per_channel_of_a_weight(tmp_path, quantized_network, profile):
    network, module = quantized_network(1, 8, 8)
    node = quantizers(module.graph)["conv0.weight"]
    widths = [(0, 2, 8, 1)[index % 4] for index in range(node.source.constant.shape[0])]
    node.bits = tuple(widths)
    report = export(module, tmp_path / "m.quant.onnx", profile=profile, data=network.images())
    assert report.mismatches == 0
    assert dict(report.emulated)["conv0.weight"] == "a width per channel, stored at the widest"


def test_a_network_with_a_fixed_batch_is_calibrated_and_exported_from_any_number_of_samples(tmp_path, network):
    module = network.module()
    fixed = "freeze-inputs{shapes=[input:4x3x10x10]},infer-types,insert-fake-quant,calibrate{method=minmax}"
    run_passes(module, fixed, data=network.images(10))
    report = export(module, tmp_path / "m.quant.onnx", data=network.images(10))
    assert (report.samples, report.mismatches) == (8, 0)
    with pytest.raises(DataError, match="3 samples; the network takes exactly 4"):
        export(module, tmp_path / "m.quant.onnx", data=network.images(3))
