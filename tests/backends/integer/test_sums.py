"""Sums of products of integers: float32 exactly where a bound proves it, equal to torch's float64 convolution."""

import numpy as np
import pytest
import torch

from qir.backends.integer import sums
from qir.backends.integer.sums import convolution, holding, product
from qir.backends.integer.windows import Window

SHAPES = {
    "pointwise": ((3, 6, 5, 4), (8, 6, 1, 1), 1, (1, 1), (0, 0)),
    "pointwise, in groups": ((3, 6, 5, 4), (8, 3, 1, 1), 2, (1, 1), (0, 0)),
    "pointwise with strides": ((2, 6, 5, 4), (8, 6, 1, 1), 1, (2, 2), (0, 0)),
    "padded": ((5, 6, 7, 6), (4, 6, 3, 3), 1, (1, 2), (1, 1)),
    "groups": ((2, 6, 7, 6), (4, 3, 3, 3), 2, (1, 1), (1, 0)),
    "depthwise": ((2, 6, 7, 6), (6, 1, 3, 3), 6, (2, 1), (1, 1)),
    "depthwise with two results each": ((2, 3, 7, 6), (6, 1, 3, 3), 3, (1, 1), (0, 1)),
    "no samples": ((0, 3, 7, 6), (6, 3, 3, 3), 1, (1, 1), (0, 1)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("columns", [1, 8 << 20])
def test_sums_of_a_convolution_are_those_of_torch_in_float64(shape, bits, columns, monkeypatch):
    monkeypatch.setattr(sums, "COLUMNS", columns)
    data, weight, groups, strides, pads = SHAPES[shape]
    random, top = np.random.default_rng(0), 2 ** (bits - 1)
    codes = random.integers(-2 * top, 2 * top, data).astype(np.int32)
    kernel = random.integers(-top, top, weight).astype(np.int32)
    window = Window(weight[2:], strides, (1, 1), pads, pads)
    expected = torch.nn.functional.conv2d(
        torch.tensor(codes.astype(np.float64)), torch.tensor(kernel.astype(np.float64)), None, strides, pads, 1, groups
    )
    found = convolution(codes, kernel, window, groups)
    assert found.shape == tuple(expected.shape)
    assert np.array_equal(found, expected.numpy())


def test_float32_holds_sums_up_to_its_last_integer_and_float64_the_others():
    weights = np.full((2, 4), 127, np.int8)
    assert holding(2**24 // 508, weights) == np.float32
    assert holding(2**24 // 508 + 1, weights) == np.float64
    left = np.array([[2**24 // 508 + 1, 2**24 // 508, 33026, -1]], np.int32)
    exact = left.astype(object) @ weights.T.astype(object)
    assert np.array_equal(product(left, weights.T), exact.astype(np.float64))


def test_the_bound_counts_magnitudes_because_sums_come_in_any_order():
    weights = np.array([[2**20, -(2**20)]], np.int64)
    assert holding(15, weights) == np.float64
