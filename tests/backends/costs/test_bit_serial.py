"""The bit-serial model follows its closed form."""

import pytest

from qir.backends import ConvShape, load_target


def test_closed_form_of_a_pointwise_layer() -> None:
    cost = load_target("npu-148").cost_model().layer_cost(ConvShape(96, 456, 14, 14), weight_bits=4, activation_bits=4)
    assert cost.compute_cycles == 13 * 29 * 1 * 16
    assert cost.memory_cycles == {"dram.weights": 456 * 4, "dram.activations": 196 * 4}
    assert cost.cycles == cost.compute_cycles + 456 * 4 / 2
    assert cost.bound_by == "compute"
    assert cost.bit_operations == 196 * 456 * 96 * 16


def test_weights_of_a_convolution_are_fetched_once_an_image() -> None:
    model = load_target("npu-148").cost_model()
    one, many = (model.layer_cost(ConvShape(64, 64, 4, 4, batch=n), 8, 8) for n in (1, 16))
    assert many.memory_cycles["dram.weights"] == 16 * one.memory_cycles["dram.weights"]
    one, many = (model.layer_cost(ConvShape(64, 64, 1, 1, batch=n, fully_connected=True), 8, 8) for n in (1, 16))
    assert many.memory_cycles["dram.weights"] == one.memory_cycles["dram.weights"]


def test_depthwise_layer_is_bound_by_its_streams() -> None:
    shape = ConvShape(32, 32, 16, 16, kernel=(3, 3), padding=(1, 1), groups=32)
    cost = load_target("npu-148").cost_model().layer_cost(shape, 8, 8)
    assert cost.cycles > 0
    assert cost.bound_by == "dram.activations"


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_fewer_bits_never_cost_more(groups: int) -> None:
    model = load_target("npu-148").cost_model()
    shape = ConvShape(16, 32, 9, 7, kernel=(3, 2), stride=(2, 1), padding=(1, 0, 1, 1), groups=groups)
    costs = [model.layer_cost(shape, w, a) for a, w in ((2, 1), (4, 4), (8, 8))]
    for name in ("cycles", "energy_pj", "total_bytes", "bit_operations"):
        values = [getattr(cost, name) for cost in costs]
        assert values == sorted(values)
