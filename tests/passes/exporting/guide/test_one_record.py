"""Integers of a network are computed once: one record serves legalization, lowering, bounds and guide."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from qir.fake_quant import FakeQuant, quantizers
from qir.passes import PassContext, export
from qir.passes.analysis.arithmetic import layer as layer_module
from qir.passes.analysis.arithmetic.layer import LayerArithmetic
from qir.passes.analysis.arithmetic.network import NetworkArithmetic, arithmetic_of
from qir.passes.analysis.quantized_layers import quantized_layers


@pytest.fixture
def quantized(monkeypatch):
    """How often each weight was quantized so far, and the sums of each layer bounded."""
    counts = Counter[str]()
    codes, sums = FakeQuant.codes, layer_module.weighted_sums

    def counted_codes(quantizer, x):
        counts[quantizer.name] += 1
        return codes(quantizer, x)

    def counted_sums(node, *operands):
        counts[node.name] += 1
        return sums(node, *operands)

    monkeypatch.setattr(FakeQuant, "codes", counted_codes)
    monkeypatch.setattr(layer_module, "weighted_sums", counted_sums)
    return counts


@pytest.mark.parametrize("profile", ["qcdq", "qcdq-packed", "qdq-int4", "qdq-int2", "qdq-16"])
def test_an_export_quantizes_and_bounds_every_layer_once(calibrated, samples, tmp_path, quantized, profile) -> None:
    module = calibrated(4, 4)
    export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples)
    weights = [name for name, found in quantizers(module.graph).items() if found.is_weight]
    nodes = [layer.node.name for layer in quantized_layers(module.graph)]
    assert quantized == dict.fromkeys((*weights, *nodes), 1)


@pytest.mark.parametrize("profile", ["c99", "qoperator", "float", "finn-thresholds"])
def test_only_the_reference_that_judges_a_file_computes_them_again(
    calibrated, samples, tmp_path, quantized, profile
) -> None:
    """It shares nothing with what it judges."""
    module = calibrated(4, 4)
    export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples)
    assert set(quantized.values()) == {2}


def test_the_record_lasts_until_the_network_changes(calibrated) -> None:
    module, context = calibrated(8, 8), PassContext()
    first = arithmetic_of(module, context)
    assert arithmetic_of(module, context) is first
    weight = quantizers(module.graph)["stem.weight"]
    wide = first.quantizer(weight).codes
    weight.bits = 2
    second = arithmetic_of(module, context)
    assert second is not first
    assert np.abs(second.quantizer(weight).codes.values).max() <= 2 < np.abs(wide.values).max()


def test_a_copy_of_the_network_is_served_by_the_record_of_the_original(calibrated) -> None:
    module = calibrated(4, 4)
    record, copy = NetworkArithmetic(module.graph), module.clone()
    for layer, own in zip(quantized_layers(copy.graph), record.layers, strict=True):
        assert record.layer(layer) is own
        alone = LayerArithmetic.of(layer)
        assert own.bounds == alone.bounds
        np.testing.assert_array_equal(own.weight.codes.values, alone.weight.codes.values)
        np.testing.assert_array_equal(own.bias.values, alone.bias.values)
