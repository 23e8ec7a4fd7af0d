"""Folding the constants of a damaged file ends, and never takes more than its limits."""

import numpy as np
import pytest
from onnx import helper, numpy_helper

import qir
from qir.errors import PassError
from qir.passes.infrastructure.contract import PassContext
from qir.passes.simplify.fold import constants as fold_constants
from qir.passes.simplify.fold.constants import FoldConstants


def module_of(nodes, constants, inputs=()):
    graph = helper.make_graph(
        [*nodes, helper.make_node("Identity", ["k"], ["y"])],
        "g",
        [helper.make_tensor_value_info(name, kind, [1]) for name, kind in inputs],
        [helper.make_tensor_value_info("y", kind_of(constants), None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return qir.load(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    )


def kind_of(constants):
    return helper.np_dtype_to_tensor_dtype(next(iter(constants.values())).dtype)


@pytest.mark.parametrize("op", ["Div", "Mod"])
@pytest.mark.parametrize(
    ("dividend", "divisor", "named"),
    [
        (np.int64([-(2**63)]), np.int64([-1]), "divides -9223372036854775808 by -1"),
        (np.int32([-(2**31)]), np.int32([-1]), "divides -2147483648 by -1"),
        (np.int64([7]), np.int64([0]), "divides integers by 0"),
        (np.int8(np.arange(-128, 128)), np.int8([-1] * 256), "divides -128 by -1"),
        (np.full(5000, -(2**63)), np.full(5000, -1), "divides -9223372036854775808 by -1"),
    ],
)
def test_a_division_without_result_is_refused_by_name(op, dividend, divisor, named):
    module = module_of([helper.make_node(op, ["a", "b"], ["k"], name="damaged")], {"a": dividend, "b": divisor})
    with pytest.raises(PassError, match=named) as caught:
        FoldConstants().run(module, PassContext())
    assert "%k" in str(caught.value)


def test_other_divisions_are_folded():
    module = module_of([helper.make_node("Div", ["a", "b"], ["k"])], {"a": np.int64([-7, 9]), "b": np.int64([2, -1])})
    assert FoldConstants().run(module, PassContext())
    assert module.graph.constants[-1].constant.numpy().tolist() == [-3, -9]


def test_a_division_by_zero_of_an_input_is_refused_when_the_network_is_verified():
    node = helper.make_node("Div", ["x", "b"], ["k"], name="damaged")
    module = module_of([node], {"b": np.int64([0])}, inputs=[("x", 7)])
    with pytest.raises(qir.QirError, match="divides integers by 0"):
        qir.verify(module)


@pytest.mark.named_nodes
@pytest.mark.parametrize(
    ("op", "attributes"), [("Add", {}), ("Where", {}), ("MatMul", {}), ("Einsum", {"equation": "ab,bc->ac"})]
)
def test_an_outer_product_of_gigabytes_stays(op, attributes):
    long = np.ones(50_000, np.float32)
    constants = {"a": long[:, None], "b": long[None]}
    operands = ["a", "b"]
    if op == "Where":
        constants, operands = {**constants, "c": np.ones((1, 1), bool)}, ["c", "a", "b"]
    module = module_of([helper.make_node(op, operands, ["k"], **attributes)], constants)
    context = PassContext()
    assert not FoldConstants().run(module, context)
    assert "larger" in context.reports["fold-constants"]["k"]


def test_constants_grow_to_a_limit(monkeypatch):
    monkeypatch.setattr(fold_constants, "LARGEST_GROWTH", 3 << 20)
    nodes = [helper.make_node("ConstantOfShape", ["s"], [f"k{i}"]) for i in range(8)]
    nodes.append(helper.make_node("Sum", ["a", *(f"k{i}" for i in range(8))], ["k"]))
    module = module_of(nodes, {"a": np.zeros(1, np.float32), "s": np.int64([200_000])})
    context = PassContext()
    FoldConstants().run(module, context)
    assert "grown" in str(context.reports["fold-constants"])
    assert sum(4 * value.constant.size for value in module.graph.constants) < 6 << 20


def test_work_on_constants_has_a_limit(monkeypatch):
    monkeypatch.setattr(fold_constants, "LARGEST_WORK", 10**7)
    nodes = [helper.make_node("Conv", ["a", "b"], [f"k{i}"]) for i in range(8)]
    nodes.append(helper.make_node("Sum", [f"k{i}" for i in range(8)], ["k"]))
    constants = {"a": np.ones((1, 1, 3000), np.float32), "b": np.ones((1, 1, 1001), np.float32)}
    module = module_of(nodes, constants)
    context = PassContext()
    FoldConstants().run(module, context)
    kept = context.reports["fold-constants"]
    assert [reason for reason in kept.values() if "too much work" in reason]
    assert len([node for node in module.graph if node.op == "Conv"]) == 4
