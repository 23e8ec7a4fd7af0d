"""Where the three placements put quantizers, and rules that keep widths."""

from __future__ import annotations

import pytest

from qir.errors import QirError
from qir.fake_quant import quantizers
from qir.passes.constraints.propagate_constraints import FIXED


def places(module) -> dict[str, tuple[str, list[str]]]:
    """Activation quantizers: name → (operator that computes the value, operators that read it)."""
    return {
        name: (
            node.source.producer.op if node.source.producer else "input",
            sorted(user.op for user in node.result.users),
        )
        for name, node in quantizers(module.graph).items()
        if not name.endswith(".weight")
    }


LENET = {
    "deployable": {
        "conv1.input": ("input", ["Conv"]),
        "conv2.input": ("Relu", ["MaxPool"]),
        "fc1.input": ("Relu", ["MaxPool"]),
        "fc2.input": ("Relu", ["Gemm"]),
        "fc2.output": ("Gemm", ["return"]),
    },
    "qag": {
        "conv1.input": ("input", ["Conv"]),
        "conv2.input": ("Relu", ["MaxPool"]),
        "fc1.input": ("Relu", ["MaxPool"]),
        "fc2.input": ("Relu", ["Gemm"]),
    },
    "outputs": {
        "conv1.input": ("input", ["Conv"]),
        "conv1.output": ("Relu", ["MaxPool"]),
        "conv2.output": ("Relu", ["MaxPool"]),
        "fc1.output": ("Relu", ["Gemm"]),
        "fc2.output": ("Gemm", ["return"]),
    },
}


@pytest.mark.parametrize("placement", LENET)
def test_where_quantizers_of_lenet_are(inserted, placement: str) -> None:
    assert places(inserted("lenet", f"placement={placement}")) == LENET[placement]


@pytest.mark.parametrize(("network", "layers"), [("lenet", 4), ("residual", 10)])
@pytest.mark.parametrize("placement", LENET)
def test_every_layer_has_one_weight_quantizer(inserted, placement: str, network: str, layers: int) -> None:
    names = quantizers(inserted(network, f"placement={placement}").graph)
    assert sum(name.endswith(".weight") for name in names) == layers


@pytest.mark.named_nodes
def test_deployable_quantizes_both_operands_and_the_result_of_additions(inserted) -> None:
    module = inserted("residual")
    additions = [node for node in module.graph if node.op == "Add"]
    assert len(additions) == 3
    for node in additions:
        assert all(value.producer is not None and value.producer.is_fake_quant for value in node.operands)
    found = places(module)
    assert found["/blocks/blocks.0/Add.input0"] == ("Conv", ["Add"])
    assert found["blocks.0.conv1.input"] == ("Relu", ["Add", "Conv"])
    assert found["/blocks/blocks.0/Add.output"] == ("Relu", ["Conv", "Conv"])


@pytest.mark.named_nodes
def test_deployable_quantizes_what_average_pooling_reads_and_gives(inserted) -> None:
    found = places(inserted("residual"))
    assert found["/blocks/blocks.2/Add.output"] == ("Relu", ["GlobalAveragePool"])
    assert found["fc.input"] == ("GlobalAveragePool", ["Flatten"])


def test_qag_leaves_additions_and_pooling_in_float(inserted) -> None:
    found = places(inserted("residual", "placement=qag"))
    assert not any("Add" in name or name.endswith(".output") for name in found)
    assert found["blocks.1.conv1.input"] == ("Relu", ["Conv", "Conv"])
    assert [name for name, (_, users) in found.items() if "Add" in users] == ["blocks.0.conv1.input"]


def test_outputs_quantizes_the_result_of_every_layer(inserted) -> None:
    module = inserted("residual", "placement=outputs")
    found, names = places(module), quantizers(module.graph)
    layers = {name.removesuffix(".weight") for name in names if name.endswith(".weight")}
    assert {name.removesuffix(".output") for name in found if name.endswith(".output")} == layers


def test_a_value_that_two_layers_read_has_one_quantizer(inserted) -> None:
    for placement in LENET:
        values = [node.operands[0] for node in inserted("residual", f"placement={placement}").graph.fake_quants()]
        assert len(values) == len(set(values))


def test_rules_keep_widths_by_name_and_by_operator(inserted) -> None:
    module = inserted("lenet", r"weight_widths=2|4|8,keep=[Gemm:8,fc1\.weight:4]")
    found = {name: (node.widths, node.node.metadata.get(FIXED)) for name, node in quantizers(module.graph).items()}
    assert found["fc1.weight"] == ((4,), r"the rule 'fc1\\.weight:4' keeps it at 4 bits")
    assert found["fc2.weight"] == found["fc1.input"] == ((8,), "the rule 'Gemm:8' keeps it at 8 bits")
    assert found["conv1.weight"] == ((2, 4, 8), None)


@pytest.mark.parametrize(
    ("rule", "message"),
    [("fc", "pattern:width"), ("fc:x", "pattern:width"), ("fc:64", "pattern:width"), ("*:8", "pattern:width")],
)
def test_a_wrong_rule_is_named(inserted, rule: str, message: str) -> None:
    with pytest.raises(QirError, match=message):
        inserted("lenet", f"keep=[{rule}]")


def test_a_rule_that_matches_nothing_is_named(inserted) -> None:
    with pytest.raises(QirError, match=r"'LSTM:8' matches no operator and no quantizer; these are conv1\.input"):
        inserted("lenet", "keep=[LSTM:8]")
