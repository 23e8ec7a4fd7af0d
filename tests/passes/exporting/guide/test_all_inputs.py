"""What is proven for all inputs holds for each of them: every integer is tried, and every weight's sums are listed."""

from __future__ import annotations

import json
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import qir
from qir.cli.main import make_app
from qir.guide import read_guide
from qir.passes import export
from qir.passes.exporting.all_inputs import guide_beside, prove_all_inputs
from qir.passes.exporting.guide import reach
from qir.passes.exporting.guide.deciding import decide
from qir.passes.exporting.guide.reach import sums_of
from qir.passes.exporting.guide.requantizing import of_sums
from qir.passes.exporting.guide.trace import trace_network
from qir.passes.infrastructure.contract import AnalysisCache

NETWORKS = ("clipped addition", "dilated and strided", "averages", "attention", "rows", "transposed convolution")


def every_integer(trace, step, output) -> int:
    """At how many of all integers the dyadic codes differ from those of float32, each of them computed."""
    found, count = sums_of(trace, step), 0
    for channel in range(len(found.low)):
        integers = np.arange(found.low[channel], found.high[channel] + 1, found.step[channel])[None]
        codes = [of_sums(output, kind).codes(integers, np.asarray([channel])) for kind in ("float32", "dyadic")]
        count += int((codes[0] != codes[1]).sum())
    return count


@pytest.mark.parametrize("widths", [pytest.param((8, 8), marks=pytest.mark.slow), (6, 5), (3, 8)])
@pytest.mark.parametrize("name", NETWORKS)
def test_bisection_counts_what_trying_every_integer_counts(small_network, name, widths) -> None:
    module, _ = small_network(name, widths=widths)
    trace = trace_network(module, AnalysisCache())
    compared = 0
    for step in trace.steps:
        for output in step.outputs:
            if output.pending is not None and sums_of(trace, step) is not None:
                decision = decide(trace, step, output)
                assert decision.differences["dyadic"].count == every_integer(trace, step, output)
                assert decision.integers > 100
                compared += 1
    assert compared >= 2


def test_some_codes_of_8_bit_layers_differ_and_the_example_does(random_network) -> None:
    _, module = random_network(5, 8, 8)
    proof = prove_all_inputs(module)
    assert 0 < proof.differing("dyadic") < proof.integers / 1000
    trace = trace_network(module, AnalysisCache())
    outputs = {output.tensor.name: output for step in trace.steps for output in step.outputs}
    for step in proof.steps:
        found = step.decision.differences.get("dyadic")
        if found is None or found.first is None or step.decision.sums is None:
            continue
        channel, integer, float32, dyadic = found.first
        (term,) = outputs[step.tensor].pending.terms()
        scales = [np.asarray(scale).reshape(-1) for scale in term.scales]
        weight = scales[1][channel if scales[1].size > 1 else 0]
        output = outputs[step.tensor].tensor
        exact = integer * Fraction(float(scales[0][0])) * Fraction(float(weight)) / Fraction(float(output.scale))
        assert abs(float32 - dyadic) == 1
        assert abs(abs(exact + int(output.grid[1]) - Fraction(float32 + dyadic, 2))) < Fraction(1, 1000)


weights = st.lists(st.lists(st.integers(-6, 6), min_size=3, max_size=3), min_size=1, max_size=3)


@given(weights, st.integers(-4, 0), st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_the_integers_of_a_channel_are_the_sums_of_its_weights(rows, low, span) -> None:
    array = np.asarray(rows, np.int64)
    divisor = np.maximum(np.gcd.reduce(array, axis=1), 1)
    whole = reach._gapless(array, divisor, span)
    for row, step, claimed in zip(array, divisor, whole, strict=True):
        sums = {int(row @ np.asarray(codes)) for codes in product(range(low, low + span + 1), repeat=3)}
        ends = row * low, row * (low + span)
        between = range(int(np.minimum(*ends).sum()), int(np.maximum(*ends).sum()) + 1, int(step))
        assert sums <= set(between)
        assert {between[0], between[-1]} <= sums
        if claimed:
            assert sums == set(between)


def test_the_numbers_of_the_guide_are_held_against_the_file(exported) -> None:
    _, module, report = exported(3, 3, 4)
    guide, content = guide_beside(report.model)
    proof = prove_all_inputs(module, guide, content)
    assert set(proof.arithmetics) == {"dyadic", "guide", "thresholds"}
    assert proof.differing("guide") == proof.differing("dyadic")
    assert proof.differing("thresholds") == 0
    for step in guide.steps:
        for output in step.outputs:
            if output.multiplier is not None:
                output.multiplier.mantissa[0] = [number - 2**24 for number in output.multiplier.mantissa[0]]
    assert prove_all_inputs(module, guide, content).differing("guide") > proof.differing("guide")


def test_a_dyadic_guide_says_where_its_codes_are_not_those_of_float32(random_network, tmp_path) -> None:
    network, module = random_network(5, 8, 8)
    proof = prove_all_inputs(module)
    for kind in ("float32", "dyadic"):
        report = export(module, tmp_path / "m.quant.onnx", data=network.images(2), requantization=kind)
        steps = read_guide(report.guide).steps
        counts = [o.multiplier.float32_differs for step in steps for o in step.outputs if o.multiplier is not None]
        assert sum(filter(None, counts)) == (0 if kind == "float32" else proof.differing("dyadic"))


def long_product(length: int) -> bytes:
    """x [1, length] of uint8 codes times a column of 64s: reaches length * 255 * 64."""
    constants = {"s": np.float32(0.01), "z": np.uint8(0), "w": np.full((length, 1), 64, np.int8), "sy": np.float32(99)}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["r"], name="long"),
        helper.make_node("QuantizeLinear", ["r", "sy", "z"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "sy", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "long",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, length])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


@pytest.mark.parametrize(("length", "code"), [(131_587, 1), (1, 0)])
def test_a_sum_that_can_leave_int32_is_found_and_ends_with_1(tmp_path, length, code) -> None:
    path = tmp_path / "long.onnx"
    path.write_bytes(long_product(length))
    proof = prove_all_inputs(qir.load(path))
    (step,) = proof.steps
    assert step.decision.sums == (0, length * 255 * 64)
    assert proof.wraps == (("long",) if code else ())
    done = CliRunner().invoke(make_app(), ["verify", str(path), "--prove", "--json"])
    assert done.exit_code == code
    assert json.loads(done.stdout)["steps"][0]["decision"]["bits"] == (33 if code else 15)


@pytest.mark.parametrize(("storage", "layers"), [("int8", True), ("uint8", False)])
def test_layers_that_saturate_without_vnni_are_named(random_network, tmp_path, storage, layers) -> None:
    network, module = random_network(0, 8, 8)
    report = export(module, tmp_path / "m.quant.onnx", data=network.images(2), weights=storage)
    proof = prove_all_inputs(qir.load(report.model))
    assert bool(proof.saturating) is layers
    assert proof.holds  # the file says so itself


def test_what_is_on_floats_is_named_and_nothing_is_claimed_of_it(small_network, tmp_path) -> None:
    module, feeds = small_network("islands")
    report = export(module, tmp_path / "m.quant.onnx", data=[feeds])
    proof = prove_all_inputs(qir.load(report.model))
    assert len(proof.islands) >= 2
    assert len(proof.steps) == 2
    shown = CliRunner().invoke(make_app(), ["verify", str(report.model), "--prove"]).stdout
    assert "on floats, nothing proven" in shown
    assert "proven for all inputs: 2 steps" in shown
