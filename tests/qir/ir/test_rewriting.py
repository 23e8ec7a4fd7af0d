import time

import numpy as np
import pytest

import qir
from qir.graph import Graph, Node
from qir.rewriting.engine import (
    RULE_KEY,
    Reject,
    Rule,
    any_value,
    constant,
    either,
    explain,
    number,
    op,
    rewrite,
    through,
)
from qir.tensor import Tensor

RELU_TWICE = Rule(
    "relu-of-relu",
    op("Relu", op("Relu", any_value("x"))),
    lambda match, rewriter: rewriter.replace(match.root, [Node("Relu", [match["x"]])]),
)


def chain(length):
    graph = Graph("main")
    value = graph.add_input("x")
    for _ in range(length):
        value = graph.insert(Node("Relu", [value])).result
    graph.set_outputs([value], ["y"])
    return qir.Module(graph)


def test_rewrites_to_the_fixed_point_and_keeps_outputs():
    module = chain(5)
    assert rewrite(module.graph, [RELU_TWICE]) == {"relu-of-relu": 4}
    qir.verify(module)
    (node,) = module.graph
    assert node.metadata[RULE_KEY] == "relu-of-relu"
    assert module.graph.output_names == ("y",)


def test_explains_where_the_deepest_match_stopped():
    module = chain(1)
    (node,) = module.graph
    found = explain(RELU_TWICE, node)
    assert not found.matched
    assert found.depth == 1
    assert "first result of Relu" in found.reason


def test_check_rejects_with_a_reason():
    rule = Rule("never", op("Relu"), lambda match, rewriter: None, check=lambda match: Reject("not today"))
    (node,) = chain(1).graph
    assert explain(rule, node).reason == "not today"
    assert rewrite(node.graph, [rule]) == {}


def plan_first(match):
    if match.root.inputs[0].producer is not None:
        return Reject("it is not the first")
    return lambda rewriter: rewriter.replace(match.root, [Node("Abs", match.root.inputs)])


def test_a_plan_checks_and_rewrites_in_one():
    rule = Rule("first-to-abs", op("Relu"), plan=plan_first, since=9)
    module = chain(3)
    assert explain(rule, module.graph.nodes[1]).reason == "it is not the first"
    assert explain(rule, module.graph.nodes[0]).matched
    assert rewrite(module.graph, [rule], opset=8) == {}
    assert rewrite(module.graph, [rule], opset=9) == {"first-to-abs": 1}
    assert [node.op for node in module.graph] == ["Abs", "Relu", "Relu"]


def test_a_rule_has_either_a_rewrite_or_a_plan():
    for given in ({}, {"plan": plan_first, "rewrite": lambda match, rewriter: None}):
        with pytest.raises(qir.QirError, match="either"):
            Rule("both", op("Relu"), **given)


def test_rules_that_never_end_are_stopped():
    rule = Rule(
        "again", op("Relu"), lambda match, rewriter: rewriter.replace(match.root, [Node("Relu", match.root.inputs)])
    )
    with pytest.raises(qir.QirError, match="undo one another"):
        rewrite(chain(2).graph, [rule])


def test_commuting_operands_and_constants():
    graph = Graph("main")
    x = graph.add_input("x")
    zero = graph.add_constant("zero", Tensor.of(np.zeros(1, np.float32)))
    node = graph.insert(Node("Add", [zero, x]))
    last = graph.insert(Node("Relu", [node.result]))
    graph.set_outputs([last.result])
    rule = Rule(
        "add-zero",
        op("Add", any_value("x"), constant("c"), commutes=True),
        lambda match, rewriter: rewriter.replace(match.root, [], [match["x"]]),
    )
    assert rewrite(graph, [rule]) == {"add-zero": 1}
    assert last.inputs == (x,)


X = any_value("x")
HALF = either(op("Div", X, number(2.0)), op("Mul", X, number(0.5), commutes=True))


def to_abs(match, rewriter):
    rewriter.replace(match.root, [Node("Abs", [match["x"]])])


@pytest.mark.parametrize(
    ("kind", "value", "flip", "found"),
    [
        ("Div", 2.0, False, "Abs"),
        ("Div", 2.0, True, "Div"),
        ("Mul", 0.5, True, "Abs"),
        ("Mul", 0.5000001, False, "Abs"),
        ("Mul", 0.51, False, "Mul"),
    ],
)
def test_a_pattern_names_numbers_and_alternatives(kind, value, flip, found):
    graph = Graph("main")
    operands = [graph.add_input("x"), graph.add_constant("c", Tensor.of(np.float32([value])))]
    node = graph.insert(Node(kind, operands[::-1] if flip else operands))
    graph.set_outputs([node.result])
    rewrite(graph, [Rule("half", HALF, to_abs)])
    assert [node.op for node in graph] == [found]
    assert [value.name for value in graph.constants] == ([] if found == "Abs" else ["c"])


def test_a_pattern_names_attributes_and_leaves_later_operands_open():
    graph = Graph("main")
    x, low = graph.add_input("x"), graph.add_constant("low", Tensor.of(np.float32(0)))
    gate = graph.insert(Node("HardSigmoid", [x], attributes={"alpha": 1 / 6}))
    other = graph.insert(Node("HardSigmoid", [x], attributes={"alpha": 0.2}))
    made = [graph.insert(Node("Clip", [node.result, low])).result for node in (gate, other)]
    graph.set_outputs(made)
    pattern = op("Clip", op("HardSigmoid", X, attributes={"alpha": 1 / 6}), ...)
    assert rewrite(graph, [Rule("gate", pattern, to_abs)]) == {"gate": 1}
    rule = Rule("gate", pattern, to_abs)
    assert "alpha=0.2" in explain(rule, made[1].producer).reason


def test_a_chain_matches_up_to_its_length():
    ends = op("Neg", through(lambda value: op("Relu", value), op("Abs", X), most=3))
    for length, found in ((0, 1), (3, 1), (4, 0)):
        graph = Graph("main")
        value = graph.insert(Node("Abs", [graph.add_input("x")])).result
        for _ in range(length):
            value = graph.insert(Node("Relu", [value])).result
        graph.set_outputs([graph.insert(Node("Neg", [value])).result])
        assert sum(rewrite(graph, [Rule("ends", ends, to_abs)]).values()) == found


def test_a_change_far_below_a_root_makes_it_match():
    """The root is looked at first, and rejected; it matches once the op three steps below it has changed."""
    graph = Graph("main")
    value = graph.add_input("x")
    for kind in ("Sigmoid", "Relu", "Relu", "Neg"):
        value = graph.insert(Node(kind, [value])).result
    graph.set_outputs([value])
    deep = Rule("deep", op("Neg", op("Relu", op("Relu", op("Tanh", X)))), to_abs)
    sigmoid = Rule("to-tanh", op("Sigmoid", X), lambda m, r: r.replace(m.root, [Node("Tanh", [m["x"]])]))
    late = Rule("late", op("Relu", op("Relu", X)), lambda m, r: None, check=lambda match: Reject("never"))
    assert rewrite(graph, [late, deep, sigmoid]) == {"to-tanh": 1, "deep": 1}
    assert [node.op for node in graph] == ["Abs"]


def test_a_value_that_loses_its_other_use_matches():
    graph = Graph("main")
    shared = graph.insert(Node("Relu", [graph.add_input("x")])).result
    used = graph.insert(Node("Neg", [shared])).result
    gone = graph.insert(Node("Exp", [shared])).result
    graph.set_outputs([used, graph.insert(Node("Log", [gone])).result])
    zero = graph.add_constant("zero", Tensor.of(np.zeros(1, np.float32)))
    alone = Rule("alone", op("Neg", op("Relu", X, only_use=True)), to_abs)
    drop = Rule("drop", op("Log", op("Exp", X)), lambda m, r: r.replace(m.root, [Node("Identity", [zero])]))
    assert rewrite(graph, [alone, drop]) == {"drop": 1, "alone": 1}


def test_a_reason_names_the_value_it_is_about():
    rule = Rule("never", op("Relu", X), to_abs, check=lambda match: Reject("it is an input", match["x"]))
    (node,) = chain(1).graph
    assert explain(rule, node).where is node.inputs[0]


def test_a_pattern_lies_in_one_graph():
    outer, inner = Graph("main"), Graph("branch")
    x, condition = outer.add_input("x"), outer.add_input("c")
    relu = outer.insert(Node("Relu", [x]))
    inside = inner.insert(Node("Relu", [relu.result]))
    inner.set_outputs([inside.result], ["b"])
    other = Graph("other")
    other.set_outputs([relu.result], ["b"])
    made = outer.insert(Node("If", [condition], attributes={"then_branch": inner, "else_branch": other}))
    outer.set_outputs([made.result], ["y"])
    assert rewrite(outer, [RELU_TWICE]) == {}
    assert "the graph around" in explain(RELU_TWICE, inside).reason


@pytest.mark.slow
def test_ten_thousand_rewrites_are_fast():
    module = chain(10_001)
    start = time.perf_counter()
    rewrite(module.graph, [RELU_TWICE])
    assert time.perf_counter() - start < 2
