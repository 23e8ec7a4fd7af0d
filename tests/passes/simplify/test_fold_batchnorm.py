"""BatchNorm folding against ONNX Runtime, case by case."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from qir.backends.execution.random_feed import random_feed
from qir.passes import PassContext
from qir.passes.infrastructure.testing import largest_error, run_onnxruntime
from qir.passes.simplify.fold.batchnorm import FoldBatchNorm


def ops(module):
    return [node.op for node in module.graph]


def fold(module, tolerance=2e-6, **options):
    """Fold and compare; returns the report."""
    inputs = random_feed(module, samples=2, unknown=2)
    before = run_onnxruntime(module, inputs)
    context = PassContext()
    FoldBatchNorm(**options).run(module, context)
    assert largest_error(before, run_onnxruntime(module, inputs)) <= tolerance
    return context.reports["fold-batchnorm"]


@pytest.mark.named_nodes
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("op", "channels", "weight", "spatial", "attributes"),
    [
        ("Conv", 4, (6, 4, 3, 3), (8, 8), {"pads": [1, 1, 1, 1]}),
        ("Conv", 4, (6, 2, 3, 3), (8, 8), {"group": 2, "strides": [2, 2]}),
        ("Conv", 4, (8, 1, 3, 3), (8, 8), {"group": 4, "auto_pad": "SAME_UPPER"}),
        ("Conv", 4, (6, 4, 3), (9,), {"dilations": [2]}),
        ("Conv", 2, (3, 2, 2, 2, 2), (4, 4, 4), {}),
        ("ConvTranspose", 4, (4, 6, 3, 3), (5, 5), {"strides": [2, 2]}),
        ("ConvTranspose", 4, (4, 3, 3, 3), (5, 5), {"group": 2, "pads": [1, 1, 1, 1]}),
        ("ConvTranspose", 4, (4, 2, 3), (5,), {"group": 4}),
    ],
)
def test_convolutions_take_over_what_follows(builder, op, channels, weight, spatial, attributes, bias):
    b = builder()
    x = b.input("x", [2, channels, *spatial])
    out = weight[0] if op == "Conv" else weight[1] * attributes.get("group", 1)
    operands = [x, b.normal("w", *weight)] + ([b.normal("b", out)] if bias else [])
    module = b.module(b.bn(b.node(op, operands, **attributes), out))
    report = fold(module)
    assert ops(module) == [op]
    assert list(report.folded.values()) == [(f"n_{op.lower()}0",)]
    assert {v.name for v in module.graph.constants} >= {"w"}
    assert len(module.graph.constants) == 2


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [None, (), (1,), (5,), (1, 5), (3, 5), (3, 1)])
def test_gemm_with_alpha_and_beta(builder, trans_b, bias):
    b = builder()
    x = b.input("x", [3, 4])
    operands = [x, b.normal("w", *((5, 4) if trans_b else (4, 5)))]
    operands += [] if bias is None else [b.normal("c", *bias)]
    y = b.node("Gemm", operands, transB=trans_b, alpha=0.7, beta=1.3)
    module = b.module(b.bn(y, 5))
    fold(module)
    assert ops(module) == ["Gemm"]


@pytest.mark.parametrize("add", [None, (5,), (1, 5)])
def test_matmul_with_and_without_its_add(builder, add):
    b = builder()
    y = b.node("MatMul", [b.input("x", [3, 4]), b.normal("w", 4, 5)])
    if add is not None:
        y = b.node("Add", [b.normal("c", *add), y])
    module = b.module(b.bn(y, 5))
    fold(module)
    assert ops(module) == ["MatMul", "Add"]


def test_matmul_whose_channels_are_not_on_axis_1_is_left(builder):
    b = builder()
    y = b.node("MatMul", [b.input("x", [3, 5, 4]), b.normal("w", 4, 6)])
    module = b.module(b.bn(y, 5))
    report = fold(module)
    assert ops(module) == ["MatMul", "Mul", "Add"]
    assert "not on axis 1" in next(iter(report.rewritten.values()))


def test_parameters_after_identity_nodes_are_seen(builder):
    b = builder()
    y = b.node("Conv", [b.input("x", [1, 2, 4, 4]), b.node("Identity", [b.normal("w", 3, 2, 1, 1)])])
    y = b.bn(y, 3)
    for value in list(b.nodes[-1].input[1:]):
        alias = b.node("Identity", [value])
        b.nodes.insert(0, b.nodes.pop())
        bn = next(n for n in b.nodes if n.op_type == "BatchNormalization")
        bn.input[list(bn.input).index(value)] = alias
    module = b.module(y)
    fold(module)
    assert ops(module) == ["Conv"]


def test_a_shared_weight_is_copied(builder):
    b = builder()
    x, w, c = b.input("x", [1, 2, 4, 4]), b.normal("w", 3, 2, 1, 1), b.normal("c", 3)
    plain = b.node("Conv", [x, w, c])
    folded = b.bn(b.node("Conv", [x, w, c]), 3)
    module = b.module(plain, folded)
    fold(module)
    assert ops(module) == ["Conv", "Conv"]
    assert len(module.graph.constants) == 4


def test_a_convolution_used_twice_is_not_touched(builder):
    b = builder()
    y = b.node("Conv", [b.input("x", [1, 2, 4, 4]), b.normal("w", 3, 2, 1, 1)])
    module = b.module(b.node("Add", [b.bn(y, 3), y]))
    report = fold(module)
    assert ops(module) == ["Conv", "Mul", "Add", "Add"]
    assert "used more than once" in next(iter(report.rewritten.values()))


def test_a_convolution_that_is_a_graph_output_is_not_touched(builder):
    b = builder()
    y = b.node("Conv", [b.input("x", [1, 2, 4, 4]), b.normal("w", 3, 2, 1, 1)])
    module = b.module(y, b.bn(y, 3))
    report = fold(module, remaining="keep")
    assert ops(module) == ["Conv", "BatchNormalization"]
    assert "graph output" in next(iter(report.kept.values()))


def test_training_mode_is_never_folded(builder):
    b = builder()
    y = b.node("Conv", [b.input("x", [4, 2, 4, 4]), b.normal("w", 3, 2, 1, 1)])
    y = b.bn(y, 3, outputs=["y", "mean", "var"], training_mode=1)
    module = b.module(y)
    report = fold(module)
    assert ops(module) == ["Conv", "BatchNormalization"]
    assert "training mode" in next(iter(report.kept.values()))


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1]])
def test_forward_into_a_convolution_only_without_padding(builder, pads):
    b = builder()
    y = b.bn(b.input("x", [2, 4, 8, 8]), 4)
    module = b.module(b.node("Conv", [y, b.normal("w", 6, 2, 3, 3)], group=2, pads=pads))
    report = fold(module)
    if any(pads):
        assert ops(module) == ["Mul", "Add", "Conv"]
        assert "pads with zeros" in next(iter(report.rewritten.values()))
    else:
        assert ops(module) == ["Conv"]


def test_forward_through_flatten_into_all_users(builder):
    b = builder()
    y = b.node("Flatten", [b.bn(b.input("x", [2, 3, 2, 2]), 3)])
    first = b.node("Gemm", [y, b.normal("w", 5, 12), b.normal("c", 5)], transB=1, alpha=0.5, beta=2.0)
    second = b.node("MatMul", [y, b.normal("v", 12, 4)])
    module = b.module(first, second)
    fold(module)
    assert ops(module) == ["Flatten", "Gemm", "MatMul", "Add"]


def test_forward_is_not_done_when_another_user_needs_the_value(builder):
    b = builder()
    y = b.bn(b.input("x", [2, 4, 8, 8]), 4)
    module = b.module(b.node("Conv", [y, b.normal("w", 6, 4, 1, 1)]), b.node("Relu", [y]))
    report = fold(module)
    assert "goes to Relu" in next(iter(report.rewritten.values()))


def test_through_a_concatenation(builder):
    b = builder()
    x = b.input("x", [2, 4, 8, 8])
    parts = [b.node("Conv", [x, b.normal(f"w{i}", n, 4, 1, 1)]) for i, n in enumerate((3, 5))]
    module = b.module(b.bn(b.node("Concat", parts, axis=1), 8))
    report = fold(module)
    assert ops(module) == ["Conv", "Conv", "Concat"]
    assert len(next(iter(report.folded.values()))) == 2


def test_a_concatenation_with_something_else_is_rewritten(builder):
    b = builder()
    x = b.input("x", [2, 4, 8, 8])
    parts = [b.node("Conv", [x, b.normal("w", 3, 4, 1, 1)]), b.node("Relu", [x])]
    module = b.module(b.bn(b.node("Concat", parts, axis=1), 7))
    fold(module)
    assert ops(module) == ["Conv", "Relu", "Concat", "Mul", "Add"]


def test_zero_gamma_and_tiny_variance_are_folded_and_flagged(builder):
    b = builder()
    y = b.node("Conv", [b.input("x", [2, 4, 8, 8]), b.normal("w", 3, 4, 1, 1)])
    y = b.bn(y, 3, gamma=[0, 1, -1], variance=[1, 0, 1])
    module = b.module(y)
    report = fold(module, tolerance=1e-5)
    assert ops(module) == ["Conv"]
    (warning,) = report.warnings.values()
    assert "[1] have a variance below epsilon" in warning
    assert "[0] have gamma 0" in warning


def test_half_precision(builder):
    b = builder(np.float16)
    y = b.node("Conv", [b.input("x", [2, 4, 8, 8]), b.normal("w", 3, 4, 1, 1)])
    module = b.module(b.bn(y, 3))
    fold(module, tolerance=5e-3)
    assert ops(module) == ["Conv"]


def test_half_precision_that_would_overflow_is_kept(builder):
    b = builder(np.float16)
    y = b.node("Conv", [b.input("x", [1, 1, 2, 2]), b.const("w", np.full((1, 1, 1, 1), 1e-4))])
    y = b.bn(y, 1, gamma=[6e4], variance=[0], mean=[0], epsilon=1e-12)
    module = b.module(y)
    context = PassContext()
    FoldBatchNorm().run(module, context)
    report = context.reports["fold-batchnorm"]
    assert ops(module) == ["Conv", "BatchNormalization"]
    assert "overflow" in next(iter(report.kept.values()))


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 0.5])
def test_epsilon_is_read(builder, epsilon):
    b = builder()
    y = b.node("Conv", [b.input("x", [2, 4, 8, 8]), b.normal("w", 3, 4, 1, 1)])
    module = b.module(b.bn(y, 3, variance=[0.01, 0.1, 1], epsilon=epsilon))
    fold(module)
    assert ops(module) == ["Conv"]


@pytest.mark.parametrize("which", ["w", "b", "bn.mean"])
def test_constants_that_a_caller_can_replace_are_not_folded(builder, which):
    b = builder(ir_version=3, opset=9)
    y = b.node("Conv", [b.input("x", [1, 2, 4, 4]), b.normal("w", 3, 2, 1, 1), b.normal("b", 3)])
    y = b.bn(y, 3)
    for constant in b.constants:
        b.inputs.append(helper.make_tensor_value_info(constant.name, TensorProto.FLOAT, list(constant.dims)))
    b.inputs = [b.inputs[0], *(i for i in b.inputs[1:] if i.name == which)]
    module = b.module(y)
    context = PassContext()
    FoldBatchNorm(remaining="keep").run(module, context)
    assert "BatchNormalization" in ops(module)
    assert "not constant" in next(iter(context.reports["fold-batchnorm"].kept.values()))


def test_inside_a_branch(builder):
    then = builder()
    y = then.node("Conv", ["x", then.normal("w", 3, 2, 1, 1)])
    y = then.bn(y, 3)
    info = [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)]
    branch = helper.make_graph(then.nodes, "then", [], info, then.constants)
    b = builder()
    b.input("x", [1, 2, 4, 4])
    other = helper.make_graph(
        [helper.make_node("Concat", ["x", "x"], ["e"], axis=1)],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)],
    )
    b.constants.append(numpy_helper.from_array(np.array(True), "condition"))
    module = b.module(b.node("If", ["condition"], then_branch=branch, else_branch=other))
    fold(module)
    assert sorted(n.op for n in module.graph.walk()) == ["Concat", "Conv", "If"]


def test_old_versions_in_test_mode(builder):
    b = builder(opset=9)
    y = b.node("Conv", [b.input("x", [2, 4, 8, 8]), b.normal("w", 3, 4, 1, 1)])
    module = b.module(b.bn(y, 3, momentum=0.8))
    fold(module)
    assert ops(module) == ["Conv"]


def test_nothing_to_fold_changes_nothing(builder):
    b = builder()
    module = b.module(b.node("Relu", [b.input("x", [2, 4])]))
    version = module.version
    assert not FoldBatchNorm().run(module, PassContext())
    assert module.version == version
