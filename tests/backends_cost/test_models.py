"""Cost models against closed forms, published ratios and each other."""

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qir.backends import ConvShape, load_target, target_names

SHAPES = st.builds(
    lambda c, n, h, w, k, s, b: ConvShape(c, n, h, w, (k, k), (s, s), (k // 2, k // 2), batch=b),
    *(st.integers(1, 40), st.integers(1, 40), st.integers(3, 20), st.integers(3, 20)),
    *(st.sampled_from([1, 3]), st.integers(1, 2), st.integers(1, 2)),
)


@pytest.mark.parametrize(
    ("dataflow", "cycles"),
    [("output", 13 * 2 * (72 + 30) - 1), ("weight", 5 * 2 * (196 + 46) - 1), ("input", 5 * 13 * (24 + 46) - 1)],
)
def test_closed_forms_of_the_dataflows(dataflow: str, cycles: int) -> None:
    target = load_target("systolic-16x16")
    parameters = target.cost.parameters | {"dataflow": dataflow, "packed": False}
    target = target.model_copy(update={"cost": target.cost.model_copy(update={"parameters": parameters})})
    shape = ConvShape(8, 24, 16, 16, kernel=(3, 3))
    assert target.cost_model().layer_cost(shape, 8, 8).compute_cycles == cycles


def test_stripes_gains_with_the_serial_operand_only() -> None:
    model = load_target("stripes").cost_model()
    shape = ConvShape(64, 256, 14, 14, kernel=(3, 3), padding=(1, 1))
    sixteen, eight = (model.layer_cost(shape, 8, a).compute_cycles for a in (16, 8))
    assert sixteen == 2 * eight
    assert model.layer_cost(shape, 2, 8).compute_cycles == eight


def test_loom_gains_with_both_operands() -> None:
    model = load_target("loom").cost_model()
    shape = ConvShape(64, 256, 14, 14)
    assert model.layer_cost(shape, 8, 8).compute_cycles == 4 * model.layer_cost(shape, 4, 4).compute_cycles


def test_roofline_pads_channels() -> None:
    model = load_target("ethos-u55-128-like").cost_model()
    few, eight = (model.layer_cost(ConvShape(c, 16, 8, 8, kernel=(3, 3)), 8, 8).compute_cycles for c in (3, 8))
    assert few == eight == pytest.approx(36 * 9 * 8 * 16 / (128 * 0.79))


def test_bitfusion_schedule_of_a_pointwise_layer() -> None:
    """31096 cycles: results 29792 (written and read back), inputs 392, weights 912, at 192 bits a cycle."""
    cost = load_target("bitfusion-e").cost_model().layer_cost(ConvShape(96, 456, 14, 14), 4, 4)
    assert cost.cycles == 31096
    assert cost.memory_cycles == {"dram.weights": 912, "dram.inputs": 392, "dram.outputs": 29792}
    assert cost.bound_by == "dram.outputs"


def test_bitfusion_computes_odd_widths_at_the_next_brick() -> None:
    model = load_target("bitfusion-e").cost_model()
    shape = ConvShape(64, 64, 14, 14, kernel=(3, 3), padding=(1, 1))
    five, eight = model.layer_cost(shape, 5, 5), model.layer_cost(shape, 8, 8)
    assert five.compute_cycles == eight.compute_cycles
    assert five.total_bytes < eight.total_bytes


@pytest.mark.parametrize("name", target_names())
@settings(max_examples=15, deadline=None)
@given(shape=SHAPES)
def test_costs_are_positive_and_at_least_their_parts(name: str, shape: ConvShape) -> None:
    target = load_target(name)
    if target.cost.kind == "delay-table":
        return
    pair = max(target.operand_rules().legal_pairs())
    cost = target.cost_model().layer_cost(shape, weight_bits=pair[1], activation_bits=pair[0])
    assert cost.cycles >= cost.compute_cycles > 0
    assert cost.energy_pj > 0
    assert cost.total_bytes >= ceil(shape.weights * pair[1] / 8)
    assert cost.bit_operations == shape.macs * pair[0] * pair[1]
