"""Histograms, thresholds and the calibrate pass."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qir.errors import DataError, PassError, QirError
from qir.fake_quant import quantizers
from qir.graph import Graph
from qir.passes import PassContext, PassManager
from qir.passes.calibration.calibrate import Calibrate
from qir.passes.calibration.clipping import METHODS, lp, threshold
from qir.passes.calibration.observers import Histogram
from qir.passes.data.samples import batches, fitting_batch
from qir.types import DType, TensorType, UnknownType


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50), min_size=1, max_size=6))
def test_a_histogram_counts_every_value_whatever_the_order_of_ranges(batches_: list[list[float]]) -> None:
    histogram = Histogram()
    for batch in batches_:
        histogram.update(np.array(batch, np.float32))
    flat = np.concatenate([np.array(b, np.float32) for b in batches_])
    assert histogram.counts.sum() == flat.size == histogram.total
    assert histogram.low == flat.min()
    assert histogram.high == flat.max()
    assert histogram.start <= flat.min()


def test_one_wide_batch_and_many_narrow_ones_give_the_same_threshold() -> None:
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    whole, parts = Histogram(), Histogram()
    whole.update(values)
    for part in np.array_split(values, 50):
        parts.update(part)
    assert threshold(parts, "mse", 4, signed=True)[1] == pytest.approx(
        threshold(whole, "mse", 4, signed=True)[1], rel=0.03
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_method_stays_inside_the_range_seen(method: str, bits: int) -> None:
    histogram = Histogram()
    histogram.update(np.abs(np.random.default_rng(1).normal(size=20_000)).astype(np.float32))
    low, high = threshold(histogram, method, bits, signed=False)
    assert min(histogram.low, 0) - 1e-6 <= low <= high <= histogram.high + 1e-6
    assert high > 0


@pytest.mark.parametrize(("bits", "step"), [(3, 0.5860), (4, 0.3352), (5, 0.1881)])
def test_the_mse_threshold_of_a_gaussian_is_near_the_analytic_optimum(bits: int, step: float) -> None:
    """The step of the symmetric grid with 2^b - 1 levels is near that of the mid-rise grid with 2^b."""
    histogram = Histogram()
    histogram.update(np.random.default_rng(2).normal(size=400_000).astype(np.float32))
    high = threshold(histogram, "mse", bits, signed=True)[1]
    assert high / (2 ** (bits - 1) - 1) == pytest.approx(step, rel=0.25)


@given(
    st.integers(1, 8),
    st.booleans(),
    st.sampled_from([(-1.0, 1.0), (0.0, 2.0), (-0.5, 3.0), (-2.0, -1.0), (1e-7, 2e-7), (3.0, 3.0)]),
    st.integers(0),
)
def test_the_mse_threshold_by_sums_is_that_of_the_bins(bits: int, signed: bool, ends, seed: int) -> None:
    histogram = Histogram()
    histogram.update(np.random.default_rng(seed).beta(2, 5, 5000).astype(np.float32) * (ends[1] - ends[0]) + ends[0])
    assert threshold(histogram, "mse", bits, signed=signed) == pytest.approx(lp(histogram, bits, signed, power=2.0))


def test_more_bits_never_clip_more() -> None:
    histogram = Histogram()
    histogram.update(np.random.default_rng(3).laplace(size=50_000).astype(np.float32))
    highs = [threshold(histogram, "mse", bits, signed=True)[1] for bits in range(2, 9)]
    assert highs == sorted(highs)


def test_nan_is_refused() -> None:
    with pytest.raises(DataError, match="NaN"):
        Histogram().update(np.array([1.0, np.nan], np.float32))


def test_calibration_sets_ranges_for_every_width_in_one_pass(lenet) -> None:
    module, _ = lenet
    for node in quantizers(module.graph).values():
        for bits in node.widths:
            ranges = node.ranges(bits)
            assert (ranges[:, 0] <= ranges[:, 1]).all()


def test_unknown_method_is_named(lenet, splits) -> None:
    module, _ = lenet
    with pytest.raises(QirError, match="'guess' is unknown"):
        PassManager([Calibrate(method="guess")]).run(module, PassContext(calibration_data=splits["calibration"].images))


def test_missing_data_names_the_flag(lenet) -> None:
    module, _ = lenet
    with pytest.raises(PassError, match="--data"):
        PassManager([Calibrate()]).run(module, PassContext())


@pytest.mark.parametrize("shape", [(4, 28, 28), (4, 3, 28, 28), (4, 1, 32, 32)])
def test_data_of_a_wrong_shape_are_refused_with_both_shapes(lenet, shape: tuple[int, ...]) -> None:
    module, _ = lenet
    with pytest.raises(DataError, match="do not fit"):
        list(batches(module, np.zeros(shape, np.float32)))


def test_empty_data_are_refused(lenet) -> None:
    with pytest.raises(DataError, match="empty"):
        list(batches(lenet[0], np.zeros((0, 1, 28, 28), np.float32)))


@pytest.mark.parametrize(
    ("shape", "fitting"), [((1, 3, 4, 4), 64), (("n", 16, 512, 512), 4), ((1, 2**27), 1), (None, 64)]
)
def test_a_batch_takes_no_more_memory_than_it_may(shape, fitting) -> None:
    kind = UnknownType() if shape is None else TensorType(DType.FLOAT32, shape)
    assert fitting_batch([Graph().add_input("x", kind)], 64) == fitting


def test_fewer_samples_fit_into_less_memory():
    value = Graph().add_input("x", TensorType(DType.FLOAT32, ("N", 10)))
    assert fitting_batch([value], 64, memory=10 * 4 * 7) == 7


class _Reader:
    def __init__(self) -> None:
        self.left = [np.zeros((2, 1, 28, 28), np.float32)] * 3

    def get_next(self):
        return {"input": self.left.pop()} if self.left else None


@pytest.mark.parametrize(
    "data",
    [
        np.zeros((6, 1, 28, 28), np.float32),
        {"input": np.zeros((6, 1, 28, 28), np.float32)},
        [{"input": np.zeros((3, 1, 28, 28), np.float32)}] * 2,
        [np.zeros((3, 1, 28, 28), np.float64)] * 2,
        _Reader(),
    ],
    ids=["array", "map", "maps", "arrays", "reader"],
)
def test_data_of_every_common_kind_are_taken(lenet, data) -> None:
    assert sum(len(feed["input"]) for feed in batches(lenet[0], data, batch=4)) == 6
