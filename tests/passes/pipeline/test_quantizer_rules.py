"""What a target asks of the insertion of quantizers, and what the pass's options change."""

from __future__ import annotations

import pytest

import qir.models
from qir.backends import load_target
from qir.backends.costs.target import QuantizeSpec
from qir.errors import QirError
from qir.fake_quant import quantizers
from qir.passes import PassContext, PassManager, bit_constraints, parse_pipeline
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.search import load_network


def inserted(network: str, options: str = "", reports=None, **wish):
    target = load_target("npu-148").model_copy(update={"quantize": QuantizeSpec(**wish)})
    module = load_network(qir.models.path(network))
    context = PassContext(target=target, reports=reports)
    PassManager(parse_pipeline(f"{SIMPLIFY},insert-fake-quant{{{options}}}")).run(module, context)
    return module, target


def test_a_target_keeps_first_and_last_layer_at_a_width() -> None:
    module, target = inserted("lenet", "input_widths=all", first_last=8)
    constraints = bit_constraints(module, target.operand_rules())
    assert constraints.decisions == ("conv2.input", "fc1.input")
    assert constraints.options["conv1.weight"] == constraints.options["fc2.weight"] == (8,)
    assert "first and last layer are kept at 8 bits" in constraints.explain("fc2.input")


def test_the_option_wins_over_the_target() -> None:
    module, _ = inserted("lenet", "input_widths=all,first_last=4", first_last=8)
    assert quantizers(module.graph)["fc2.weight"].widths == (4,)


def test_rules_of_target_and_option_add_up_and_the_option_comes_last() -> None:
    module, _ = inserted("lenet", r"keep=[fc1\.weight:1]", keep=("Gemm:8", "LSTM:8"))
    found = {name: node.widths for name, node in quantizers(module.graph).items()}
    assert found["fc1.weight"] == (1,)
    assert found["fc2.weight"] == found["fc1.input"] == (8,)
    assert found["conv2.weight"] == (1, 4, 8)


@pytest.mark.named_nodes
@pytest.mark.parametrize("wish", [{"exclude": ("Gemm",)}, {"exclude": ("fc",)}])
def test_a_target_excludes_operators_and_names(wish) -> None:
    left = {}
    module, _ = inserted("lenet", "", left, **wish)
    assert not any(name.startswith("fc") for name in quantizers(module.graph) if name.endswith(".weight"))
    assert set(left["insert-fake-quant"].values()) == {"a rule excludes it"}


def test_an_excluded_pattern_that_is_none_is_named() -> None:
    with pytest.raises(QirError, match=r"exclude '\*' is not a regular expression"):
        inserted("lenet", "exclude=*")


def test_a_target_says_which_operators_are_quantized_next_tos_the_layers() -> None:
    plain, _ = inserted("residual")
    none, _ = inserted("residual", ops=())
    relu, _ = inserted("residual", ops=("Relu", "Add"))
    add = next(node.name for node in plain.graph if node.op == "Add")
    assert f"{add}.input0" in quantizers(plain.graph)
    assert not any("Add" in name for name in quantizers(none.graph))
    layered = set(quantizers(none.graph))
    assert f"{add}.input0" in quantizers(relu.graph)
    assert len(quantizers(relu.graph)) > len(layered)


def test_operands_of_additions_tie_where_the_target_asks() -> None:
    module, target = inserted("residual", "input_widths=all")
    free = bit_constraints(module, target.operand_rules())
    tied = bit_constraints(module, target.model_copy(update={"add_requires_equal": True}).operand_rules())
    assert len(tied.decisions) < len(free.decisions)
    policy = tied.uniform(4)
    for node in module.graph:
        if node.op == "Add":
            first, second = (value.producer.name for value in node.operands)
            assert policy[first] == policy[second]
    other = next(name for name in tied.implied if "Add" in name or ".input" in name)
    assert "allows" in tied.explain(other)


def test_the_output_is_not_decision_unless_it_is_asked_for() -> None:
    fixed, target = inserted("lenet", "placement=outputs")
    open_, _ = inserted("lenet", "placement=outputs,output_widths=all")
    rules = target.operand_rules()
    assert bit_constraints(fixed, rules).options["fc2.output"] == (8,)
    assert bit_constraints(open_, rules).options["fc2.output"] == (2, 4, 8)


def test_weights_and_activations_have_the_scheme_that_is_asked_for() -> None:
    module, _ = inserted("lenet", "weight_scheme=uniform-asymmetric,activation_scheme=power-of-two")
    found = quantizers(module.graph)
    assert found["fc1.weight"].scheme_name(4) == "uniform-asymmetric"
    assert found["fc1.input"].scheme_name(4) == "power-of-two"
    with pytest.raises(QirError, match="did you mean"):
        inserted("lenet", "weight_scheme=unifrom")


def test_widths_that_are_floats_on_the_target_are_not_candidates() -> None:
    module = load_network(qir.models.path("lenet"))
    context = PassContext(target=load_target("cpu-onnxruntime"))
    PassManager(parse_pipeline(f"{SIMPLIFY},insert-fake-quant")).run(module, context)
    assert {node.widths for node in quantizers(module.graph).values()} == {(8,)}
    with pytest.raises(QirError, match=r"'binary' has the widths \[1\]"):
        inserted("lenet", "weight_scheme=binary,weight_widths=4")
