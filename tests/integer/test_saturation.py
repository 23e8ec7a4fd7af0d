"""Where 8-bit sums can saturate on x86 CPUs without VNNI, and weights that are stored so that they cannot."""

from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.backends.integer_reference import IntegerReference
from qir.backends.onnxruntime_session import OrtSession
from qir.backends.saturation import CodeRange, can_saturate
from qir.guide import read_guide
from qir.passes import PassContext, PassManager, export, parse_pipeline, raise_quantized
from qir.passes.lowering.codes import weight_codes
from qir.passes.lowering.legalize import Legalize
from qir.passes.lowering.profiles import find_profile
from qir.passes.quantized_layers import quantized_layers
from qir.passes.saturation import saturating_layers
from qir.passes.upgrade_opset import UpgradeOpset
from qir.types import DType

INTEGER_PROFILES = ("qcdq", "qcdq-packed", "qdq-int4", "qdq-int2", "qdq-16", "qoperator")
WIDTHS = ((8, 8), (7, 8), (8, 7), (8, 4), (4, 8), (1, 8))


def lowered(module, profile: str, weights: str):
    """The network as a profile writes it, and the layers that can saturate; depthwise ones of seed 5 cannot."""
    copy, found = module.clone(), find_profile(profile)
    first = [UpgradeOpset(found.opset)] if copy.opsets[""] < found.opset else []
    passes = [*first, Legalize(profile, weights=weights), *parse_pipeline(found.passes)]
    PassManager(passes).run(copy, PassContext())
    return copy, copy.meta["legalize"].saturating


def constants(module):
    """Element types of the constant codes that a file dequantizes, biases left out, in order."""
    codes = [node.operands[0].constant for node in module.graph if node.op == "DequantizeLinear"]
    return [found.dtype for found in codes if found is not None and found.dtype is not DType.INT32]


@pytest.mark.parametrize(
    ("largest", "weight", "wrong"),
    [(255, 64, False), (255, 65, True), (255, -64, False), (130, 127, True), (129, 127, False), (128, -128, False)],
)
def test_the_bound_is_that_two_products_fit_int16(largest, weight, wrong) -> None:
    """2 * 128 * 128 = 32768 fits on the negative side alone."""
    data, second = CodeRange(DType.UINT8, 0, largest), CodeRange(DType.INT8, min(weight, 0), max(weight, 0))
    clipped = abs(2 * largest * weight) > (32768 if weight < 0 else 32767)
    assert can_saturate("MatMul", data, second) == wrong == clipped


@pytest.mark.parametrize("profile", INTEGER_PROFILES)
@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("seed", [3, 5])
def test_uint8_weights_give_the_codes_and_kernels_of_int8(random_network, profile, widths, seed) -> None:
    network, module = random_network(seed, *widths)
    images, options = network.images(4), {"disable_qdq_fusion": bool(find_profile(profile).session)}
    plain, _ = lowered(module, profile, "int8")
    (expected,) = OrtSession(plain, **options).run({"input": images}).values()
    for weights in ("auto", "uint8"):
        file, saturating = lowered(module, profile, weights)
        assert not saturating
        session = OrtSession(file, **options)
        assert session.integer_nodes() == OrtSession(plain, **options).integer_nodes()
        (found,) = session.run({"input": images}).values()
        assert np.array_equal(found, expected)


@pytest.mark.parametrize("widths", WIDTHS)
def test_uint8_weights_give_the_codes_of_the_integer_reference(random_network, widths) -> None:
    network, module = random_network(7, *widths)
    images = network.images(4)
    runs = [
        IntegerReference(lowered(module, "qcdq", weights)[0]).run({"input": images}) for weights in ("int8", "uint8")
    ]
    assert runs[0].codes.keys() == runs[1].codes.keys()
    assert all(np.array_equal(codes, runs[1].codes[name]) for name, codes in runs[0].codes.items())


@pytest.mark.parametrize("profile", [name for name in INTEGER_PROFILES if name != "qdq-int2"])
@pytest.mark.parametrize("weights", ["int8", "auto"])
def test_the_plan_and_the_file_agree_on_the_layers(random_network, profile, weights) -> None:
    _, module = random_network(5, 8, 8)
    file, planned = lowered(module, profile, weights)
    assert len(saturating_layers(file)) == len(planned) == (0 if weights == "auto" else 5)


def test_only_weights_that_could_saturate_become_uint8(random_network) -> None:
    for widths in WIDTHS[1:]:
        _, module = random_network(5, *widths)
        layers = list(quantized_layers(module.graph))
        wide = sum(layer.weight.attribute("bits") == layer.data.attribute("bits") == 8 for layer in layers)
        found = constants(lowered(module, "qcdq", "auto")[0])
        assert sum(dtype is DType.UINT8 for dtype in found) <= wide, widths


def test_a_file_with_int8_weights_says_where_it_is_exact(random_network, tmp_path) -> None:
    network, module = random_network(5, 8, 8)
    written = export(module, tmp_path / "m.quant.onnx", data=network.images(2), weights="int8")
    assert len(written.saturating) == 5
    assert dict(written.exact_with) == {"session.x64quantprecision": "1"}
    guide, metadata = read_guide(written.guide), qir.load(written.model).metadata
    assert (guide.cpus.exact_on, guide.cpus.saturating_layers) == ("vnni-or-arm", list(written.saturating))
    assert metadata["qir.exact_on"] == "vnni-or-arm"
    assert json.loads(metadata["qir.exact_elsewhere_with"]) == guide.cpus.session == dict(written.exact_with)


def test_no_session_option_is_promised_for_operators_on_codes(random_network, tmp_path) -> None:
    network, module = random_network(5, 8, 8)
    path = tmp_path / "m.quant.onnx"
    written = export(module, path, data=network.images(2), weights="int8", profile="qoperator")
    assert written.saturating
    assert written.exact_with == ()


@pytest.mark.parametrize("profile", INTEGER_PROFILES)
def test_the_element_type_of_weights_is_not_seen_after_reading_back(random_network, tmp_path, profile) -> None:
    network, module = random_network(5, 8, 8)
    guides, grids = [], []
    for weights in ("int8", "uint8"):
        path = tmp_path / weights / "m.quant.onnx"
        written = export(module, path, data=network.images(2), weights=weights, profile=profile)
        guide = json.loads(written.guide.read_text())
        assert guide.pop("cpus")["exact_on"] == (
            "vnni-or-arm" if weights == "int8" and profile != "qdq-int2" else "all"
        )
        del guide["proof"]
        guides.append(guide)
        again = raise_quantized(qir.load(written.model))
        grids.append(
            [
                (layer.weight.name, layer.weight.attribute("bits"), layer.weight.attribute("narrow", 0),
                 layer.weight.attribute("signed", 1), weight_codes(layer.weight).tobytes())
                for layer in quantized_layers(again.graph)
            ]
        )  # fmt: skip
    assert guides[0] == guides[1]
    assert len(grids[0]) == len(list(quantized_layers(module.graph)))
    assert grids[0] == grids[1]


def network_of(*nodes, weights, shape, opset=13):
    """A model of one input x [N, *shape] and one output y, with these nodes and constants."""
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "network", infos, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def test_int8_activations_get_uint8_weights_since_onnx_runtime_shifts_them_to_uint8() -> None:
    weight = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w"], ["y"], name="matmul"),
    ]
    module = qir.load(network_of(*nodes, weights={"w": weight}, shape=[8]).SerializeToString())
    steps = "infer-types,insert-fake-quant,calibrate{method=minmax},symmetric-activations{everywhere=true}"
    data = np.random.default_rng(1).normal(size=(16, 8)).astype(np.float32)
    PassManager(parse_pipeline(steps)).run(module, PassContext(calibration_data=data))
    for layer in quantized_layers(module.graph):
        layer.data.set_attribute("signed", 1)
    file, saturating = lowered(module, "qcdq", "auto")
    assert constants(file) == [DType.UINT8]
    assert not saturating
    file, saturating = lowered(module, "qcdq", "int8")
    assert constants(file) == [DType.INT8]
    assert list(saturating) == ["matmul"]
