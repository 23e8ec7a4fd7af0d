"""Every profile holds what it says it holds: loaded, run, and equal to the simulation; the rest is refused by name."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import qir
from qir.backends import load_target
from qir.backends.execution.pairs import CLOSE
from qir.backends.execution.session import OrtSession
from qir.errors import ExportError, PassError
from qir.fake_quant import quantizers
from qir.passes import PassContext, PassManager, export, parse_pipeline, run_passes
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic
from qir.passes.lowering import lower_qcdq
from qir.passes.lowering.legalize import Legalize, hold
from qir.passes.lowering.lower_qcdq import LowerQcdq
from qir.passes.lowering.lower_qoperator import LowerQoperator
from qir.passes.lowering.profiles.profiles import find_profile, profile_names, profiles, runtime_at
from qir.types import DType

FILES = ("qcdq", "qcdq-packed", "qdq-int4", "qdq-int2", "qdq-16", "qoperator", "float")


def run(report, samples):
    session = OrtSession(report.model, disable_qdq_fusion=bool(report.session))
    return session.run({"input": samples})


def differing(found, expected):
    """How many outputs are no longer the same code."""
    return sum(int((np.abs(found[n] - o) > CLOSE * np.abs(o).max()).sum()) for n, o in expected.items())


@pytest.mark.parametrize("profile", FILES)
@pytest.mark.parametrize(("weight", "activation"), [(8, 8), (4, 4), (3, 5), (2, 2), (1, 2), (8, 1)])
def test_the_file_computes_what_the_simulation_computes(
    calibrated, simulation, samples, tmp_path, profile, weight, activation
):
    module = calibrated(weight, activation)
    report = export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples)
    assert report.profile == profile
    assert report.mismatches == 0
    assert differing(run(report, samples), simulation(module)) == 0


def element_types(path):
    model = onnx.load(path)
    return {initializer.name: initializer.data_type for initializer in model.graph.initializer}


@pytest.mark.parametrize(
    ("profile", "bits", "dtype"),
    [
        ("qcdq", 4, DType.INT8),
        ("qdq-int4", 4, DType.INT4),
        ("qdq-int4", 3, DType.INT4),
        ("qdq-int4", 1, DType.INT4),
        ("qdq-int4", 5, DType.INT8),
        ("qdq-int2", 2, DType.INT2),
        ("qdq-int2", 1, DType.INT2),
        ("qdq-int2", 3, DType.INT4),
        ("qoperator", 2, DType.INT8),
    ],
)
def test_weights_lie_in_the_container_of_the_profile(calibrated, samples, tmp_path, profile, bits, dtype):
    report = export(calibrated(bits, 8), tmp_path / "model.quant.onnx", profile=profile, data=samples)
    assert element_types(report.model)["stem.weight.codes"] == dtype.onnx_code


@pytest.mark.parametrize("profile", FILES)
def test_one_bit_weights_are_minus_one_and_one(calibrated, samples, tmp_path, profile):
    module = calibrated(1, 4)
    export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples)
    weight = QuantizerArithmetic(quantizers(module.graph)["stem.weight"])
    codes = hold(weight, find_profile(profile)).codes
    assert set(np.unique(codes.values)) == {-1, 1}


def test_activations_go_into_wider_containers_where_the_runtime_refuses_theirs(calibrated):
    module = calibrated(4, 4)
    context = PassContext()
    assert Legalize("qdq-int4").run(module, context) is False
    found = context.reports["legalize"].holdings
    assert found["stem.input"].container is DType.UINT4
    assert found["depthwise.input"].container is DType.UINT8, "a MaxPool reads it"
    assert found["pointwise.input"].container is DType.UINT8, "a Clip makes it"


def test_native_types_need_their_operator_sets(calibrated, samples, tmp_path):
    module = calibrated(4, 4, opset=13)
    opsets = {}
    for profile in ("qcdq", "qdq-int4", "qdq-int2", "float"):
        report = export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples)
        model = onnx.load(report.model)
        opsets[profile] = next(entry.version for entry in model.opset_import if entry.domain == "")
    assert opsets == {"qcdq": 13, "qdq-int4": 21, "qdq-int2": 25, "float": 13}
    assert module.opsets[""] == 13


def test_old_operator_sets_are_upgraded(calibrated, simulation, samples, tmp_path):
    module = calibrated(8, 8, opset=11)
    report = export(module, tmp_path / "model.quant.onnx", data=samples)
    assert qir.load(report.model).opsets[""] == 13
    assert differing(run(report, samples), simulation(module)) == 0


def test_int2_names_its_session_option(calibrated, samples, tmp_path):
    report = export(calibrated(2, 2), tmp_path / "model.quant.onnx", profile="qdq-int2", data=samples)
    assert report.session == (("session.disable_quant_qdq", "1"),)
    assert qir.load(report.model).metadata["qir.session"] == '{"session.disable_quant_qdq":"1"}'
    with pytest.raises(qir.errors.QirError, match="ONNX Runtime cannot load"):
        OrtSession(report.model)


@pytest.mark.parametrize(("weight", "activation"), [(16, 16), (12, 10), (8, 16), (16, 8)])
def test_sixteen_bits(calibrated, simulation, samples, tmp_path, weight, activation):
    module = calibrated(weight, activation, widths="8|10|12|16", output_widths="all")
    expected = simulation(module)["last"]
    for profile in ("qdq-16", "float"):
        report = export(module, tmp_path / f"{profile}.quant.onnx", profile=profile, data=samples)
        found = run(report, samples)["last"]
        step = quantizers(module.graph)["last.output"]
        one_code = float(np.ptp(step.calibration[-1])) / (2**activation - 1)
        assert np.abs(found - expected).max() < 1.01 * one_code, "float32 sums round: a code next to it at most"
        assert (np.abs(found - expected) > one_code / 2).sum() <= 4


def test_a_file_that_the_runtime_computes_wrongly_is_not_handed_over(calibrated, samples, tmp_path, monkeypatch):
    module = calibrated(16, 16, widths="8|10|12|16", output_widths="all")
    monkeypatch.setattr(lower_qcdq, "_guard", lambda *_: None)  # ONNX Runtime then wraps biases beyond int32
    with pytest.raises(ExportError, match="computes another network at its default"):
        export(module, tmp_path / "model.quant.onnx", profile="qdq-16", data=samples)
    assert not list(tmp_path.iterdir())


def test_a_width_that_a_profile_cannot_hold_is_refused_with_remedies(calibrated, samples, tmp_path):
    module = calibrated(12, 8, widths="8|12")
    for profile in ("qcdq", "qdq-int4", "qoperator"):
        with pytest.raises(ExportError, match=r"'stem.weight' \(12 bits, uniform\).*hold it: .*qdq-16") as caught:
            export(module, tmp_path / "model.onnx", profile=profile, data=samples)
        assert isinstance(caught.value, PassError)
        assert "replay" not in str(caught.value)
    assert not list(tmp_path.iterdir())


SCHEMES = [
    ("potq", 2), ("potq", 3), ("kmeans", 3), ("additive-power-of-two", 4), ("resq", 3), ("ternary", 2),
    ("quaternary", 2),
]  # fmt: skip


@pytest.mark.parametrize("profile", FILES)
@pytest.mark.parametrize(("scheme", "bits"), SCHEMES)
def test_weight_schemes_are_emulated_and_marked(calibrated, expected, samples, tmp_path, profile, scheme, bits):
    module = calibrated(bits, bits, weight_scheme=scheme, widths=str(bits))
    report = export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples)
    assert report.mismatches == 0
    assert differing(run(report, samples), expected(module)) == 0
    reasons = dict(report.emulated)
    grid = hold(QuantizerArithmetic(quantizers(module.graph)["stem.weight"]), find_profile("qcdq"))
    assert ("stem.weight" in reasons) == bool(grid.emulation or profile == "float")


@pytest.mark.parametrize("profile", FILES)
@pytest.mark.parametrize(("scheme", "bits"), [("potq", 2), ("potq", 3), ("kmeans", 3), ("additive-power-of-two", 4)])
def test_activation_schemes_are_emulated_exactly(calibrated, simulation, samples, tmp_path, profile, scheme, bits):
    module = calibrated(
        bits, bits, activation_scheme=scheme, widths=str(bits), input_widths=str(bits), output_widths=str(bits)
    )
    report = export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples)
    assert differing(run(report, samples), simulation(module)) == 0
    assert "looked up in float" in dict(report.emulated)["stem.input"]


@pytest.mark.named_nodes
@pytest.mark.parametrize("profile", FILES)
@pytest.mark.parametrize(("scheme", "bits"), [("uniform", 1), ("quaternary", 2)])
def test_odd_codes_of_activations_are_emulated_exactly(
    calibrated, simulation, samples, tmp_path, profile, scheme, bits
):
    module = calibrated(8, 8)
    for name in ("stem.input", "added.node.output"):
        node = quantizers(module.graph)[name]
        node.signed = True
        node.set_scheme(scheme)
        node.bits = bits
    report = export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples)
    assert "odd codes" in dict(report.emulated)["stem.input"]
    assert differing(run(report, samples), simulation(module)) == 0


@pytest.mark.parametrize("profile", FILES)
def test_widths_per_channel_are_emulated(calibrated, expected, samples, tmp_path, profile):
    module = calibrated(8, 8)
    node = quantizers(module.graph)["stem.weight"]
    node.bits = (8, 4, 2, 1, 0, 3, 8, 5)
    report = export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples)
    assert "per channel" in dict(report.emulated)["stem.weight"] or profile == "float"
    assert differing(run(report, samples), expected(module)) == 0


def test_emulated_layers_are_marked_in_the_guide(calibrated, samples, tmp_path):
    module = calibrated(3, 3, weight_scheme="kmeans", widths="3")
    report = export(module, tmp_path / "model.quant.onnx", data=samples)
    guide = qir.guide.read_guide(report.guide)
    assert {layer.execution for layer in guide.layers} == {"emulated"}
    native = export(calibrated(4, 4), tmp_path / "native.quant.onnx", data=samples)
    assert {layer.execution for layer in qir.guide.read_guide(native.guide).layers} == {"native"}


@pytest.mark.parametrize("profile", ["encodings"])
def test_encodings_refuse_tables_of_levels(calibrated, samples, tmp_path, profile):
    module = calibrated(3, 3, weight_scheme="kmeans", widths="3")
    with pytest.raises(ExportError, match=r"'stem.weight' \(3 bits, kmeans\): profile 'encodings' cannot express"):
        export(module, tmp_path / "model.onnx", profile=profile, data=samples)


def test_operators_on_codes_leave_no_float_layer(calibrated, samples, tmp_path):
    report = export(calibrated(4, 4), tmp_path / "model.quant.onnx", profile="qoperator", data=samples)
    ops = [node.op for node in qir.load(report.model).graph]
    assert not {"Conv", "Gemm", "Add", "Concat", "Relu"} & set(ops)
    assert ops.count("QuantizeLinear") == ops.count("DequantizeLinear") == 1
    assert report.largest_difference == 0


def test_layers_without_a_quantizer_after_become_integer_sums(samples, tmp_path, simulation, calibrated):
    module = calibrated(8, 8, placement="qag")
    report = export(module, tmp_path / "model.quant.onnx", profile="qoperator", data=samples)
    ops = {node.op for node in qir.load(report.model).graph}
    assert "MatMulInteger" in ops
    expected, found = simulation(module), run(report, samples)
    for name, output in expected.items():
        assert np.abs(found[name] - output).max() < 1e-4 * np.abs(output).max()
    back = qir.load(report.model)
    context = PassContext()
    qir.passes.raise_quantized(back, context)
    assert not context.reports["raise-quantized"].left


def test_the_targets_profile_is_the_default(calibrated, samples, tmp_path):
    target = load_target("npu-148")
    other = target.model_copy(update={"export": target.export.model_copy(update={"profile": "qoperator"})})
    module = calibrated(8, 8)
    assert export(module, tmp_path / "a.onnx", target=other, data=samples).profile == "qoperator"
    assert export(module, tmp_path / "b.onnx", target=other, profile="float", data=samples).profile == "float"
    assert export(module, tmp_path / "c.onnx", data=samples).profile == "qcdq"


def test_profiles_run_from_text_too(calibrated):
    module = calibrated(4, 4)
    run_passes(module, "legalize{profile=qdq-int4},lower-qcdq")
    dtypes = {v.constant.dtype for v in module.graph.constants if v.name.endswith("weight.codes")}
    assert dtypes == {DType.INT4}


def test_a_runtime_that_is_too_old_is_named(calibrated):
    with pytest.raises(ExportError, match=r"needs operator set 25.*1\.22"):
        Legalize("qdq-int2", runtime="1.23.0").run(calibrated(2, 2), PassContext())
    with pytest.raises(ExportError, match=r"onnxruntime 1.15.0 is too old"):
        runtime_at("1.15.0")


def test_every_profile_names_passes_that_exist():
    for profile in profiles():
        assert parse_pipeline(profile.passes)
        assert profile.description
    assert profile_names()[0] == "qcdq"
    with pytest.raises(ExportError, match="'flat' is unknown: did you mean 'float'"):
        find_profile("flat")


def test_sums_beyond_32_bits_are_refused_in_8_bit_profiles_only(calibrated, samples, tmp_path):
    module = calibrated(16, 16, widths="16", input_widths="16", output_widths="16")
    assert export(module, tmp_path / "model.onnx", profile="qdq-16", data=samples).samples == len(samples)


@pytest.mark.parametrize("profile", FILES)
@pytest.mark.parametrize("scheme", ["uniform", "kmeans"])
def test_layers_may_share_a_weight(samples, simulation, tmp_path, profile, scheme):
    random = np.random.default_rng(0)
    weight = onnx.numpy_helper.from_array(random.normal(size=(12, 12)).astype(np.float32), "shared")
    nodes = [
        onnx.helper.make_node("MatMul", ["input", "shared"], ["first"], name="first"),
        onnx.helper.make_node("Relu", ["first"], ["positive"], name="positive"),
        onnx.helper.make_node("MatMul", ["positive", "shared"], ["second"], name="second"),
    ]
    ends = [onnx.helper.make_tensor_value_info(name, 1, ["N", 3, 12, 12]) for name in ("input", "second")]
    graph = onnx.helper.make_graph(nodes, "shared", ends[:1], ends[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    module = qir.load(model.SerializeToString())
    options = f"insert-fake-quant{{weight_scheme={scheme},weight_widths=3,activation_widths=8}}"
    run_passes(module, f"{options},calibrate{{method=minmax}}", data=samples)
    report = export(module, tmp_path / "model.quant.onnx", profile=profile, data=samples)
    assert differing(run(report, samples), simulation(module)) <= 2


@pytest.mark.named_nodes
@pytest.mark.parametrize(("runtime", "integer"), [("1.23.2", False), ("1.24.0", True)])
def test_layers_whose_integer_operator_a_version_lacks_stay_between_quantizers(calibrated, runtime, integer):
    """ONNX Runtime takes signed weights in ConvInteger from 1.24 on."""
    module = calibrated(8, 8)
    added = quantizers(module.graph)["added.node.input0"]
    added.result.replace_all_uses_with(added.source)
    module.graph.erase(added.node)
    PassManager([Legalize("qoperator", runtime=runtime), LowerQcdq(), LowerQoperator()]).run(module)
    assert ("ConvInteger" in {node.op for node in module.graph}) == integer
