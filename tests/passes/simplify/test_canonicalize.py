import math

import numpy as np
import pytest

from qir.backends.execution.random_feed import random_feed
from qir.errors import PassError
from qir.passes import PassContext
from qir.passes.infrastructure.testing import largest_error, run_onnxruntime
from qir.passes.simplify.canonicalize import RULES, Canonicalize
from qir.passes.simplify.eliminate.dead_code import EliminateDeadCode
from qir.rewriting.engine import RULE_KEY, explain


def ops(module):
    return [node.op for node in module.graph]


def canonicalize(module, tolerance=2e-6, inputs=None, **options):
    inputs = inputs or random_feed(module, samples=2, unknown=2)
    before = run_onnxruntime(module, inputs)
    context = PassContext()
    Canonicalize(**options).run(module, context)
    EliminateDeadCode().run(module, context)
    assert largest_error(before, run_onnxruntime(module, inputs)) <= tolerance
    return context.reports["canonicalize"]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("constant", [(), (1,), (6, 1, 1), (1, 6, 1, 1)])
@pytest.mark.parametrize("flip", [False, True])
def test_constants_go_into_a_convolution(builder, op, constant, flip):
    b = builder()
    y = b.node("Conv", [b.input("x", [2, 4, 5, 5]), b.normal("w", 6, 4, 3, 3)])
    c = b.const("c", np.random.default_rng(0).uniform(0.5, 2, constant))
    module = b.module(b.node(op, [c, y] if flip else [y, c]))
    canonicalize(module)
    assert ops(module) == (["Conv", "Div"] if op == "Div" and flip else ["Conv"])


@pytest.mark.parametrize("constant", [(5, 1), (6, 5, 5), (2, 6, 1, 1), (5,)])
def test_other_constants_stay(builder, constant):
    b = builder()
    y = b.node("Conv", [b.input("x", [2, 4, 7, 7]), b.normal("w", 6, 4, 3, 3)])
    module = b.module(b.node("Mul", [y, b.normal("c", *constant)]))
    canonicalize(module)
    assert ops(module) == ["Conv", "Mul"]


def test_a_constant_that_enlarges_the_result_stays(builder):
    b = builder()
    y = b.node("Conv", [b.input("x", [2, 4, 7, 7]), b.normal("w", 1, 4, 3, 3)])
    module = b.module(b.node("Add", [y, b.normal("c", 1, 8, 1, 1)]))
    canonicalize(module)
    assert ops(module) == ["Conv", "Add"]


def test_matmul_and_add_become_gemm(builder):
    b = builder()
    y = b.node("MatMul", [b.input("x", [3, 4]), b.normal("w", 4, 5)])
    module = b.module(b.node("Mul", [b.node("Add", [y, b.normal("c", 5)]), b.const("k", [2.0])]))
    counts = canonicalize(module)
    assert ops(module) == ["Gemm"]
    assert counts == {"fuse-affine": 1, "matmul-to-gemm": 1}


def test_matmul_of_higher_rank_stays(builder):
    b = builder()
    y = b.node("MatMul", [b.input("x", [2, 3, 4]), b.normal("w", 4, 5)])
    module = b.module(b.node("Add", [y, b.normal("c", 5)]))
    canonicalize(module)
    assert ops(module) == ["MatMul", "Add"]


@pytest.mark.parametrize(
    ("op", "attributes", "value", "fused"),
    [
        ("Conv", {"pads": [0, 1, 0, 1]}, 0.0, True),
        ("Conv", {}, 1.0, False),
        ("Conv", {"auto_pad": "SAME_UPPER"}, 0.0, False),
        ("AveragePool", {"kernel_shape": [3, 3]}, 0.0, True),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 0.0, False),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 0, 0], "count_include_pad": 1}, 0.0, True),
        ("MaxPool", {"kernel_shape": [3, 3]}, -math.inf, True),
        ("MaxPool", {"kernel_shape": [3, 3]}, 0.0, False),
        ("MaxPool", {"kernel_shape": [2, 2]}, -math.inf, False),
    ],
)
def test_pad_goes_into_what_follows(builder, op, attributes, value, fused):
    b = builder()
    operands = [b.input("x", [1, 2, 6, 6]), b.ints("pads", [0, 0, 1, 1, 0, 0, 2, 0]), b.const("v", value)]
    y = b.node("Pad", operands)
    module = b.module(b.node(op, [y, *([b.normal("w", 3, 2, 3, 3)] if op == "Conv" else [])], **attributes))
    canonicalize(module)
    assert ops(module) == ([op] if fused else ["Pad", op])


def test_padded_channels_stay(builder):
    b = builder()
    y = b.node("Pad", [b.input("x", [1, 2, 6, 6]), b.ints("pads", [0, 1, 0, 0, 0, 0, 0, 0])])
    module = b.module(b.node("Conv", [y, b.normal("w", 3, 3, 3, 3)]))
    canonicalize(module)
    assert ops(module) == ["Pad", "Conv"]


def test_transposes_cancel_through_elementwise_operators(builder):
    b = builder()
    y = b.node("Transpose", [b.input("x", [2, 3, 4, 5])], perm=[0, 2, 3, 1])
    y = b.node("Mul", [b.node("Relu", [y]), b.const("c", 2.0)])
    module = b.module(b.node("Sigmoid", [b.node("Transpose", [y], perm=[0, 3, 1, 2])]))
    canonicalize(module)
    assert ops(module) == ["Relu", "Mul", "Sigmoid"]
    assert all(node.result.type.shape == (2, 3, 4, 5) for node in module.graph.nodes[:2])


def test_transposes_compose(builder):
    b = builder()
    y = b.node("Transpose", [b.input("x", [2, 3, 4])], perm=[1, 2, 0])
    module = b.module(b.node("Transpose", [y]))
    canonicalize(module)
    assert ops(module) == ["Transpose"]
    assert module.graph.nodes[0].attribute("perm") == (0, 2, 1)


def test_a_transpose_that_is_used_twice_stays(builder):
    b = builder()
    y = b.node("Transpose", [b.input("x", [2, 3, 4])], perm=[0, 2, 1])
    module = b.module(b.node("Transpose", [y], perm=[0, 2, 1]), b.node("Relu", [y]))
    canonicalize(module)
    assert ops(module) == ["Transpose", "Transpose", "Relu"]


@pytest.mark.parametrize("form", ["max-min", "relu-min", "clip-relu", "relu-clip"])
def test_relu6_in_its_many_forms(builder, form):
    b = builder()
    x, zero, six = b.input("x", [4, 50]), b.const("zero", 0.0), b.const("six", 6.0)
    if form == "max-min":
        y = b.node("Min", [b.node("Max", [x, zero]), six])
    elif form == "relu-min":
        y = b.node("Min", [six, b.node("Relu", [x])])
    elif form == "clip-relu":
        y = b.node("Relu", [b.node("Clip", [x, b.const("low", -3.0), six])])
    else:
        y = b.node("Clip", [b.node("Relu", [x]), "", six])
    module = b.module(y)
    canonicalize(module, inputs={"x": np.linspace(-10, 10, 200, dtype=np.float32).reshape(4, 50)})
    assert ops(module) == ["Clip"]
    bounds = [float(module.graph.nodes[0].input(i).constant.numpy()) for i in (1, 2)]
    assert bounds == [0.0, 6.0]


def test_relu_twice_is_relu(builder):
    b = builder()
    module = b.module(b.node("Relu", [b.node("Relu", [b.input("x", [4])])]))
    canonicalize(module)
    assert ops(module) == ["Relu"]


@pytest.mark.parametrize("form", ["product-first", "gate-first", "multiplied", "hard-sigmoid"])
@pytest.mark.parametrize("opset", [13, 17])
def test_hard_swish(builder, form, opset):
    b = builder(opset=opset)
    x = b.input("x", [4, 50])
    if form == "hard-sigmoid":
        y = b.node("Mul", [b.node("HardSigmoid", [x], alpha=1 / 6, beta=0.5), x])
    else:
        gate = b.node("Add", [x, b.const("three", 3.0)])
        gate = b.node("Clip", [gate, b.const("zero", 0.0), b.const("six", 6.0)])
        if form == "product-first":
            y = b.node("Div", [b.node("Mul", [x, gate]), "six"])
        elif form == "multiplied":
            y = b.node("Mul", [b.node("Mul", [gate, x]), b.const("sixth", 1 / 6)])
        else:
            y = b.node("Mul", [x, b.node("Div", [gate, "six"])])
    module = b.module(y)
    canonicalize(module, inputs={"x": np.linspace(-10, 10, 200, dtype=np.float32).reshape(4, 50)})
    if opset >= 14:
        assert ops(module) == ["HardSwish"]
    else:
        assert "HardSwish" not in ops(module)


@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("opset", [17, 18])
def test_layer_normalization(builder, square, affine, opset):
    b = builder(opset=opset)
    x = b.input("x", [2, 5, 8])

    def mean(value):
        if opset >= 18:
            b.ints("axes", [-1])
            return b.node("ReduceMean", [value, "axes"], keepdims=1)
        return b.node("ReduceMean", [value], axes=[-1], keepdims=1)

    d = b.node("Sub", [x, mean(x)])
    s = b.node("Pow", [d, b.const("two", 2.0)]) if square == "Pow" else b.node("Mul", [d, d])
    y = b.node("Div", [d, b.node("Sqrt", [b.node("Add", [mean(s), b.const("eps", 1e-5)])])])
    if affine:
        y = b.node("Add", [b.node("Mul", [y, b.normal("g", 8)]), b.normal("beta", 8)])
    module = b.module(y)
    canonicalize(module)
    assert ops(module) == ["LayerNormalization"]


def test_layer_normalization_of_unknown_length_needs_its_scale(builder):
    b = builder()
    x = b.input("x", [2, "n"])
    d = b.node("Sub", [x, b.node("ReduceMean", [x], axes=[1])])
    v = b.node("ReduceMean", [b.node("Mul", [d, d])], axes=[-1])
    y = b.node("Div", [d, b.node("Sqrt", [b.node("Add", [b.const("eps", 1e-5), v])])])
    plain = b.module(y)
    canonicalize(plain, inputs={"x": np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)})
    assert "LayerNormalization" not in ops(plain)


def test_layer_normalization_over_other_axes_stays(builder):
    b = builder()
    x = b.input("x", [2, 5, 8])
    d = b.node("Sub", [x, b.node("ReduceMean", [x], axes=[1])])
    v = b.node("ReduceMean", [b.node("Mul", [d, d])], axes=[1])
    y = b.node("Div", [d, b.node("Sqrt", [b.node("Add", [v, b.const("eps", 1e-5)])])])
    module = b.module(y)
    canonicalize(module)
    assert "LayerNormalization" not in ops(module)


def test_chains_of_constants_become_one_mul_and_one_add(builder):
    b = builder()
    y = b.node("Relu", [b.input("x", [2, 3, 4, 4])])
    for index, op in enumerate(("Mul", "Add", "Mul", "Mul", "Add", "Add")):
        y = b.node(op, [y, b.normal(f"c{index}", 3, 1, 1)])
    module = b.module(y)
    canonicalize(module)
    assert ops(module) == ["Relu", "Mul", "Add"]


def test_constants_of_other_shapes_are_not_combined(builder):
    b = builder()
    y = b.node("Add", [b.input("x", [2, 3]), b.normal("a", 3)])
    module = b.module(b.node("Add", [y, b.normal("b", 2, 1)]))
    canonicalize(module)
    assert ops(module) == ["Add", "Add"]


def test_rules_can_be_left_out(builder):
    b = builder()
    y = b.node("Conv", [b.input("x", [2, 4, 5, 5]), b.normal("w", 6, 4, 3, 3)])
    module = b.module(b.node("Mul", [y, b.const("c", 2.0)]))
    canonicalize(module, without=("fuse-affine",))
    assert ops(module) == ["Conv", "Mul"]
    with pytest.raises(PassError, match="no rule 'nope'"):
        Canonicalize(without=("nope",)).run(module, PassContext())


def test_why_a_rule_does_not_apply_is_explained(builder):
    b = builder()
    y = b.node("Conv", [b.input("x", [2, 4, 7, 7]), b.normal("w", 6, 4, 3, 3)])
    module = b.module(b.node("Mul", [y, b.normal("c", 5)]))
    (rule,) = [rule for rule in RULES if rule.name == "fuse-affine"]
    found = explain(rule, module.graph.nodes[1])
    assert not found.matched
    assert found.reason


def test_new_nodes_name_the_rule_that_made_them(builder):
    b = builder()
    y = b.node("MatMul", [b.input("x", [3, 4]), b.normal("w", 4, 5)])
    module = b.module(b.node("Add", [y, b.normal("c", 5)]))
    canonicalize(module)
    assert module.graph.nodes[0].metadata[RULE_KEY] == "matmul-to-gemm"


def test_a_shape_sliced_from_that_of_the_data_becomes_constant(builder):
    b = builder()
    x = b.input("x", ["n", 6, 2, 2])
    batch = b.node(
        "Slice", [b.node("Shape", [x]), *(b.ints(k, [v]) for k, v in zip("seat", (0, 1, 0, 1), strict=True))]
    )
    module = b.module(b.node("Reshape", [x, b.node("Concat", [batch, b.ints("rest", [24])], axis=0)]))
    canonicalize(module)
    assert ops(module) == ["Reshape"]
    target = next(iter(module.graph)).inputs[1].constant.numpy()
    assert target.tolist() in ([0, 24], [-1, 24])
