"""Every exported file, read and raised, is the quantized network again."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import qir
from qir.backends.execution.pairs import CLOSE
from qir.fake_quant import policy_of, quantizers
from qir.passes import PassContext, export, raise_quantized
from qir.passes.raising.encodings import ApplyEncodings, apply_encodings, read_encodings

EIGHT_BIT = ("qcdq", "qcdq-packed", "qdq-int4", "qdq-int2", "qdq-16", "qoperator", "float")


def raised(report):
    module = qir.load(report.model)
    context = PassContext()
    raise_quantized(module, context)
    assert not context.reports["raise-quantized"].left
    return module


def assert_same(found, expected):
    for name, output in expected.items():
        assert np.abs(found[name] - output).max() <= CLOSE * np.abs(output).max()


@pytest.mark.named_nodes
@pytest.mark.parametrize("profile", EIGHT_BIT)
@pytest.mark.parametrize(("weight", "activation"), [(8, 8), (4, 4), (1, 2), (5, 3)])
def test_outputs_are_equal(calibrated, expected, samples, tmp_path, profile, weight, activation):
    module = calibrated(weight, activation)
    back = raised(export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples))
    assert_same(expected(back), expected(module))


@pytest.mark.parametrize("name", ["", "node"])
@pytest.mark.parametrize("profile", ["qcdq", "qcdq-packed", "qoperator", "float"])
def test_quantizers_are_found_whatever_the_nodes_are_called(calibrated, expected, samples, tmp_path, profile, name):
    module = calibrated(1, 3)
    report = export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples)
    file = onnx.load(report.model)
    for node in file.graph.node:
        node.name = name
    onnx.save(file, report.model)
    back = raised(report)
    assert_same(expected(back), expected(module))
    bits = [quantizer.bits for quantizer in quantizers(back.graph).values()]
    assert sorted(bits) == sorted(quantizer.bits for quantizer in quantizers(module.graph).values())


@pytest.mark.named_nodes
@pytest.mark.parametrize("profile", EIGHT_BIT)
def test_widths_and_names_of_weights_are_the_exported_ones(calibrated, samples, tmp_path, profile):
    module = calibrated(1, 4)
    back = raised(export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples))
    policy = policy_of(module.graph)
    found = {name: bits for name, bits in policy_of(back.graph).items() if name.endswith("weight")}
    assert found == {name: bits for name, bits in policy.items() if name.endswith("weight")}


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("profile", ["qcdq", "qcdq-packed", "qdq-int4", "qdq-int2", "qoperator"])
def test_a_weights_width_comes_back(calibrated, samples, tmp_path, profile, bits):
    module = calibrated(bits, 8)
    back = raised(export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples))
    assert {node.bits for name, node in quantizers(back.graph).items() if name.endswith("weight")} == {bits}


@pytest.mark.named_nodes
@pytest.mark.parametrize("profile", ["qcdq", "qdq-int4", "float", "qdq-16"])
def test_no_quantizer_is_added_or_lost(calibrated, samples, tmp_path, profile):
    module = calibrated(4, 4)
    back = raised(export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples))
    assert policy_of(back.graph) == policy_of(module.graph)


SCHEMES = ("potq", "kmeans", "additive-power-of-two", "quaternary", "resq")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_operators_on_codes_give_the_same_network_on_a_uniform_grid(calibrated, expected, samples, tmp_path, scheme):
    module = calibrated(2, 2, weight_scheme=scheme, widths="2")
    back = raised(export(module, tmp_path / "model.quant.onnx", profile="qoperator", data=samples))
    assert_same(expected(back), expected(module))


@pytest.mark.named_nodes
def test_operators_on_codes_of_emulated_activations_come_back(calibrated, expected, samples, tmp_path):
    widths = dict.fromkeys(("widths", "input_widths", "output_widths"), "4")
    module = calibrated(4, 4, activation_scheme="additive-power-of-two", **widths)
    back = raised(export(module, tmp_path / "model.quant.onnx", profile="qoperator", data=samples))
    assert_same(expected(back), expected(module))
    assert {node.op for node in back.graph}.isdisjoint({"DequantizeLinear", "QuantizeLinear", "Gather"})


@pytest.mark.parametrize("placement", ["deployable", "qag"])
def test_policies_of_operators_on_codes_come_back(calibrated, samples, tmp_path, placement):
    module = calibrated(5, 7, placement=placement)
    back = raised(export(module, tmp_path / "model.quant.onnx", profile="qoperator", data=samples))
    weights = {name: bits for name, bits in policy_of(module.graph).items() if name.endswith("weight")}
    assert {name: bits for name, bits in policy_of(back.graph).items() if name.endswith("weight")} == weights


@pytest.mark.named_nodes
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("profile", ["qcdq", "float"])
def test_schemes_come_back_by_name(calibrated, expected, samples, tmp_path, profile, scheme):
    module = calibrated(2, 2, weight_scheme=scheme, widths="2")
    back = raised(export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples))
    assert policy_of(back.graph) == policy_of(module.graph)
    assert_same(expected(back), expected(module))


@pytest.mark.named_nodes
@pytest.mark.parametrize(("weight", "activation"), [(16, 16), (12, 10), (8, 16)])
def test_sixteen_bits_come_back(calibrated, expected, samples, tmp_path, weight, activation):
    module = calibrated(weight, activation, widths="8|10|12|16", output_widths="all")
    for profile in ("qdq-16", "float"):
        back = raised(export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples))
        assert policy_of(back.graph) == policy_of(module.graph)
        assert_same(expected(back), expected(module))


def test_a_pass_puts_encodings_back(calibrated, samples, tmp_path):
    report = export(calibrated(4, 8), tmp_path / "model.quant.onnx", profile="encodings", data=samples)
    module = qir.load(report.model)
    assert ApplyEncodings(str(report.encodings)).run(module, PassContext())
    assert quantizers(module.graph)["stem.weight"].bits == 4
    with pytest.raises(qir.errors.ModelFileError, match=r"other\.json: cannot be read as encodings"):
        ApplyEncodings(str(tmp_path / "other.json")).run(module, PassContext())
    (tmp_path / "old.json").write_text('{"version": "0.6.1"}')
    with pytest.raises(qir.errors.ModelFileError, match=r"encodings of version 1\.0\.0 are expected"):
        ApplyEncodings(str(tmp_path / "old.json")).run(module, PassContext())


def test_encodings_are_put_back_on_the_float_network(calibrated, expected, samples, tmp_path):
    module = calibrated(4, 8)
    report = export(module, tmp_path / "model.quant.onnx", profile="encodings", data=samples)
    assert report.encodings == tmp_path / "model.encodings"
    back = qir.load(report.model)
    assert not back.graph.fake_quants()
    made = apply_encodings(back, read_encodings(report.encodings))
    assert len(made) == len(quantizers(module.graph))
    assert_same(expected(back), expected(module))


def test_asymmetric_weights_come_back_from_encodings(calibrated, expected, samples, tmp_path):
    module = calibrated(5, 8, weight_scheme="uniform-asymmetric", per_channel="false")
    report = export(module, tmp_path / "model.quant.onnx", profile="encodings", data=samples)
    assert report.mismatches == 0
    back = qir.load(report.model)
    apply_encodings(back, read_encodings(report.encodings))
    assert {node.bits for name, node in quantizers(back.graph).items() if name.endswith("weight")} == {5}
    assert_same(expected(back), expected(module))
