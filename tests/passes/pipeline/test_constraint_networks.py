"""Bit constraints on networks with shared tensors, residual additions, concatenations, groups and no solution."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from qir.constraints import OperandRules
from qir.errors import QirError
from qir.fake_quant import FakeQuant
from qir.onnx_io import from_proto
from qir.passes import PassContext, bit_constraints, find_pass
from qir.passes.constraints.propagate_constraints import FIXED

PAIRS = frozenset({(2, 1), (4, 4), (8, 8)})
RULES = OperandRules((2, 4, 8), (1, 4, 8), PAIRS)


def network(nodes: list, weights: dict[str, tuple[int, ...]]):
    """Convolutions and what joins them over an image of 4 channels; output `y`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(shape, np.float32), f"{name}.weight") for name, shape in weights.items()],
    )
    module = from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    find_pass("insert-fake-quant")(
        weight_widths="1|4|8", activation_widths="2|4|8", input_widths="all", placement="qag"
    ).run(module, PassContext())
    return module


def conv(name: str, source: str, result: str, **attributes):
    return helper.make_node("Conv", [source, f"{name}.weight"], [result], name=name, **attributes)


def policies(constraints):
    for widths in itertools.product(*(constraints.options[name] for name in constraints.decisions)):
        try:
            yield constraints.complete(dict(zip(constraints.decisions, widths, strict=True)))
        except QirError:
            continue


def test_a_tensor_that_two_layers_read_ties_their_weights() -> None:
    module = network(
        [conv("a", "x", "p"), conv("b", "x", "q"), helper.make_node("Add", ["p", "q"], ["y"])],
        {"a": (4, 4, 1, 1), "b": (4, 4, 1, 1)},
    )
    constraints = bit_constraints(module, RULES)
    assert constraints.decisions == ("a.input",)
    assert {p["a.weight"] for p in policies(constraints)} == {1, 4, 8}
    assert all(p["a.weight"] == p["b.weight"] for p in policies(constraints))


def test_a_weight_that_two_layers_share_ties_their_inputs() -> None:
    module = network(
        [conv("a", "x", "p"), helper.make_node("Conv", ["p", "a.weight"], ["y"], name="again")], {"a": (4, 4, 1, 1)}
    )
    constraints = bit_constraints(module, RULES)
    assert len(constraints.decisions) == 1
    for policy in policies(constraints):
        inputs = {bits for name, bits in policy.items() if not name.endswith(".weight")}
        assert len(inputs) == 1
        assert (inputs.pop(), policy["a.weight"]) in PAIRS


def test_a_tensor_after_max_pooling_and_reshape_is_still_the_same() -> None:
    module = network(
        [
            conv("a", "x", "p"),
            helper.make_node("Relu", ["p"], ["r"]),
            helper.make_node("MaxPool", ["r"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
            conv("b", "m", "q"),
            conv("c", "r", "s", strides=[2, 2]),
            helper.make_node("Add", ["q", "s"], ["y"]),
        ],
        {"a": (4, 4, 1, 1), "b": (4, 4, 1, 1), "c": (4, 4, 1, 1)},
    )
    constraints = bit_constraints(module, RULES)
    assert len(constraints.decisions) == 2
    assert all(p["b.weight"] == p["c.weight"] for p in policies(constraints))


@pytest.mark.named_nodes
def test_a_concatenation_without_a_quantizer_ties_its_operands() -> None:
    module = network(
        [
            conv("a", "x", "p"),
            conv("b", "x", "q"),
            conv("d", "p", "s"),
            conv("e", "q", "t"),
            helper.make_node("Concat", ["p", "q"], ["y"], axis=1),
            helper.make_node("Add", ["s", "t"], ["unused"]),
        ],
        dict.fromkeys("abde", (4, 4, 1, 1)),
    )
    constraints = bit_constraints(module, RULES)
    first, second = ("d.input", "e.input")
    assert all(p[first] == p[second] for p in policies(constraints))
    assert "y" in constraints.explain(second) or "Concat" in constraints.explain(second)


@pytest.mark.named_nodes
def test_grouped_convolutions_obey_the_pairs_of_their_operator() -> None:
    rules = OperandRules((2, 4, 8), (1, 4, 8), PAIRS, {"Conv": frozenset({(8, 8), (8, 4), (4, 4)})})
    module = network([conv("a", "x", "y", group=4)], {"a": (4, 1, 1, 1)})
    constraints = bit_constraints(module, rules)
    assert constraints.decisions == ("a.input", "a.weight")
    assert constraints.options["a.input"] == (4, 8)
    assert "2 bits: node 'a' has no legal pair" in constraints.explain("a.input")


def test_pairs_that_are_not_function_stay_a_relation() -> None:
    rules = OperandRules((2, 4, 8), (1, 4, 8), frozenset({(2, 1), (4, 1), (4, 4), (8, 4), (8, 8)}))
    constraints = bit_constraints(network([conv("a", "x", "y")], {"a": (4, 4, 1, 1)}), rules)
    assert constraints.decisions == ("a.input", "a.weight")
    (relation,) = constraints.relations
    assert relation.allowed == rules.pairs


@pytest.mark.named_nodes
def test_a_conflict_shows_its_path() -> None:
    """x is fixed at 2 bits, so a's weight has 1; b reads the same weight, and its own input is fixed at 8 bits."""
    module = network(
        [
            conv("a", "x", "p"),
            helper.make_node("Relu", ["p"], ["r"]),
            helper.make_node("Conv", ["r", "a.weight"], ["y"], name="b"),
        ],
        {"a": (4, 4, 1, 1)},
    )
    for node, bits in zip(
        [n for n in module.graph.fake_quants() if not n.name.endswith(".weight")], (2, 8), strict=True
    ):
        FakeQuant(node).bits = bits
        node.metadata[FIXED] = f"fixed at {bits} by the test"
    with pytest.raises(QirError) as raised:
        bit_constraints(module, RULES)
    text = str(raised.value)
    assert "no width remains" in text
    assert "conflicting path" in text
    for part in ("← a ←", "a.weight", "fixed at 2 by the test", "fixed at 8 by the test", "b"):
        assert part in text
