"""Which axis counts samples: states and masks, networks of exactly one sample, small feeds that are joined."""

import numpy as np
import pytest

from qir.errors import DataError
from qir.graph import Node
from qir.passes.data.batch_axes import BatchAxes
from qir.passes.data.samples import batches
from qir.tensor import Tensor
from qir.types import DType


def shapes(feeds):
    return [{name: array.shape for name, array in feed.items()} for feed in feeds]


def test_a_state_whose_second_axis_counts_samples_is_cut_there(takes):
    module = takes(x=("batch", 8), state=(2, "batch", 3))
    data = {"x": np.zeros((5, 8)), "state": np.arange(30).reshape(2, 5, 3)}
    first, second = batches(module, data, batch=3)
    assert shapes([first, second]) == [{"x": (3, 8), "state": (2, 3, 3)}, {"x": (2, 8), "state": (2, 2, 3)}]
    np.testing.assert_array_equal(np.concatenate([first["state"], second["state"]], 1), data["state"])


def test_a_state_with_one_open_axis_is_joined_there(takes):
    """Exporters that name no size: Silero's state [2, ?, 128] next to sound [?, ?]."""
    module = takes(x=(None, None), state=(2, None, 3), rate=((), DType.INT64))
    feed = {"x": np.zeros((1, 8)), "state": np.zeros((2, 1, 3)), "rate": np.array(16000)}
    assert shapes(batches(module, [feed] * 3, batch=2)) == [
        {"x": (2, 8), "state": (2, 2, 3), "rate": ()},
        {"x": (1, 8), "state": (2, 1, 3), "rate": ()},
    ]


def test_a_feed_whose_inputs_begin_with_sizes_of_different_names_is_one_sample(takes):
    """Bonds are pairs of rows of the atoms: a part of either is another molecule."""
    module = takes(atoms=("atoms", 4), bonds=(2, "bonds"), weights=("bonds",))
    feed = {"atoms": np.zeros((9, 4)), "bonds": np.full((2, 7), 8), "weights": np.zeros(7)}
    found = [{name: array.shape for name, array in feed.items()}] * 2
    assert shapes(batches(module, [feed, feed], batch=3)) == found


def recurrent(takes, **shapes):
    """A network whose input `h` is the state of a GRU, on codes, cut out of a stack."""
    module = takes(**shapes)
    graph, state = module.graph, module.graph.inputs[-1]
    scale = graph.add_constant("scale", Tensor.of(np.float32(1)))
    codes = graph.insert(Node("QuantizeLinear", (state, scale)))
    state = graph.insert(Node("DequantizeLinear", (codes.result, scale))).result
    cut = graph.insert(Node("Slice", (state, *(graph.add_constant(n, Tensor.of(np.array([0]))) for n in "be"))))
    graph.insert(Node("GRU", (*(graph.add_input(name) for name in "vwr"), None, None, cut.result)))
    for value in graph.inputs[-3:]:
        value.constant = Tensor.of(np.zeros((1, 3, 3), np.float32))
    return module


def test_states_of_one_sample_fix_the_number_of_samples(takes):
    module = recurrent(takes, x=("batch_size", 8), h=(4, 1, 3))
    found = batches(module, {"x": np.zeros((3, 8)), "h": np.zeros((4, 1, 3))}, batch=2)
    assert shapes(found) == [{"x": (1, 8), "h": (4, 1, 3)}] * 3


def test_next_to_states_of_one_sample_another_name_counts_time(takes):
    feed = {"x": np.zeros((7, 8)), "h": np.zeros((1, 1, 3))}
    found = batches(recurrent(takes, x=("frames", 8), h=(1, 1, 3)), [feed, feed], batch=2)
    assert shapes(found) == [{"x": (7, 8), "h": (1, 1, 3)}] * 2


@pytest.mark.parametrize("names", [("unk__1", "unk__2"), ("DynamicDimension.0", "p2o.DynamicDimension.3")])
def test_names_that_converters_give_to_unknown_sizes_say_nothing(takes, names):
    module = takes(x=(names[0], 4), y=(names[1], 2))
    found = batches(module, {"x": np.zeros((3, 4)), "y": np.zeros((3, 2))}, batch=2)
    assert shapes(found) == [{"x": (2, 4), "y": (2, 2)}, {"x": (1, 4), "y": (1, 2)}]


def test_time_may_come_first(takes):
    found = batches(takes(x=("time", "batch", 4)), np.zeros((7, 5, 4)), batch=2)
    assert shapes(found) == [{"x": (7, 2, 4)}, {"x": (7, 2, 4)}, {"x": (7, 1, 4)}]


def test_a_mask_without_an_axis_of_samples_holds_for_all(takes):
    module = takes(x=("N", "tokens", 4), mask=("tokens", "tokens"))
    data = {"x": np.zeros((5, 3, 4)), "mask": np.eye(3)}
    assert shapes(batches(module, data, batch=4)) == [
        {"x": (4, 3, 4), "mask": (3, 3)},
        {"x": (1, 3, 4), "mask": (3, 3)},
    ]


@pytest.mark.parametrize("state", [(2, 1, 3), (2, 5, 3), (5, 2, 1, 3)], ids=["given once", "by axis", "stacked"])
def test_networks_of_exactly_one_sample_get_one_at_a_time(takes, state):
    module = takes(x=(1, 8), state=(2, 1, 3), rate=((), DType.INT64))
    data = {"x": np.zeros((5, 8)), "state": np.zeros(state), "rate": np.array(16000)}
    assert shapes(batches(module, data)) == [{"x": (1, 8), "state": (2, 1, 3), "rate": ()}] * 5


def test_networks_without_an_axis_of_samples_get_one_at_a_time(takes):
    assert shapes(batches(takes(x=(8,)), np.zeros((3, 8)))) == [{"x": (8,)}] * 3


def test_an_axis_can_be_given(takes):
    module = takes(x=("a", "b", 4))
    module.meta["batch_axes"] = {"x": 1}
    assert shapes(batches(module, np.zeros((7, 3, 4)), batch=2)) == [{"x": (7, 2, 4)}, {"x": (7, 1, 4)}]
    module.meta["batch_axes"] = {"y": 1}
    with pytest.raises(DataError, match="the network has the inputs x"):
        BatchAxes(module)


def test_small_feeds_are_joined_as_far_as_they_are_alike(takes):
    feeds = [{"x": np.full((1, size), number)} for number, size in enumerate([4, 4, 4, 5, 5])]
    found = list(batches(takes(x=("N", "time")), feeds, batch=2))
    assert shapes(found) == [{"x": (2, 4)}, {"x": (1, 4)}, {"x": (2, 5)}]
    np.testing.assert_array_equal(found[0]["x"][:, 0], [0, 1])


def test_networks_of_exactly_four_samples_get_four_from_feeds_of_one(takes):
    found = batches(takes(x=(4, 2)), [np.full((1, 2), number) for number in range(9)])
    np.testing.assert_array_equal([feed["x"][:, 0] for feed in found], [[0, 1, 2, 3], [4, 5, 6, 7]])
    with pytest.raises(DataError, match="3 samples; the network takes exactly 4"):
        list(batches(takes(x=(4, 2)), np.zeros((3, 2))))
