import time

import numpy as np
import pytest

import qir
from qir.graph import Graph, Node
from qir.rewriting.engine import RULE_KEY, Reject, Rule, any_value, constant, explain, op, rewrite
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


@pytest.mark.slow
def test_ten_thousand_rewrites_are_fast():
    module = chain(10_001)
    start = time.perf_counter()
    rewrite(module.graph, [RELU_TWICE])
    assert time.perf_counter() - start < 2
