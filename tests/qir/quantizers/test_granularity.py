"""Granularity: what a scheme is given for it, and that the shape comes back."""

import numpy as np
import pytest

from qir.errors import QirError
from qir.granularity import PerBlock, PerChannel, PerTensor, granularity_of


@pytest.mark.parametrize("granularity", [PerTensor(), PerChannel(1), PerBlock(1, 2), PerBlock(0, 3)])
def test_rows_come_back_in_the_tensors_shape(granularity):
    x = np.arange(20, dtype=np.float32).reshape(4, 5)
    rows, _ = granularity.rows(x)
    np.testing.assert_array_equal(granularity.restored(rows, x.shape), x)


def test_whole_tensors_and_channels_are_given_to_schemes_as_they_are():
    x = np.zeros((4, 5), np.float32)
    assert PerTensor().rows(x)[0] is x
    assert PerChannel(1).rows(x)[0] is x
    assert (PerTensor().rows(x)[1], PerChannel(1).rows(x)[1]) == (None, 1)


def test_each_block_is_a_row_of_its_own():
    rows, axis = PerBlock(1, 2).rows(np.arange(4, dtype=np.float32).reshape(1, 4))
    assert rows.tolist() == [[0, 1], [2, 3]]
    assert axis == 0


def test_the_attributes_of_a_quantizer_name_one_granularity():
    assert granularity_of(None) == PerTensor()
    assert granularity_of(1) == PerChannel(1)
    assert granularity_of(1, 32) == PerBlock(1, 32)


@pytest.mark.parametrize(("axis", "size"), [(None, 32), (-1, None), (-1, 32), (0, 0)])
def test_blocks_without_an_axis_and_axes_from_the_end_are_refused(axis, size):
    with pytest.raises(QirError, match="granularity"):
        granularity_of(axis, size)
