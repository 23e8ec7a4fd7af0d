"""BatchNorm folding against ONNX Runtime, case by case."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.passes import PassContext
from qir.passes.fold_batchnorm import FoldBatchNorm
from qir.passes.testing import largest_error, random_inputs, run_onnxruntime

RNG = np.random.default_rng(0)


class Builder:
    """A small ONNX model, written node by node."""

    def __init__(self, dtype=np.float32, opset=17, ir_version=8):
        self.dtype, self.opset, self.ir_version = np.dtype(dtype), opset, ir_version
        self.nodes, self.constants, self.inputs = [], [], []
        self.elem = helper.np_dtype_to_tensor_dtype(self.dtype)

    def input(self, name, shape):
        self.inputs.append(helper.make_tensor_value_info(name, self.elem, shape))
        return name

    def const(self, name, array):
        self.constants.append(numpy_helper.from_array(np.asarray(array, self.dtype), name))
        return name

    def normal(self, name, *shape):
        return self.const(name, RNG.standard_normal(shape) * 0.5)

    def node(self, op, inputs, outputs=None, **attributes):
        outputs = [outputs or f"{op.lower()}{len(self.nodes)}"] if not isinstance(outputs, list) else outputs
        self.nodes.append(helper.make_node(op, inputs, outputs, name=f"n_{outputs[0]}", **attributes))
        return outputs[0]

    def bn(self, x, channels, name="bn", gamma=None, variance=None, mean=None, **attributes):
        self.const(f"{name}.gamma", RNG.uniform(-1.5, 1.5, channels) if gamma is None else gamma)
        self.normal(f"{name}.beta", channels)
        self.const(f"{name}.mean", RNG.standard_normal(channels) if mean is None else mean)
        self.const(f"{name}.var", RNG.uniform(0.2, 2, channels) if variance is None else variance)
        parameters = [f"{name}.{p}" for p in ("gamma", "beta", "mean", "var")]
        return self.node("BatchNormalization", [x, *parameters], **attributes)

    def module(self, tmp_path, *outputs):
        infos = [helper.make_tensor_value_info(o, self.elem, None) for o in outputs]
        graph = helper.make_graph(self.nodes, "g", self.inputs, infos, self.constants)
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=self.ir_version
        )
        onnx.save(model, tmp_path / "in.onnx")
        return qir.load(tmp_path / "in.onnx")


def ops(module):
    return [node.op for node in module.graph]


def fold(module, tolerance=2e-6, **options):
    """Fold and compare; returns the report."""
    inputs = random_inputs(module)
    before = run_onnxruntime(module, inputs)
    FoldBatchNorm(**options).run(module, PassContext())
    assert largest_error(before, run_onnxruntime(module, inputs)) <= tolerance
    return module.meta["fold-batchnorm"]


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
def test_convolutions_take_over_what_follows(tmp_path, op, channels, weight, spatial, attributes, bias):
    b = Builder()
    x = b.input("x", [2, channels, *spatial])
    out = weight[0] if op == "Conv" else weight[1] * attributes.get("group", 1)
    operands = [x, b.normal("w", *weight)] + ([b.normal("b", out)] if bias else [])
    module = b.module(tmp_path, b.bn(b.node(op, operands, **attributes), out))
    report = fold(module)
    assert ops(module) == [op]
    assert list(report.folded.values()) == [(f"n_{op.lower()}0",)]
    assert {v.name for v in module.graph.constants} >= {"w"}
    assert len(module.graph.constants) == 2


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [None, (), (1,), (5,), (1, 5), (3, 5), (3, 1)])
def test_gemm_with_alpha_and_beta(tmp_path, trans_b, bias):
    b = Builder()
    x = b.input("x", [3, 4])
    operands = [x, b.normal("w", *((5, 4) if trans_b else (4, 5)))]
    operands += [] if bias is None else [b.normal("c", *bias)]
    y = b.node("Gemm", operands, transB=trans_b, alpha=0.7, beta=1.3)
    module = b.module(tmp_path, b.bn(y, 5))
    fold(module)
    assert ops(module) == ["Gemm"]


@pytest.mark.parametrize("add", [None, (5,), (1, 5)])
def test_matmul_with_and_without_its_add(tmp_path, add):
    b = Builder()
    y = b.node("MatMul", [b.input("x", [3, 4]), b.normal("w", 4, 5)])
    if add is not None:
        y = b.node("Add", [b.normal("c", *add), y])
    module = b.module(tmp_path, b.bn(y, 5))
    fold(module)
    assert ops(module) == ["MatMul", "Add"]


def test_matmul_whose_channels_are_not_on_axis_1_is_left(tmp_path):
    b = Builder()
    y = b.node("MatMul", [b.input("x", [3, 5, 4]), b.normal("w", 4, 6)])
    module = b.module(tmp_path, b.bn(y, 5))
    report = fold(module)
    assert ops(module) == ["MatMul", "Mul", "Add"]
    assert "not on axis 1" in next(iter(report.rewritten.values()))


def test_parameters_behind_identity_nodes_are_seen(tmp_path):
    b = Builder()
    y = b.node("Conv", [b.input("x", [1, 2, 4, 4]), b.node("Identity", [b.normal("w", 3, 2, 1, 1)])])
    y = b.bn(y, 3)
    for value in list(b.nodes[-1].input[1:]):
        alias = b.node("Identity", [value])
        b.nodes.insert(0, b.nodes.pop())
        bn = next(n for n in b.nodes if n.op_type == "BatchNormalization")
        bn.input[list(bn.input).index(value)] = alias
    module = b.module(tmp_path, y)
    fold(module)
    assert ops(module) == ["Conv"]


def test_a_shared_weight_is_copied(tmp_path):
    b = Builder()
    x, w, c = b.input("x", [1, 2, 4, 4]), b.normal("w", 3, 2, 1, 1), b.normal("c", 3)
    plain = b.node("Conv", [x, w, c])
    folded = b.bn(b.node("Conv", [x, w, c]), 3)
    module = b.module(tmp_path, plain, folded)
    fold(module)
    assert ops(module) == ["Conv", "Conv"]
    assert len(module.graph.constants) == 4


def test_a_convolution_used_twice_is_not_touched(tmp_path):
    b = Builder()
    y = b.node("Conv", [b.input("x", [1, 2, 4, 4]), b.normal("w", 3, 2, 1, 1)])
    module = b.module(tmp_path, b.node("Add", [b.bn(y, 3), y]))
    report = fold(module)
    assert ops(module) == ["Conv", "Mul", "Add", "Add"]
    assert "used more than once" in next(iter(report.rewritten.values()))


def test_a_convolution_that_is_a_graph_output_is_not_touched(tmp_path):
    b = Builder()
    y = b.node("Conv", [b.input("x", [1, 2, 4, 4]), b.normal("w", 3, 2, 1, 1)])
    module = b.module(tmp_path, y, b.bn(y, 3))
    report = fold(module, remaining="keep")
    assert ops(module) == ["Conv", "BatchNormalization"]
    assert "graph output" in next(iter(report.kept.values()))


def test_training_mode_is_never_folded(tmp_path):
    b = Builder()
    y = b.node("Conv", [b.input("x", [4, 2, 4, 4]), b.normal("w", 3, 2, 1, 1)])
    y = b.bn(y, 3, outputs=["y", "mean", "var"], training_mode=1)
    module = b.module(tmp_path, y)
    report = fold(module)
    assert ops(module) == ["Conv", "BatchNormalization"]
    assert "training mode" in next(iter(report.kept.values()))


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1]])
def test_forward_into_a_convolution_only_without_padding(tmp_path, pads):
    b = Builder()
    y = b.bn(b.input("x", [2, 4, 8, 8]), 4)
    module = b.module(tmp_path, b.node("Conv", [y, b.normal("w", 6, 2, 3, 3)], group=2, pads=pads))
    report = fold(module)
    if any(pads):
        assert ops(module) == ["Mul", "Add", "Conv"]
        assert "pads with zeros" in next(iter(report.rewritten.values()))
    else:
        assert ops(module) == ["Conv"]


def test_forward_through_flatten_into_all_users(tmp_path):
    b = Builder()
    y = b.node("Flatten", [b.bn(b.input("x", [2, 3, 2, 2]), 3)])
    first = b.node("Gemm", [y, b.normal("w", 5, 12), b.normal("c", 5)], transB=1, alpha=0.5, beta=2.0)
    second = b.node("MatMul", [y, b.normal("v", 12, 4)])
    module = b.module(tmp_path, first, second)
    fold(module)
    assert ops(module) == ["Flatten", "Gemm", "MatMul", "Add"]


def test_forward_is_not_done_when_another_user_needs_the_value(tmp_path):
    b = Builder()
    y = b.bn(b.input("x", [2, 4, 8, 8]), 4)
    module = b.module(tmp_path, b.node("Conv", [y, b.normal("w", 6, 4, 1, 1)]), b.node("Relu", [y]))
    report = fold(module)
    assert "goes to Relu" in next(iter(report.rewritten.values()))


def test_through_a_concatenation(tmp_path):
    b = Builder()
    x = b.input("x", [2, 4, 8, 8])
    parts = [b.node("Conv", [x, b.normal(f"w{i}", n, 4, 1, 1)]) for i, n in enumerate((3, 5))]
    module = b.module(tmp_path, b.bn(b.node("Concat", parts, axis=1), 8))
    report = fold(module)
    assert ops(module) == ["Conv", "Conv", "Concat"]
    assert len(next(iter(report.folded.values()))) == 2


def test_a_concatenation_with_something_else_is_rewritten(tmp_path):
    b = Builder()
    x = b.input("x", [2, 4, 8, 8])
    parts = [b.node("Conv", [x, b.normal("w", 3, 4, 1, 1)]), b.node("Relu", [x])]
    module = b.module(tmp_path, b.bn(b.node("Concat", parts, axis=1), 7))
    fold(module)
    assert ops(module) == ["Conv", "Relu", "Concat", "Mul", "Add"]


def test_zero_gamma_and_tiny_variance_are_folded_and_flagged(tmp_path):
    b = Builder()
    y = b.node("Conv", [b.input("x", [2, 4, 8, 8]), b.normal("w", 3, 4, 1, 1)])
    y = b.bn(y, 3, gamma=[0, 1, -1], variance=[1, 0, 1])
    module = b.module(tmp_path, y)
    report = fold(module, tolerance=1e-5)
    assert ops(module) == ["Conv"]
    (warning,) = report.warnings.values()
    assert "[1] have a variance below epsilon" in warning
    assert "[0] have gamma 0" in warning


def test_half_precision(tmp_path):
    b = Builder(np.float16)
    y = b.node("Conv", [b.input("x", [2, 4, 8, 8]), b.normal("w", 3, 4, 1, 1)])
    module = b.module(tmp_path, b.bn(y, 3))
    fold(module, tolerance=5e-3)
    assert ops(module) == ["Conv"]


def test_half_precision_that_would_overflow_is_kept(tmp_path):
    b = Builder(np.float16)
    y = b.node("Conv", [b.input("x", [1, 1, 2, 2]), b.const("w", np.full((1, 1, 1, 1), 1e-4))])
    y = b.bn(y, 1, gamma=[6e4], variance=[0], mean=[0], epsilon=1e-12)
    module = b.module(tmp_path, y)
    FoldBatchNorm().run(module, PassContext())
    report = module.meta["fold-batchnorm"]
    assert ops(module) == ["Conv", "BatchNormalization"]
    assert "overflow" in next(iter(report.kept.values()))


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 0.5])
def test_epsilon_is_read(tmp_path, epsilon):
    b = Builder()
    y = b.node("Conv", [b.input("x", [2, 4, 8, 8]), b.normal("w", 3, 4, 1, 1)])
    module = b.module(tmp_path, b.bn(y, 3, variance=[0.01, 0.1, 1], epsilon=epsilon))
    fold(module)
    assert ops(module) == ["Conv"]


@pytest.mark.parametrize("which", ["w", "b", "bn.mean"])
def test_constants_that_a_caller_can_replace_are_not_folded(tmp_path, which):
    b = Builder(ir_version=3, opset=9)
    y = b.node("Conv", [b.input("x", [1, 2, 4, 4]), b.normal("w", 3, 2, 1, 1), b.normal("b", 3)])
    y = b.bn(y, 3)
    for constant in b.constants:
        b.inputs.append(helper.make_tensor_value_info(constant.name, TensorProto.FLOAT, list(constant.dims)))
    b.inputs = [b.inputs[0], *(i for i in b.inputs[1:] if i.name == which)]
    module = b.module(tmp_path, y)
    FoldBatchNorm(remaining="keep").run(module, PassContext())
    assert "BatchNormalization" in ops(module)
    assert "not constant" in next(iter(module.meta["fold-batchnorm"].kept.values()))


def test_inside_a_branch(tmp_path):
    then = Builder()
    y = then.node("Conv", ["x", then.normal("w", 3, 2, 1, 1)])
    y = then.bn(y, 3)
    info = [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)]
    branch = helper.make_graph(then.nodes, "then", [], info, then.constants)
    b = Builder()
    b.input("x", [1, 2, 4, 4])
    other = helper.make_graph(
        [helper.make_node("Concat", ["x", "x"], ["e"], axis=1)],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)],
    )
    b.constants.append(numpy_helper.from_array(np.array(True), "condition"))
    module = b.module(tmp_path, b.node("If", ["condition"], then_branch=branch, else_branch=other))
    fold(module)
    assert [n.op for n in module.graph.walk()] == ["If", "Conv", "Concat"]


def test_old_versions_in_test_mode(tmp_path):
    b = Builder(opset=9)
    y = b.node("Conv", [b.input("x", [2, 4, 8, 8]), b.normal("w", 3, 4, 1, 1)])
    module = b.module(tmp_path, b.bn(y, 3, momentum=0.8))
    fold(module)
    assert ops(module) == ["Conv"]


def test_nothing_to_fold_changes_nothing(tmp_path):
    b = Builder()
    module = b.module(tmp_path, b.node("Relu", [b.input("x", [2, 4])]))
    version = module.version
    assert not FoldBatchNorm().run(module, PassContext())
    assert module.version == version
