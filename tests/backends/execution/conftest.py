"""Small networks for the tests of execution."""

import numpy as np
import pytest

from qir.fake_quant import FakeQuant, make_fake_quant
from qir.granularity import granularity_of
from qir.graph import Graph, Node
from qir.module import Module
from qir.ops import infer_graph
from qir.tensor import Tensor
from qir.types import DType, TensorType

WIDTHS = (2, 4, 8)


def quantizer(graph, value, name, *, signed, span, axis=None, scheme="uniform"):
    node = make_fake_quant(
        value, name=name, bits=8, widths=WIDTHS, signed=signed, granularity=granularity_of(axis), scheme=scheme
    )
    graph.insert(node)
    channels = 1 if axis is None else value.type.shape[axis]
    ranges = np.tile(np.asarray([[-span if signed else 0.0, span]], np.float32), (len(WIDTHS), channels, 1))
    FakeQuant(node).calibration = ranges
    return node.result


def build_network(scheme="uniform", quantized=True):
    """Conv 1→6, Relu, MaxPool, Conv 6→8, Relu, GlobalAveragePool, Flatten, Gemm 8→3, with quantizers."""
    generator = np.random.default_rng(3)
    graph = Graph("small")
    x = graph.add_input("image", TensorType(DType.FLOAT32, ("N", 1, 12, 12)))

    def constant(name, *shape):
        return graph.add_constant(name, Tensor.of((generator.standard_normal(shape) * 0.4).astype(np.float32)))

    def put(value, name, **options):
        return quantizer(graph, value, name, scheme=scheme, **options) if quantized else value

    def op(kind, *operands, name="", **attributes):
        node = graph.insert(Node(kind, operands, name=name, attributes=attributes))
        infer_graph(module)
        return node.result

    module = Module(graph, opsets={"": 21})
    x = put(x, "conv1.input", signed=False, span=1.0)
    w = put(constant("conv1.weight", 6, 1, 3, 3), "conv1.weight", signed=True, span=0.9, axis=0)
    x = op("Relu", op("Conv", x, w, constant("conv1.bias", 6), name="conv1", pads=(1, 1, 1, 1)))
    x = put(x, "conv2.input", signed=False, span=2.0)
    x = op("MaxPool", x, kernel_shape=(2, 2), strides=(2, 2))
    w = put(constant("conv2.weight", 8, 6, 3, 3), "conv2.weight", signed=True, span=0.9, axis=0)
    x = op("Relu", op("Conv", x, w, constant("conv2.bias", 8), name="conv2"))
    x = put(op("Flatten", op("GlobalAveragePool", x)), "fc.input", signed=False, span=1.5)
    w = put(constant("fc.weight", 3, 8), "fc.weight", signed=True, span=0.9, axis=0)
    x = op("Gemm", x, w, constant("fc.bias", 3), name="fc", transB=1)
    graph.set_outputs((x,), ("logits",))
    return module


def draw_samples(count=256, seed=0):
    """Images whose class is the third of the picture that is bright."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, count)
    images = generator.uniform(0, 0.4, (count, 1, 12, 12)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * label : 4 * label + 4, :] += np.float32(0.3) * (1 + label)
    return np.clip(images, 0, 1), labels.astype(np.int64)


@pytest.fixture
def network():
    return build_network()


@pytest.fixture
def samples():
    return draw_samples()


@pytest.fixture
def make_network():
    return build_network


@pytest.fixture
def make_samples():
    return draw_samples
