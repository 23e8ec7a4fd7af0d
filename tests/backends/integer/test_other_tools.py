"""`parity` of files that other tools wrote: a useful answer for every kind."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from onnx import numpy_helper

import qir
from qir.errors import QirError
from qir.passes.exporting.all_inputs import prove_all_inputs
from qir.passes.parity.compare import parity

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def statically(random_network, tmp_path):
    """Factory: options of ONNX Runtime's `quantize_static` → (network, the file it writes)."""
    quantization = pytest.importorskip("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self, samples):
            self.feeds = iter([{"input": samples}])

        def get_next(self):
            return next(self.feeds, None)

    def make(**options):
        network, _ = random_network(2, 8, 8)
        source, path = tmp_path / "float.onnx", tmp_path / "static.onnx"
        qir.save(network.module(), source)
        logging.disable(logging.WARNING)
        quantization.quantize_static(source, path, Reader(network.images(4)), **options)
        logging.disable(logging.NOTSET)
        return network, path

    return make


def kind(name):
    return getattr(pytest.importorskip("onnxruntime.quantization").QuantType, name)


ONLY_WITH_VNNI = "exact only with VNNI (or ARM)"


@pytest.mark.named_nodes("equal")
@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"weight_type": "QInt8", "activation_type": "QUInt8", "per_channel": True}, ONLY_WITH_VNNI),
        ({"weight_type": "QUInt8", "activation_type": "QUInt8"}, "exact"),
        ({"weight_type": "QInt8", "activation_type": "QUInt8", "reduce_range": True}, "exact"),
        ({"weight_type": "QInt4", "activation_type": "QUInt8"}, "exact"),
        ({"weight_type": "QInt8", "activation_type": "QUInt16"}, "exact"),
        (
            {"weight_type": "QInt8", "activation_type": "QUInt8", "extra_options": {"AddQDQPairToWeight": True}},
            ONLY_WITH_VNNI,
        ),
    ],
)
def test_qdq_files_of_onnx_runtime_have_one_verdict_on_every_cpu(statically, options, verdict) -> None:
    types = {name: kind(value) for name, value in options.items() if name.endswith("_type")}
    network, path = statically(**(options | types))
    report = parity(qir.load(path), network.images(4))
    assert report.verdict == verdict
    assert report.keeps_promise == (verdict == "exact")
    assert len(report.layers) > 5
    assert not any("?" in layer.reason for layer in report.layers)


@pytest.mark.named_nodes("equal")
def test_four_bit_activations_are_refused_by_the_runtime_and_the_report_says_so(statically) -> None:
    network, path = statically(weight_type=kind("QInt4"), activation_type=kind("QUInt4"))
    report = parity(qir.load(path), network.images(4))
    assert not report.keeps_promise
    assert "fused" in report.refused


def weight_only(tmp_path, scale):
    """A MatMul whose weight has 4 bits in blocks of 16 rows, in DequantizeLinear, with one scale of the given sign."""
    import ml_dtypes
    import onnx
    from onnx import TensorProto, helper

    codes = np.random.default_rng(0).integers(-8, 8, (32, 6)).astype(ml_dtypes.int4)
    scales = np.full((2, 6), 0.1, np.float32)
    scales[1, 2] = scale
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scales"], ["weight"], axis=0, block_size=16),
        helper.make_node("MatMul", ["input", "weight"], ["output"], name="product"),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", c]) for n, c in (("input", 32), ("output", 6))]
    constants = [numpy_helper.from_array(codes, "codes"), numpy_helper.from_array(scales, "scales")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    path = tmp_path / "weights.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.mark.parametrize("scale", [0.07, -0.07])
def test_files_with_quantized_weights_alone_are_compared_by_their_outputs(tmp_path, scale) -> None:
    """ONNX Runtime's symmetric 4-bit quantizer writes negative scales."""
    report = parity(qir.load(weight_only(tmp_path, scale)))
    assert report.keeps_promise
    assert [layer.reason for layer in report.layers] == ["only weights are quantized"]
    assert report.layers[0].largest["plain"] <= 1


def test_quantization_at_run_time_is_named(random_network, tmp_path) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    network, _ = random_network(2, 8, 8)
    source, path = tmp_path / "float.onnx", tmp_path / "dynamic.onnx"
    qir.save(network.module(), source)
    quantization.quantize_dynamic(source, path, op_types_to_quantize=["MatMul", "Conv"])
    with pytest.raises(QirError, match="activations are quantized at run time"):
        parity(qir.load(path))


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_sums_and_requantization_of_other_tools_are_proven_for_all_inputs(statically, form) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    options = {"weight_type": kind("QInt8"), "activation_type": kind("QUInt8"), "per_channel": True}
    _, path = statically(quant_format=getattr(quantization.QuantFormat, form), **options)
    proof = prove_all_inputs(qir.load(path))
    layers = [step for step in proof.steps if step.decision.sums is not None]
    assert len(layers) >= 3
    assert proof.wraps == ()
    assert proof.saturating
    assert proof.raised is (form == "QOperator")
    assert not proof.holds  # the file does not say that it is exact with VNNI alone
