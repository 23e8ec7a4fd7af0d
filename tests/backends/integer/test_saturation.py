"""Where 8-bit sums can saturate on x86 CPUs without VNNI, and weights that are stored so that they cannot."""

from __future__ import annotations

import json

import numpy as np
import onnx.parser
import pytest
from onnx import helper, numpy_helper

import qir
from qir.backends.execution.saturation import CodeRange, can_saturate
from qir.backends.execution.session import OrtSession
from qir.backends.integer.reference import IntegerReference
from qir.guide import read_guide
from qir.passes import PassContext, PassManager, export, parse_pipeline, raise_quantized, run_passes
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.passes.analysis.quantized_layers import quantized_layers
from qir.passes.lowering.legalize import Legalize
from qir.passes.lowering.profiles.profiles import find_profile
from qir.passes.lowering.saturation.layers import saturating_layers
from qir.passes.simplify.upgrade_opset import UpgradeOpset
from qir.types import DType

INTEGER_PROFILES = ("qcdq", "qcdq-packed", "qdq-int4", "qdq-int2", "qdq-16", "qoperator")
WIDTHS = ((8, 8), (7, 8), (8, 7), (8, 4), (4, 8), (1, 8))


def lowered(module, profile: str, weights: str):
    """The network as a profile writes it, and the layers that can saturate; depthwise ones of seed 5 cannot."""
    copy, found = module.clone(), find_profile(profile)
    first = [UpgradeOpset(found.opset)] if copy.opsets[""] < found.opset else []
    passes = [*first, Legalize(profile, weights=weights), *parse_pipeline(found.passes)]
    PassManager(passes).run(copy, PassContext())
    copy.metadata["qir.session"] = json.dumps(found.session)
    return copy, saturating_layers(copy)


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
    (expected,) = OrtSession(plain, **options, precise=True).run({"input": images}).values()
    for weights in ("auto", "uint8"):
        file, saturating = lowered(module, profile, weights)
        assert saturating == ()
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


def test_only_weights_that_could_saturate_become_uint8(random_network) -> None:
    for widths in WIDTHS[1:]:
        _, module = random_network(5, *widths)
        layers = list(quantized_layers(module.graph))
        wide = sum(layer.weight.bits == layer.data.bits == 8 for layer in layers)
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
                (layer.weight.name, layer.weight.bits, layer.weight.narrow,
                 layer.weight.signed, QuantizerArithmetic(layer.weight).stored.tobytes())
                for layer in quantized_layers(again.graph)
            ]
        )  # fmt: skip
    assert guides[0] == guides[1]
    assert len(grids[0]) == len(list(quantized_layers(module.graph)))
    assert grids[0] == grids[1]


def quantized(text: str, shapes: dict[str, tuple[int, ...]], *, steps: str, samples: int = 16):
    """(calibrated network of a graph in ONNX's text form, its samples), constants drawn at random by shape."""
    random = np.random.default_rng(0)
    graph = onnx.parser.parse_graph(text)
    for name, shape in shapes.items():
        graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    module = qir.load(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()
    )
    types = {value.name: value.type.shape for value in module.graph.inputs}
    data = {name: random.normal(size=(samples, *shape[1:])).astype(np.float32) for name, shape in types.items()}
    run_passes(module, f"infer-types,{steps}", data=data)
    return module, data


ATTENTION = """attention (float[N,6,16] x) => (float[N,6,4] y) {
    q = MatMul (x, wq) k = MatMul (x, wk) v = MatMul (x, wv)
    t = Transpose <perm = [0, 2, 1]> (k) s = MatMul (q, t) p = Softmax <axis = -1> (s) m = MatMul (p, v)
    y = MatMul (m, wo)
}"""
SHAPES = {"wq": (16, 8), "wk": (16, 8), "wv": (16, 8), "wo": (8, 4)}
INSERT = "insert-fake-quant{ops=[Softmax]},calibrate{method=minmax}"


@pytest.mark.parametrize("profile", INTEGER_PROFILES)
@pytest.mark.parametrize("signed", ["", ",symmetric-activations", ",symmetric-activations{everywhere=true}"])
def test_computed_operands_and_signed_activations_are_exact_too(tmp_path, profile, signed) -> None:
    """Also where ONNX Runtime on x86 reads int8 activations as uint8 ones."""
    module, data = quantized(ATTENTION, SHAPES, steps=INSERT + signed)
    written = export(module, tmp_path / "m.quant.onnx", data=data, profile=profile)
    file = qir.load(written.model)
    assert written.saturating == saturating_layers(file) == ()
    assert written.mismatches == 0
    runs = [IntegerReference(file, saturating=saturating).run(data) for saturating in (False, True)]
    assert all(np.array_equal(codes, runs[1].codes[name]) for name, codes in runs[0].codes.items())
    again = raise_quantized(qir.load(written.model))
    assert len(list(quantized_layers(again.graph))) == len(list(quantized_layers(module.graph)))
    repeated = export(again, tmp_path / "again.quant.onnx", data=data, profile=profile)
    outputs = [OrtSession(path, optimization="disable").run(data)["y"] for path in (written.model, repeated.model)]
    if profile != "qdq-int2":
        assert np.array_equal(*outputs)


def test_signed_activations_keep_signed_weights_or_both_become_unsigned() -> None:
    module, _ = quantized(ATTENTION, SHAPES, steps=INSERT + ",symmetric-activations{everywhere=true}")
    for weights in ("int8", "auto", "uint8"):
        file, _ = lowered(module, "qcdq", weights)
        pairs = {
            tuple(str(value.producer.input(2).constant.dtype) for value in node.inputs[:2])
            for node in file.graph
            if node.op == "MatMul"
        }
        assert pairs == {("int8", "int8") if weights == "int8" else ("uint8", "uint8")}


@pytest.mark.parametrize("profile", [name for name in INTEGER_PROFILES if name != "qdq-int2"])
@pytest.mark.parametrize("seed", range(4))
def test_exported_files_are_the_same_where_products_are_added_in_pairs(random_network, profile, seed) -> None:
    for widths in ((8, 8), (8, 7), (7, 8)):
        network, module = random_network(seed, *widths)
        file, _ = lowered(module, profile, "auto")
        runs = [IntegerReference(file, saturating=mode).run({"input": network.images(2)}) for mode in (False, True)]
        assert all(np.array_equal(codes, runs[1].codes[name]) for name, codes in runs[0].codes.items())


def test_every_layer_that_loses_something_is_named(random_network) -> None:
    """What the saturating reference computes otherwise, on weights as int8, lies after a layer that is not proven."""
    network, module = random_network(5, 8, 8)
    file, named = lowered(module, "qcdq", "int8")
    runs = [IntegerReference(file, saturating=mode).run({"input": 9 * network.images(8)}) for mode in (False, True)]
    assert named
    assert any(not np.array_equal(codes, runs[1].codes[name]) for name, codes in runs[0].codes.items())
