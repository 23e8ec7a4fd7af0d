"""Random attributes of windows, slices and padding: torch equals ONNX Runtime, and the shapes are as told."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qir.backends.execution.session import OrtSession
from qir.backends.torch.module import TorchModule
from qir.errors import QirError
from qir.graph import Graph, Node
from qir.module import Module
from qir.ops import infer, op_of
from qir.tensor import Tensor
from qir.types import DType, TensorType

GENERATOR = np.random.default_rng(0)
PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))
PADS = st.tuples(*[st.integers(0, 2)] * 4)


def checked(op, data, constants=(), **attributes):
    """Both results of one node, or None when ONNX Runtime refuses it (then the shape must be impossible)."""
    graph = Graph("random")
    x = graph.add_input("x", TensorType(DType.FLOAT32, data.shape))
    operands = [x, *(graph.add_constant(f"c{i}", Tensor.of(np.asarray(c))) for i, c in enumerate(constants))]
    node = graph.insert(Node(op, operands, attributes=attributes))
    graph.set_outputs(node.results)
    module = Module(graph, opsets={"": 21}, ir_version=10)
    try:
        (node.result.type,) = infer(node, module)
        (wanted,) = OrtSession(module, optimization="disable").run({"x": data}).values()
    except QirError:
        return None
    with torch.no_grad():
        (found,) = TorchModule(module)(torch.from_numpy(data))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-4, atol=1e-5)
    assert found.shape == wanted.shape
    if not (attributes.get("ceil_mode") and any(attributes["pads"])):
        # ONNX's inference counts a last window that would begin in the padding; its kernels do not.
        assert node.result.type.static_shape() == wanted.shape
    return node


def normal(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    kernel=PAIR, strides=PAIR, dilations=PAIR, pads=PADS, groups=st.sampled_from([1, 2, 4]), transposed=st.booleans()
)
def test_convolutions(kernel, strides, dilations, pads, groups, transposed):
    weight = normal(4, 8 // groups, *kernel) if transposed else normal(8, 4 // groups, *kernel)
    node = checked(
        "ConvTranspose" if transposed else "Conv",
        normal(2, 4, 9, 7),
        (weight, normal(8)),
        strides=strides,
        dilations=dilations,
        pads=pads,
        group=groups,
    )
    if node is not None:
        shape = op_of(node).layer_shape(node)
        assert (shape.batch, shape.out_channels, *shape.output_spatial) == node.result.type.shape


@settings(max_examples=60, deadline=None)
@given(
    op=st.sampled_from(["MaxPool", "AveragePool"]),
    kernel=PAIR,
    strides=PAIR,
    pads=PADS,
    ceil=st.integers(0, 1),
    include=st.integers(0, 1),
)
def test_pooling(op, kernel, strides, pads, ceil, include):
    if any(p >= k for p, k in zip(pads, kernel * 2, strict=True)):
        return
    extra = {"count_include_pad": include} if op == "AveragePool" else {}
    checked(op, normal(2, 3, 9, 7), kernel_shape=kernel, strides=strides, pads=pads, ceil_mode=ceil, **extra)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_slices(data):
    number = st.integers(-8, 8)
    axes = data.draw(st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=3, unique=True))
    starts, ends = ([data.draw(number) for _ in axes] for _ in range(2))
    steps = [data.draw(st.sampled_from([-3, -2, -1, 1, 2, 3])) for _ in axes]
    checked("Slice", normal(5, 6, 4), [np.asarray(v, np.int64) for v in (starts, ends, axes, steps)])


@settings(max_examples=60, deadline=None)
@given(pads=st.tuples(*[st.integers(-1, 3)] * 4), mode=st.sampled_from(["constant", "reflect", "edge", "wrap"]))
def test_padding(pads, mode):
    if mode != "constant":
        pads = tuple(max(p, 0) for p in pads)
    checked("Pad", normal(5, 6), (np.asarray(pads, np.int64), np.float32(0.5)), mode=mode)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    place=st.sampled_from(["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"]),
    rounding=st.sampled_from(["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"]),
)
def test_resizing(mode, size, place, rounding):
    graph = Graph("resize")
    data = normal(1, 2, 5, 4)
    x = graph.add_input("x", TensorType(DType.FLOAT32, data.shape))
    sizes = graph.add_constant("sizes", Tensor.of(np.asarray([1, 2, *size], np.int64)))
    attributes = {"mode": mode, "coordinate_transformation_mode": place, "nearest_mode": rounding}
    node = graph.insert(Node("Resize", (x, None, None, sizes), attributes=attributes))
    graph.set_outputs(node.results)
    module = Module(graph, opsets={"": 21}, ir_version=10)
    (node.result.type,) = infer(node, module)
    (wanted,) = OrtSession(module, optimization="disable").run({"x": data}).values()
    (found,) = TorchModule(module)(torch.from_numpy(data))
    if mode == "nearest":
        np.testing.assert_array_equal(found.detach().numpy(), wanted)
    else:
        np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-3, atol=1e-4)
