"""Networks in int8 TensorFlow Lite: layout, grids, padding, fused activations, and what is refused."""

import numpy as np
import pytest

from qir.backends.vela.flatbuffer import IDENTIFIER
from qir.backends.vela.grids import UNKNOWN_RANGE, affine_grid
from qir.backends.vela.network import Network
from qir.backends.vela.referee import tflite_bytes
from qir.backends.vela.tflite import ACTIVATIONS, OPERATORS, SAME, VALID
from qir.errors import QirError, TargetError
from qir.fake_quant import FakeQuant, make_fake_quant
from qir.granularity import granularity_of
from qir.graph import Graph, Node
from qir.module import Module
from qir.ops import infer_graph
from qir.tensor import Tensor
from qir.types import DType, TensorType

RNG = np.random.default_rng(0)


def chain(shape, *steps):
    """A network of single-input nodes: (op, constants, attributes)."""
    graph = Graph("chain")
    value = graph.add_input("x", TensorType(DType.FLOAT32, shape))
    for index, (op, constants, attributes) in enumerate(steps):
        weights = [graph.add_constant(f"c{index}_{i}", Tensor.of(array)) for i, array in enumerate(constants)]
        node = graph.insert(Node(op, (value, *weights), (f"y{index}",), name=f"n{index}", attributes=attributes))
        value = node.result
    graph.set_outputs([value])
    module = Module(graph, opsets={"": 21, "qir": 1})
    infer_graph(module)
    return module


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def operators(module):
    """(operator, its options) of the int8 form."""
    made = Network(module).made
    names = list(made._codes)
    return [
        (
            names[table.fields["opcode_index"]],
            table.fields["builtin_options"].fields if "builtin_options" in table.fields else {},
        )
        for table in made.operators
    ]


def test_convolution_runs_with_its_activation_and_same_padding():
    module = chain((1, 3, 8, 8), ("Conv", [normal(4, 3, 3, 3)], {"pads": (1, 1, 1, 1)}), ("Relu", [], {}))
    [(name, options)] = operators(module)
    assert (name, options["padding"], options["fused_activation_function"]) == ("CONV_2D", SAME, ACTIVATIONS["RELU"])
    made = Network(module).made
    assert made.shapes[0] == (1, 8, 8, 3)
    assert made.shapes[made.operators[0].fields["inputs"][1]] == (4, 3, 3, 3)
    assert made.tensors[made.outputs[0]].fields["name"] == "n0"


def test_padding_that_is_not_same_becomes_a_pad():
    module = chain((1, 3, 8, 8), ("Conv", [normal(4, 3, 3, 3)], {"pads": (1, 1, 1, 1), "strides": (2, 2)}))
    (pad, _), (conv, options) = operators(module)
    assert (pad, conv, options["padding"]) == ("PAD", "CONV_2D", VALID)
    made = Network(module).made
    widths = np.frombuffer(made.buffers[2].fields["data"].tobytes(), np.int32).reshape(4, 2)
    assert widths.tolist() == [[0, 0], [1, 0], [1, 0], [0, 0]]


def test_depthwise_weights_move_their_channels_last():
    weight = normal(6, 1, 3, 3)
    made = Network(chain((1, 3, 8, 8), ("Conv", [weight], {"group": 3}))).made
    assert made.shapes[1] == (1, 3, 3, 6)
    assert made.grids[1].axis == 3
    options = made.operators[0].fields["builtin_options"].fields
    assert options["depth_multiplier"] == 2


def test_flattening_an_image_keeps_the_order_of_onnx():
    module = chain((1, 3, 2, 2), ("Flatten", [], {}), ("Gemm", [normal(5, 12)], {"transB": 1}))
    assert [name for name, _ in operators(module)] == ["TRANSPOSE", "RESHAPE", "FULLY_CONNECTED"]


def test_pooling_softmax_mean_and_arithmetic():
    module = chain(
        (1, 4, 8, 8),
        ("MaxPool", [], {"kernel_shape": (2, 2), "strides": (2, 2)}),
        ("Mul", [normal(4, 1, 1)], {}),
        ("GlobalAveragePool", [], {}),
        ("Flatten", [], {}),
        ("Softmax", [], {"axis": 1}),
    )
    assert [name for name, _ in operators(module)] == ["MAX_POOL_2D", "MUL", "MEAN", "RESHAPE", "SOFTMAX"]
    made = Network(module).made
    assert made.grids[-1].scale == (1 / 256,)


@pytest.mark.parametrize(
    ("shape", "step", "written"),
    [
        ((1, 2, 4, 4), ("Resize", [np.zeros(0, np.float32), np.array([1, 1, 2, 2], np.float32)], {}), 97),
        ((1, 2, 4, 4), ("Pad", [np.array([0, 0, 1, 1, 0, 0, 1, 1])], {}), 34),
        ((1, 2, 4, 4), ("Transpose", [], {"perm": (0, 1, 3, 2)}), 39),
        ((1, 6), ("Sigmoid", [], {}), 14),
        ((1, 6), ("Tanh", [], {}), 28),
        ((1, 6), ("HardSwish", [], {}), 117),
        ((1, 2, 4, 4), ("GlobalMaxPool", [], {}), 17),
        ((1, 2, 4, 4), ("AveragePool", [], {"kernel_shape": (2, 2)}), 1),
        ((1, 6), ("Clip", [np.array(0, np.float32), np.array(6, np.float32)], {}), 21),
        ((1, 2, 4, 4), ("ReduceMean", [np.array([2, 3])], {}), 40),
    ],
)
def test_other_ops_have_a_form(shape, step, written):
    name, _ = operators(chain(shape, step))[-1]
    assert OPERATORS[name] == written


def test_concatenated_operands_come_to_one_grid():
    graph = Graph("concat")
    first = graph.add_input("a", TensorType(DType.FLOAT32, (1, 2, 4, 4)))
    second = graph.insert(Node("Sigmoid", (first,), ("s",), name="s")).result
    joined = graph.insert(Node("Concat", (first, second), ("y",), name="join", attributes={"axis": 1}))
    graph.set_outputs([joined.result])
    module = Module(graph, opsets={"": 21})
    infer_graph(module)
    assert [name for name, _ in operators(module)] == ["LOGISTIC", "QUANTIZE", "CONCATENATION"]
    assert operators(module)[-1][1]["axis"] == 3


def test_quantizers_give_codes_and_ranges():
    module = chain((1, 3, 4, 4), ("Conv", [normal(4, 3, 1, 1)], {}))
    graph = module.graph
    conv = next(iter(graph))
    for index, signed, axis, ranges in (
        (0, False, None, np.array([[[0, 3]]], np.float32)),
        (1, True, 0, np.full((1, 4, 2), (-1, 1), np.float32)),
    ):
        node = make_fake_quant(
            conv.input(index),
            name=f"q{index}",
            bits=4,
            widths=(4,),
            signed=signed,
            granularity=granularity_of(axis),
            narrow=signed,
        )
        graph.insert(node, before=conv)
        FakeQuant(node).calibration = ranges
        conv.set_input(index, node.result)
    infer_graph(module)
    made = Network(module).made
    assert made.grids[0] == affine_grid(0.0, 3.0)
    codes = np.frombuffer(made.buffers[1].fields["data"].tobytes(), np.int8)
    assert codes.min() >= -7
    assert codes.max() <= 7
    assert made.grids[1].scale == pytest.approx((1 / 7,) * 4)


def test_biases_lie_on_the_grid_of_the_products():
    weight, bias = normal(4, 3, 1, 1), normal(4)
    made = Network(chain((1, 3, 4, 4), ("Conv", [weight, bias], {}))).made
    codes = np.frombuffer(made.buffers[2].fields["data"].tobytes(), np.int32)
    assert codes * np.array(made.grids[2].scale) == pytest.approx(bias, abs=1e-3)
    assert made.grids[0] == affine_grid(*UNKNOWN_RANGE)


def test_file_begins_with_its_identifier():
    data = tflite_bytes(chain((1, 6), ("Relu", [], {})))
    assert data[4:8] == IDENTIFIER


@pytest.mark.parametrize(
    ("shape", "step", "message"),
    [
        ((1, 3, 4, 4), ("BatchNormalization", [np.ones(3, np.float32)] * 4, {}), "fold BatchNormalization"),
        ((1, 6), ("Clip", [np.array(-2, np.float32)], {}), "bounds 0 and 6"),
        ((1, 3, 4, 4), ("Softmax", [], {"axis": 1}), "last axis"),
        ((1, 3, 8), ("Conv", [normal(4, 3, 3)], {}), "two dimensions"),
        ((1, 6), ("Gemm", [normal(6, 4)], {"alpha": 0.5}), "without alpha"),
        ((1, 3, "h", 4), ("Relu", [], {}), "give the shapes"),
        ((1, 2, 4, 4), ("MaxPool", [], {"kernel_shape": (2, 2), "dilations": (2, 2)}), "without dilation"),
        ((1, 2, 4, 4), ("Pad", [np.array([0, 0, 1, 1, 0, 0, 1, 1])], {"mode": "reflect"}), "zeros around"),
    ],
)
def test_what_has_no_form_is_refused(shape, step, message):
    with pytest.raises(TargetError, match=message):
        tflite_bytes(chain(shape, step))


def test_uncalibrated_weights_are_refused():
    module = chain((1, 3, 4, 4), ("Conv", [normal(4, 3, 1, 1)], {}))
    conv = next(iter(module.graph))
    node = make_fake_quant(conv.input(1), name="w", bits=4, widths=(4,), signed=True, granularity=granularity_of(0))
    module.graph.insert(node, before=conv)
    conv.set_input(1, node.result)
    with pytest.raises(QirError, match="not calibrated"):
        tflite_bytes(module)
