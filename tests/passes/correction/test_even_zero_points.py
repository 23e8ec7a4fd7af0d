"""Even zero points: every range covers what it covered, and averages between equal grids round alike."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.errors import PassError
from qir.fake_quant import quantizers
from qir.passes import PassContext, export, run_passes
from qir.passes.correction.even_zero_points import EvenZeroPoints
from qir.passes.parity.compare import parity


@pytest.fixture
def pooled():
    """A pooling whose input and result have equal grids with an odd zero point, calibrated, and its samples."""
    random = np.random.default_rng(0)
    weight = numpy_helper.from_array(random.normal(size=(4, 3, 1, 1)).astype(np.float32), "w")
    nodes = [
        helper.make_node("AveragePool", ["x"], ["pooled"], name="pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pooled", "w"], ["y"], name="conv"),
    ]
    shapes = {"x": ["N", 3, 16, 16], "y": ["N", 4, 8, 8]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "pooled", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    module = qir.load(model.SerializeToString())
    samples = np.clip(random.normal(size=(16, 3, 16, 16)), -1, 2).astype(np.float32)
    samples[0, 0], samples[0, 1] = -1, 2
    run_passes(module, "insert-fake-quant,calibrate{method=minmax}", data=samples)
    return module, samples


def activations(module):
    return [node for node in quantizers(module.graph).values() if not node.is_weight]


def test_ranges_widen_by_less_than_two_steps_at_every_width(pooled) -> None:
    module, _ = pooled
    before = {n.name: [(n.ranges(b), n.grid(b)) for b in n.widths] for n in activations(module)}
    assert any(grid.zero_point[0] % 2 for entries in before.values() for _, grid in entries)
    EvenZeroPoints().run(module, PassContext())
    for node in activations(module):
        for width, (ranges, grid) in zip(node.widths, before[node.name], strict=True):
            found = node.ranges(width)
            if width > 2:  # codes enough on both sides
                assert not node.grid(width).zero_point[0] % 2
            slack = 1e-6 * float(np.ptp(ranges))
            assert found[0, 0] <= ranges[0, 0] + slack
            assert found[0, 1] >= ranges[0, 1] - slack
            assert np.ptp(found) - np.ptp(ranges) < 2 * float(node.grid(width).scale[0]) or width <= 2
            assert (grid.zero_point[0] % 2) or np.array_equal(found, ranges)
    assert not EvenZeroPoints().run(module, PassContext())


def test_averages_between_equal_grids_round_alike_with_integer_multipliers(pooled, tmp_path) -> None:
    module, samples = pooled
    rates = []
    for _ in range(2):
        written = export(module, tmp_path / "m.quant.onnx", data=samples)
        rates.append(parity(qir.load(written.model), samples, engines=["dyadic"]).rate("dyadic"))
        EvenZeroPoints().run(module, PassContext())
    assert rates[0] > 0.05
    assert rates[1] < rates[0] / 10


def test_quantizers_without_ranges_are_named(pooled) -> None:
    module, _ = pooled
    bare = qir.parse(qir.print_module(module))
    node = activations(bare)[0]
    node.calibration = None
    with pytest.raises(PassError, match=f"{node.name!r} is not calibrated"):
        EvenZeroPoints().run(bare, PassContext())
