"""Sums are proven to fit their accumulator, or the layer is refused by name before anything is written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.errors import ExportError
from qir.passes import PassContext, PassManager, apply_policy, export, parse_pipeline
from qir.passes.accumulator_bounds import AccumulatorBounds


def long_product(length: int) -> qir.Module:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="big")],
        "long",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", length])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        [numpy_helper.from_array(np.ones((length, 2), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    module = qir.load(model.SerializeToString())
    data = np.random.default_rng(0).uniform(0, 1, (4, length)).astype(np.float32)
    pipeline = parse_pipeline("insert-fake-quant,calibrate{method=minmax}")
    PassManager(pipeline).run(module, PassContext(calibration_data=data))
    return module


def test_a_layer_that_can_overflow_is_refused_by_name_and_fewer_bits_help(tmp_path) -> None:
    module = long_product(70_000)
    with pytest.raises(ExportError, match=r"layer 'big': its sums can reach 0 to 2266950000, 33 bits"):
        export(module, tmp_path / "model.quant.onnx")
    assert not list(tmp_path.iterdir())
    apply_policy(module, {"big.weight": 4})
    assert export(module, tmp_path / "model.quant.onnx").mismatches == 0


@pytest.mark.parametrize(("low", "high", "bits"), [(0, 0, 1), (-1, 0, 1), (0, 1, 2), (-128, 127, 8), (-129, 0, 9)])
def test_the_width_is_the_smallest_that_holds_both_ends(low, high, bits) -> None:
    assert AccumulatorBounds(low, high).bits == bits
