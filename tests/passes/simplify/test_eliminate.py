import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from qir.backends.execution.random_feed import random_feed
from qir.passes import PassContext
from qir.passes.infrastructure.testing import largest_error, run_onnxruntime
from qir.passes.simplify.eliminate.common_subexpressions import EliminateCommonSubexpressions
from qir.passes.simplify.eliminate.dead_code import EliminateDeadCode
from qir.passes.simplify.eliminate.identities import EliminateIdentities
from qir.passes.simplify.fold.constants import FoldConstants
from qir.passes.simplify.freeze_inputs import FreezeInputs
from qir.types import DType, TensorType


def ops(module):
    return [node.op for node in module.graph]


def run(step, module, tolerance=0.0, context=None):
    inputs = random_feed(module, samples=2, unknown=2)
    before = run_onnxruntime(module, inputs)
    version = module.version
    changed = step.run(module, context or PassContext())
    assert changed or module.version == version
    assert largest_error(before, run_onnxruntime(module, inputs)) <= tolerance
    return changed


def test_dead_nodes_and_constants_go(builder):
    b = builder()
    x = b.input("x", [2, 3])
    b.node("Relu", [b.node("Add", [x, b.normal("unused", 3)])])
    module = b.module(b.node("Sigmoid", [x]))
    assert run(EliminateDeadCode(), module)
    assert ops(module) == ["Sigmoid"]
    assert not module.graph.constants
    assert not run(EliminateDeadCode(), module)


@pytest.mark.parametrize(
    ("op", "constants", "attributes"),
    [
        ("Identity", [], {}),
        ("Dropout", [], {}),
        ("Dropout", [0.5, False], {}),
        ("Cast", [], {"to": 1}),
        ("Reshape", [[2, 3]], {}),
        ("Reshape", [[-1, 3]], {}),
        ("Expand", [[2, 1]], {}),
        ("Flatten", [], {}),
        ("Transpose", [], {"perm": [0, 1]}),
        ("Add", [0.0], {}),
        ("Sub", [0.0], {}),
        ("Mul", [[1.0]], {}),
        ("Div", [[1.0, 1.0, 1.0]], {}),
        ("Pad", [[0, 0, 0, 0]], {}),
        ("Concat", [], {"axis": 0}),
    ],
)
def test_nodes_that_change_nothing_go(builder, op, constants, attributes):
    b = builder()
    y = b.node("Relu", [b.input("x", [2, 3])])
    operands = [y]
    for index, value in enumerate(constants):
        dtype = np.int64 if op in {"Reshape", "Expand", "Pad"} else np.bool_ if value is False else np.float32
        b.constants.append(numpy_helper.from_array(np.asarray(value, dtype), f"c{index}"))
        operands.append(f"c{index}")
    module = b.module(b.node("Sigmoid", [b.node(op, operands, **attributes)]))
    assert run(EliminateIdentities(), module)
    assert ops(module) == ["Relu", "Sigmoid"]
    assert not module.graph.constants


@pytest.mark.parametrize(
    ("op", "constant", "attributes"),
    [
        ("Add", np.zeros((2, 2, 3)), {}),
        ("Mul", [[1.0], [1.0], [1.0]], {}),
        ("Sub", [1.0], {}),
        ("Transpose", None, {"perm": [1, 0]}),
        ("Cast", None, {"to": 10}),
    ],
)
def test_nodes_that_change_something_stay(builder, op, constant, attributes):
    b = builder()
    y = b.node("Relu", [b.input("x", [1, 3])])
    operands = [y] if constant is None else [y, b.const("c", constant)]
    y = b.node(op, operands, **attributes)
    module = b.module(b.node("Cast", [y], to=1) if op == "Cast" else y)
    run(EliminateIdentities(), module)
    assert op in ops(module)


def test_an_identity_between_input_and_output_stays(builder):
    b = builder()
    module = b.module(b.node("Identity", [b.input("x", [2])]))
    assert not run(EliminateIdentities(), module)
    assert ops(module) == ["Identity"]


def test_constant_nodes_become_constants_with_their_names(builder):
    b = builder()
    tensor = numpy_helper.from_array(np.ones(3, np.float32))
    b.node("Constant", [], "weights", value=tensor)
    b.node("Constant", [], "numbers", value_floats=[1.0, 2.0, 3.0])
    y = b.node("Add", [b.node("Mul", [b.input("x", [2, 3]), "numbers"]), "weights"])
    module = b.module(y)
    assert run(EliminateIdentities(), module)
    assert ops(module) == ["Mul", "Add"]
    assert {value.name for value in module.graph.constants} == {"weights", "numbers"}


def test_equal_nodes_become_one(builder):
    b = builder()
    x = b.input("x", [2, 3])
    first = b.node("Relu", [b.node("Add", [x, b.const("a", 2.0)])])
    second = b.node("Relu", [b.node("Add", [x, b.const("b", 2.0)])])
    third = b.node("Relu", [b.node("Add", [x, b.const("c", 3.0)])])
    module = b.module(b.node("Concat", [first, second, third], axis=1))
    assert run(EliminateCommonSubexpressions(), module)
    assert ops(module) == ["Add", "Relu", "Add", "Relu", "Concat"]


def test_random_nodes_and_attributes_that_differ_are_not_merged(builder):
    b = builder()
    x = b.input("x", [2, 3])
    nodes = [b.node("RandomNormalLike", [x]), b.node("RandomNormalLike", [x])]
    nodes += [b.node("LeakyRelu", [x], alpha=0.1), b.node("LeakyRelu", [x], alpha=0.2)]
    module = b.module(b.node("Concat", nodes, axis=1))
    assert not EliminateCommonSubexpressions().run(module, PassContext())


def test_constants_are_folded_in_chains(builder):
    b = builder()
    c = b.node("Mul", [b.const("a", [1.0, 2.0, 3.0]), b.const("b", 2.0)])
    c = b.node("Reshape", [b.node("Sqrt", [c]), b.ints("s", [3, 1])])
    module = b.module(b.node("MatMul", [b.input("x", [2, 3]), c]))
    assert run(FoldConstants(), module, 1e-6)
    assert ops(module) == ["MatMul"]
    assert len(module.graph.constants) == 1


def test_shapes_that_are_known_are_folded(builder):
    b = builder()
    x = b.input("x", ["n", 3, 4])
    shape = b.node("Shape", [x])
    parts = [
        b.node("Gather", [shape, b.ints("zero", [0])]),
        b.node("Gather", [shape, b.ints("one", [1])]),
        b.ints("minus", [-1]),
    ]
    y = b.node("Reshape", [x, b.node("Concat", parts, axis=0)])
    module = b.module(b.node("Add", [y, b.node("Cast", [b.node("Size", [b.normal("w", 5)])], to=1)]))
    assert run(FoldConstants(), module)
    assert ops(module) == ["Shape", "Gather", "Concat", "Reshape", "Add"]


@pytest.mark.parametrize("kind", [onnx.TensorProto.BOOL, onnx.TensorProto.INT8, onnx.TensorProto.INT32])
def test_numbers_that_a_cast_changes_are_folded_as_they_are(builder, kind):
    b = builder()
    cast = b.node("Cast", [b.node("Cast", [b.ints("n", [2**31 + 5])], to=kind)], to=onnx.TensorProto.INT64)
    module = b.module(b.node("Add", [b.node("Cast", [cast], to=1), b.input("x", [1])]))
    assert run(FoldConstants(), module)
    assert ops(module) == ["Add"]


def test_a_bias_that_is_spread_from_a_number_is_folded(builder):
    b = builder(np.float16)
    x = b.input("x", [2, 3, 4, 4])
    zero = b.node("CastLike", [b.ints("zero", 0), x])
    bias = b.node("Expand", [zero, b.ints("channels", [5])])
    module = b.module(b.node("Conv", [x, b.normal("w", 5, 3, 1, 1), bias], kernel_shape=[1, 1]))
    for node in module.graph:
        if node.op == "Expand":
            node.result.type = TensorType(DType.FLOAT16, (None,))
    assert run(FoldConstants(), module)
    assert ops(module) == ["Conv"]


def test_a_cast_to_the_type_that_is_there_goes(builder):
    b = builder()
    x = b.input("x", [2, 3])
    module = b.module(b.node("Relu", [b.node("CastLike", [b.node("Abs", [x]), x])]))
    assert run(EliminateIdentities(), module)
    assert ops(module) == ["Abs", "Relu"]


def test_a_constant_sequence_is_not_folded(builder):
    b = builder()
    sequence = b.node("SequenceConstruct", [b.const("a", [1.0, 2.0]), b.const("c", [3.0])])
    module = b.module(b.node("Add", [b.input("x", [2]), b.node("SequenceAt", [sequence, b.ints("i", 1)])]))
    run(FoldConstants(), module)
    assert ops(module) == ["SequenceConstruct", "SequenceAt", "Add"]


def test_quantizers_random_numbers_and_outputs_are_not_folded(builder):
    b = builder(opset=13)
    b.constants.append(numpy_helper.from_array(np.ones((3, 3), np.int8), "codes"))
    w = b.node("DequantizeLinear", ["codes", b.const("scale", 0.5)])
    out = b.node("Neg", [b.const("c", [1.0])])
    module = b.module(b.node("MatMul", [b.input("x", [2, 3]), w]), out)
    assert not run(FoldConstants(), module)
    assert ops(module) == ["DequantizeLinear", "Neg", "MatMul"]


def test_what_would_grow_too_large_is_not_folded(builder):
    b = builder()
    w = b.node("Expand", [b.const("c", 1.0), b.ints("s", [1000, 1000])])
    module = b.module(b.node("MatMul", [b.input("x", [1, 1000]), w]))
    context = PassContext()
    assert not run(FoldConstants(), module, context=context)
    assert "larger than" in next(iter(context.reports["fold-constants"].values()))
    assert run(FoldConstants(largest=10**7), module, 1e-6)


def test_inputs_with_defaults_are_frozen_where_no_caller_can_replace_them(builder):
    for ir_version, frozen in ((3, True), (8, False)):
        b = builder(opset=9, ir_version=ir_version)
        y = b.node("MatMul", [b.input("x", [2, 3]), b.normal("w", 3, 4)])
        b.inputs.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [3, 4]))
        module = b.module(y)
        assert run(FreezeInputs(), module) is frozen
        assert len(module.graph.inputs) == (1 if frozen else 2)
        assert [value.name for value in module.graph.constants] == (["w"] if frozen else [])
        assert module.ir_version == (4 if frozen else 8)


def test_a_branch_is_swept_and_what_it_captured_is_freed(builder):
    b = builder()
    x = b.input("x", [2])
    captured = b.node("Relu", [x])
    info = [helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, [2])]
    then = helper.make_graph([helper.make_node("Neg", [captured], ["t"])], "then", [], info)
    other = helper.make_graph([helper.make_node("Abs", [captured], ["t"])], "else", [], info)
    b.constants.append(numpy_helper.from_array(np.array(True), "condition"))
    b.node("If", ["condition"], then_branch=then, else_branch=other)
    module = b.module(b.node("Sigmoid", [x]))
    assert run(EliminateDeadCode(), module)
    assert ops(module) == ["Sigmoid"]
