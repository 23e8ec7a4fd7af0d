"""Grids for blocks along an axis: rows and back, the same in numpy, torch and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from qir.backends.torch.quantizers import TorchParameters, blocks, get_torch_scheme
from qir.errors import QirError
from qir.granularity import PerBlock
from qir.quantizers import get_scheme
from qir.quantizers.blocks import blocks_shape, from_rows, to_rows

shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@settings(deadline=None, max_examples=60)
@given(shape=shapes, data=st.data(), block=st.integers(1, 7))
def test_rows_come_back_and_torch_agrees(shape, data, block) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    rows = to_rows(x, axis, block)
    assert rows.shape == (np.prod(blocks_shape(shape, axis, block)), block)
    np.testing.assert_array_equal(from_rows(rows, shape, axis, block), x)
    np.testing.assert_array_equal(blocks.to_rows(torch.from_numpy(x), axis, block).numpy(), rows)
    np.testing.assert_array_equal(blocks.from_rows(torch.from_numpy(rows), shape, axis, block).numpy(), x)


@pytest.mark.parametrize("scheme", ["uniform", "uniform-asymmetric"])
@pytest.mark.parametrize(("shape", "axis", "block"), [((6, 8), 0, 3), ((6, 8), 1, 4), ((3, 10, 2), 1, 4)])
def test_onnxruntime_reads_the_same_values_from_codes_and_blocks_of_scales(scheme, shape, axis, block) -> None:
    chosen = get_scheme(scheme)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    rows = to_rows(x, axis, block)
    grid = chosen.parameters(chosen.fit(rows, 4, signed=True, axis=0), 4, signed=True)
    ours = from_rows(chosen.fake_quantize(rows, grid, 0), shape, axis, block)
    twin = get_torch_scheme(scheme)
    torches = blocks.fake_quantize(torch.from_numpy(x), twin, TorchParameters.of(grid), PerBlock(axis, block))
    np.testing.assert_array_equal(torches.numpy(), ours)
    codes = from_rows(chosen.quantize(rows, grid, 0), shape, axis, block).astype(np.int8)
    counts = blocks_shape(shape, axis, block)
    graph = helper.make_graph(
        [helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["y"], axis=axis, block_size=block)],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [
            numpy_helper.from_array(codes, "codes"),
            numpy_helper.from_array(grid.scale.reshape(counts), "scale"),
            numpy_helper.from_array(grid.zero_point.reshape(counts).astype(np.int8), "zero"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {})[0], ours)


def test_gradients_pass_through_blocks() -> None:
    x = torch.linspace(-1, 1, 20).reshape(2, 10).requires_grad_()
    scheme = get_torch_scheme("uniform")
    grid = scheme.parameters(np.tile(np.float32([[-1, 1]]), (6, 1)), 4, signed=True)
    blocks.fake_quantize(x, scheme, grid, PerBlock(1, 4)).sum().backward()
    assert x.grad is not None
    np.testing.assert_array_equal(x.grad.numpy(), np.ones((2, 10)))


@pytest.mark.parametrize(("axis", "block"), [(2, 4), (-1, 4), (0, 0)])
def test_an_axis_or_a_block_that_is_none_is_refused(axis: int, block: int) -> None:
    with pytest.raises(QirError, match="blocks of"):
        blocks_shape((3, 4), axis, block)
