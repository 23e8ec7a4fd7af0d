"""Thresholds next to those of ONNX Runtime's calibrators, and memory over a stream."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import qir
import qir.models
from qir.fake_quant import FakeQuant
from qir.passes import run_passes
from qir.passes.calibration.calibrate import float_network, observe
from qir.passes.calibration.clipping import percentile, threshold
from qir.passes.calibration.observers import BINS, Histogram
from qir.passes.data.samples import batches


class Reader:
    """The calibration data as ONNX Runtime reads them."""

    def __init__(self, feeds) -> None:
        self.feeds = iter(feeds)

    def get_next(self):
        return next(self.feeds, None)


@pytest.fixture(scope="module")
def thresholds_of(images, tmp_path_factory):
    """Makes ranges by value name, ours and ONNX Runtime's, for the tensors that LeNet's quantizers lie on."""
    pytest.importorskip("onnxruntime.quantization")
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    from qir.passes.simplify.canonicalize import SIMPLIFY
    from qir.search import load_network

    module = load_network(qir.models.path("lenet"))
    run_passes(module, f"{SIMPLIFY},insert-fake-quant")
    nodes = [FakeQuant(node) for node in module.graph.fake_quants() if not node.name.endswith(".weight")]
    histograms = observe(module, nodes, batches(module, images, batch=16), {})
    folder = tmp_path_factory.mktemp("float")
    qir.save(float_network(module), folder / "float.onnx")

    def make(method: str, **options):
        kind = CalibrationMethod[method]
        calibrator = create_calibrator(
            str(folder / "float.onnx"),
            None,
            augmented_model_path=str(folder / f"{method}.onnx"),
            calibrate_method=kind,
            extra_options=options,
        )
        name = next(value.name for value in module.graph.inputs if value.constant is None)
        calibrator.collect_data(Reader([{name: images[i : i + 16]} for i in range(0, len(images), 16)]))
        found = {name: data.range_value for name, data in calibrator.compute_data().items()}
        ours = {node.source.name: histogram for node, histogram in histograms.items()}
        return {
            name: (ours[name], *(float(np.squeeze(end)) for end in found[name])) for name in ours.keys() & found.keys()
        }

    return make


def test_min_max_is_that_of_onnxruntime(thresholds_of) -> None:
    found = thresholds_of("MinMax")
    assert len(found) >= 4
    for name, (histogram, low, high) in found.items():
        assert threshold(histogram, "minmax", 8, signed=False) == pytest.approx((low, high), rel=1e-5, abs=1e-6), name


def test_percentile_is_that_of_onnxruntime_to_a_bin(thresholds_of) -> None:
    found = thresholds_of("Percentile", percentile=99.9, num_bins=2048, symmetric=False)
    assert len(found) >= 4
    for name, (histogram, low, high) in found.items():
        theirs = 2 * max(-histogram.low, histogram.high) / 2048
        for ours, other in zip(percentile(histogram, 8, False, keep=0.999), (low, high), strict=True):
            assert ours == pytest.approx(other, abs=1.01 * (theirs + histogram.width)), name


def divergence(histogram: Histogram, low: float, high: float, bits: int) -> float:
    """Kullback-Leibler divergence of a range on an unsigned grid, bin by bin as TensorRT's talk of 2017 has it."""
    begin = int(np.clip((low - histogram.start) // histogram.width, 0, BINS - 1))
    end = int(np.clip((high - histogram.start) // histogram.width, 0, BINS - 1)) + 1
    inside = histogram.counts[begin:end]
    reference = inside.copy()
    reference[0] += histogram.counts[:begin].sum()
    reference[-1] += histogram.counts[end:].sum()
    step = (high - low) / (2**bits - 1)
    first = -np.rint(-low / step)
    codes = np.clip(np.rint(histogram.centers[begin:end] / step), first, first + 2**bits - 1)
    candidate = np.zeros_like(reference)
    for code in np.unique(codes):
        members = (codes == code) & (reference > 0)
        candidate[members] = inside[codes == code].sum() / max(members.sum(), 1)
    p, q = reference / reference.sum(), candidate / candidate.sum()
    return float((p[p > 0] * np.log(p[p > 0] / np.maximum(q[p > 0], 1e-30))).sum())


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_entropy_threshold_has_the_least_divergence(bits, sign) -> None:
    histogram = Histogram()
    histogram.update((sign * np.random.default_rng(bits).gamma(2.0, size=20_000)).astype(np.float32))
    found = threshold(histogram, "entropy", bits, signed=False)
    ends = np.linspace(1 / 16, 1, 128) * (histogram.high if sign > 0 else histogram.low)
    errors = [divergence(histogram, min(end, 0.0), max(end, 0.0), bits) for end in ends]
    assert max(found, key=abs) == pytest.approx(ends[int(np.argmin(errors))])


@pytest.mark.parametrize("half_wave", [False, True])
def test_the_entropy_threshold_of_eight_bits_clips_little(half_wave) -> None:
    values = np.random.default_rng(0).normal(size=100_000).astype(np.float32)
    histogram = Histogram()
    histogram.update(np.maximum(values, 0) if half_wave else values)
    assert threshold(histogram, "entropy", 8, signed=not half_wave)[1] > 3.5


def test_entropy_keeps_a_constant() -> None:
    histogram = Histogram()
    histogram.update(np.full(100, 3.0, np.float32))
    assert threshold(histogram, "entropy", 4, signed=False) == (0.0, 3.0)


def test_memory_is_flat_in_the_number_of_batches() -> None:
    rng = np.random.default_rng(0)
    batch = rng.normal(size=50_000).astype(np.float32)

    def peak(count: int) -> int:
        tracemalloc.start()
        histogram = Histogram()
        for index in range(count):
            histogram.update(batch * np.float32(1 + index))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak(2)
    assert peak(60) <= 1.1 * peak(4)


def test_the_sample_of_a_stream_has_its_distribution() -> None:
    values = np.random.default_rng(1).normal(size=40_000).astype(np.float32)
    histogram = Histogram()
    for part in np.array_split(values, 8):
        histogram.update(part)
    np.testing.assert_allclose(
        np.quantile(histogram.sample(), [0.05, 0.5, 0.95]), np.quantile(values, [0.05, 0.5, 0.95]), atol=0.02
    )
