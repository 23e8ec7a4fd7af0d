"""Bit constraints of seed 000's NPU on LeNet: four decisions, weights follow."""

from __future__ import annotations

import itertools

import pytest

from qir.constraints import OperandRules
from qir.errors import QirError
from qir.fake_quant import FakeQuant, quantizers
from qir.passes import apply_policy
from qir.passes.constraints.propagate_constraints import FIXED, bit_constraints


def test_every_layers_input_is_a_decision_and_its_weight_follows(lenet) -> None:
    _, constraints = lenet
    assert constraints.decisions == ("conv1.input", "conv2.input", "fc1.input", "fc2.input")
    assert all(constraints.options[name] == (2, 4, 8) for name in constraints.decisions)
    assert constraints.implied["conv2.weight"] == ("conv2.input", {2: 1, 4: 4, 8: 8})


def test_there_are_81_policies_and_every_one_obeys_the_pairs(lenet, target) -> None:
    _, constraints = lenet
    legal = target.operand_rules().legal_pairs()
    policies = [
        constraints.complete(dict(zip(constraints.decisions, widths, strict=True)))
        for widths in itertools.product((2, 4, 8), repeat=4)
    ]
    assert len(set(policies)) == 81
    assert all((p[f"{layer}.input"], p[f"{layer}.weight"]) in legal for p in policies for layer in ("conv1", "fc2"))


def test_a_policy_that_names_no_option_is_refused(lenet) -> None:
    _, constraints = lenet
    with pytest.raises(QirError, match=r"conv1.input.*3 bits are not an option"):
        constraints.complete({"conv1.input": 3, "conv2.input": 4, "fc1.input": 4, "fc2.input": 4})


def test_applying_a_policy_writes_bits_without_touching_the_structure(lenet) -> None:
    module, constraints = lenet
    version = module.version
    assert apply_policy(module, constraints.uniform(4))
    assert module.version == version
    assert str(quantizers(module.graph)["fc1.weight"].result.type.element).startswith("quant<s4")
    assert not apply_policy(module, constraints.uniform(4))


def test_an_unknown_quantizer_is_refused_before_anything_is_written(lenet) -> None:
    module, _ = lenet
    before = [FakeQuant(node).bits for node in module.graph.fake_quants()]
    with pytest.raises(QirError, match="'nowhere' does not exist"):
        apply_policy(module, {"conv1.input": 4, "nowhere": 4})
    assert [FakeQuant(node).bits for node in module.graph.fake_quants()] == before


def test_a_conflict_names_quantizer_and_node(lenet) -> None:
    module, _ = lenet
    node = quantizers(module.graph)["conv1.input"]
    node.bits = 2
    node.node.metadata[FIXED] = "fixed by the test"
    rules = OperandRules((2, 4, 8), (1, 4, 8), frozenset({(4, 4), (8, 8)}))
    with pytest.raises(QirError, match=r"no width remains.*conv1"):
        bit_constraints(module, rules)


def test_pair_relations_need_not_be_functions(lenet) -> None:
    module, _ = lenet
    rules = OperandRules((2, 4, 8), (1, 4, 8), frozenset({(2, 1), (4, 1), (4, 4), (8, 4), (8, 8)}))
    constraints = bit_constraints(module, rules)
    assert not constraints.implied
    assert len(constraints.decisions) == 8


def test_explain_says_why_a_width_is_gone(lenet) -> None:
    module, _ = lenet
    rules = OperandRules((2, 4, 8), (1, 4, 8), frozenset({(4, 4), (8, 8)}))
    constraints = bit_constraints(module, rules)
    assert "2 bits" in constraints.explain("conv1.input")
    assert "conv1.weight" in constraints.explain("conv1.input")
