"""Cost models against closed forms, published ratios and each other."""

from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qir.backends import ConvShape, load_target, target_names
from qir.backends.costs.target import Target

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


def _roofline(**parameters: object) -> Target:
    own = {"macs_per_cycle": 128, "efficiency": 0.79, "input_multiple": 8, "output_multiple": 8, "mac_pj": 0.04}
    data = {
        "name": "roofline",
        "weight_widths": (4, 8, 16),
        "activation_widths": (4, 8, 16),
        "memories": [{"name": "memory", "bits_per_cycle": 64}],
        "cost": {"kind": "roofline", "parameters": own | parameters},
    }
    return Target.model_validate(data)


def test_roofline_pads_channels() -> None:
    model = _roofline().cost_model()
    few, eight = (model.layer_cost(ConvShape(c, 16, 8, 8, kernel=(3, 3)), 8, 8).compute_cycles for c in (3, 8))
    assert few == eight == pytest.approx(36 * 9 * 8 * 16 / (128 * 0.79))


def test_roofline_packs_narrow_operands_and_splits_wide_ones() -> None:
    model = _roofline(packing={4: 2.0, 8: 1.0}, launch_cycles=100.0).cost_model()
    shape = ConvShape(64, 64, 8, 8, kernel=(3, 3))
    four, eight, sixteen = (model.layer_cost(shape, bits, bits) for bits in (4, 8, 16))
    assert eight.compute_cycles == 2 * four.compute_cycles
    assert sixteen.compute_cycles == 2 * eight.compute_cycles
    assert eight.cycles == eight.compute_cycles + 100
    assert model.layer_cost(shape, 4, 8).compute_cycles == eight.compute_cycles


@pytest.mark.parametrize(
    ("shape", "cycles"),
    [
        (ConvShape(16, 16, 32, 32, (3, 3), padding=(1, 1)), 16 * 32 * 2 * (3 * 2) * 4),
        (ConvShape(64, 64, 8, 8, (3, 3), padding=(1, 1)), 4 * 8 * 8 * (9 * 2) * 4),
        (ConvShape(32, 32, 8, 8, (3, 3), padding=(1, 1), groups=32), 4 * 8 * 4 * 3 * 4),
        (ConvShape(16, 96, 8, 8), 64 * 96 * 0.5),
        (ConvShape(64, 10, 1, 1, fully_connected=True), 2 * 2 * 32),
    ],
)
def test_micro_blocks_take_the_faster_order(shape: ConvShape, cycles: float) -> None:
    """Kernel first for few channels, depth first for many, four taps a step in depth, results at half an element."""
    cost = load_target("ethos-u55-128-like").cost_model().layer_cost(shape, 8, 8)
    assert cost.compute_cycles == cycles
    assert cost.memory_cycles["flash.weights"] == shape.weights + 10 * shape.out_channels


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


@pytest.mark.parametrize(
    "shape",
    [
        ConvShape(128, 256, 28, 28, (3, 3), (2, 2), (1, 1)),
        ConvShape(12, 12, 28, 28, (5, 5), (1, 1), (2, 2), groups=12),
        ConvShape(3, 64, 112, 112, (7, 7), (2, 2), (3, 3)),
    ],
)
def test_bitfusion_is_not_slower_with_fewer_bits(shape: ConvShape) -> None:
    model = load_target("bitfusion-e").cost_model()
    cycles = [[model.layer_cost(shape, w, a).cycles for a in range(2, 9)] for w in range(2, 9)]
    assert all(low <= high for line in cycles for low, high in pairwise(line))
    assert all(low <= high for line in zip(*cycles, strict=True) for low, high in pairwise(line))


def test_bitfusion_reads_every_window_of_an_image_anew() -> None:
    cost = load_target("bitfusion-e").cost_model().layer_cost(ConvShape(3, 64, 16, 16, (3, 3), (1, 1), (1, 1)), 8, 8)
    assert cost.memory_cycles["dram.inputs"] == 16 * 16 * 27 * 8 / 192


@pytest.mark.parametrize("name", target_names())
@settings(max_examples=15, deadline=None)
@given(shape=SHAPES)
def test_costs_are_positive_and_at_least_their_parts(name: str, shape: ConvShape) -> None:
    target = load_target(name)
    if target.cost.kind in ("delay-table", "bits"):
        return
    pair = max(target.operand_rules().legal_pairs())
    cost = target.cost_model().layer_cost(shape, weight_bits=pair[1], activation_bits=pair[0])
    assert cost.cycles >= cost.compute_cycles > 0
    assert cost.energy_pj > 0
    assert cost.total_bytes >= ceil(shape.weights * pair[1] / 8)
    assert cost.bit_operations == shape.macs * pair[0] * pair[1]


def test_stripes_runs_the_widths_that_releq_finds_for_lenet_faster_than_those_of_admm():
    """Table 4 and figure 9 of ReLeQ: 1.86x in time over 5, 3, 2, 3 bits, and more than fetching weights would allow."""
    layers = [(1, 20, 28, 5, False), (20, 50, 12, 5, False), (800, 500, 1, 1, True), (500, 10, 1, 1, True)]
    model = load_target("stripes-serial-weights").cost_model()

    def total(widths):
        costs = [
            model.layer_cost(
                ConvShape(
                    in_channels=inputs,
                    out_channels=outputs,
                    height=size,
                    width=size,
                    kernel=(kernel, kernel),
                    stride=(1, 1),
                    padding=(0, 0),
                    groups=1,
                    batch=1,
                    fully_connected=dense,
                ),
                weight_bits=bits,
                activation_bits=8,
            )
            for (inputs, outputs, size, kernel, dense), bits in zip(layers, widths, strict=True)
        ]
        return np.array([sum(cost.cycles for cost in costs), sum(cost.energy_pj for cost in costs)])

    releq = total((2, 2, 3, 2))
    assert (total((5, 3, 2, 3)) / releq > 1.3).all()
    assert (total((8, 8, 8, 8)) / releq > 3.4).all()
