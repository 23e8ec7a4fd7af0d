from __future__ import annotations

import pytest

import qir
from qir.errors import ExportError, PassError
from qir.fake_quant import parameters_of
from qir.passes import PassContext, PassManager, export, parse_pipeline


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
    PassManager(parse_pipeline(text)).run(module, PassContext())


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
        PassManager(parse_pipeline("freeze-inputs{shapes=[input:4x3x10x10]},infer-types")).run(module, PassContext())
    with pytest.raises((ExportError, PassError), match=message):
        export(module, tmp_path / "m.quant.onnx", profile="finn", data=network.images())
    assert not list(tmp_path.iterdir())


def test_symmetric_activations_have_no_zero_points(quantized_network):
    _, module = quantized_network(0, 8, 8)
    prepared(module, everywhere="false")
    grids = [parameters_of(node) for node in module.graph.fake_quants()]
    assert not any(grid.zero_point.any() for grid in grids)
    assert any(not grid.signed for grid in grids)
    prepared_again = module.clone()
    assert not PassManager(parse_pipeline("symmetric-activations")).run(prepared_again, PassContext())
