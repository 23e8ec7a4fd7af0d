"""Weight ranges by output error: the sketches that measure it, and what it is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qir.errors import PassError
from qir.fake_quant import FakeQuant, make_fake_quant, quantizers
from qir.granularity import granularity_of
from qir.graph import Graph, Node
from qir.module import Module
from qir.passes import PassContext, PassManager
from qir.passes.calibration.calibrate import Calibrate
from qir.passes.calibration.output_error import ROWS, SAMPLES, SHORT, RowSketch, has_rows
from qir.passes.calibration.weight_ranges import weight_ranges
from qir.quantizers import get_scheme
from qir.tensor import Tensor


def convolution(weight: np.ndarray, **attributes) -> Node:
    graph = Graph()
    constant = graph.add_constant("weight", Tensor.of(weight))
    data = graph.add_constant("data", Tensor.of(np.zeros((1, 1, 1, 1), np.float32)))
    return Node("Conv", (data, constant), ("y",), name="conv", attributes=attributes)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from([1, 2, 4]),
    st.integers(1, 2),
    st.integers(1, 2),
    st.tuples(*[st.integers(0, 2)] * 6),
    st.integers(1, 3),
    st.integers(0),
)
def test_a_sketch_measures_the_output_error_of_any_convolution(groups, stride, dilation, pads, rank, seed) -> None:
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(3, 4, *(7, 6, 5)[:rank])).astype(np.float32)
    change = rng.normal(size=(8, 4 // groups, *(2, 3, 1)[:rank])).astype(np.float32)
    begins, ends = pads[:rank], pads[3 : 3 + rank]
    options = {"strides": (stride,) * rank, "dilations": (dilation,) * rank, "group": groups, "pads": (*begins, *ends)}
    sketch = RowSketch(convolution(change, **options), rows=SAMPLES * 1000)
    sketch.update(data[:2])
    sketch.update(data[2:])
    sides = [side for pair in zip(begins[::-1], ends[::-1], strict=True) for side in pair]
    padded = torch.nn.functional.pad(torch.from_numpy(data), sides)
    convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[rank - 1]
    result = convolve(padded, torch.from_numpy(change), None, stride, 0, dilation, groups).numpy()
    over = (0, *range(2, 2 + rank))
    rows = change.reshape(1, 8, -1)
    for centred, expected in ((False, np.square(result).mean(axis=over)), (True, result.var(axis=over))):
        np.testing.assert_allclose(sketch.error(centred=centred)(rows)[0], expected, rtol=2e-3, atol=2e-3)


def test_samples_beyond_the_bound_are_passed_over() -> None:
    sketch = RowSketch(convolution(np.ones((1, 1, 1, 1), np.float32)))
    assert sketch.error() is None
    sketch.update(np.ones((SAMPLES, 1, 2, 2), np.float32))
    sketch.update(np.full((4, 1, 2, 2), 100, np.float32))
    assert sketch.samples == SAMPLES
    np.testing.assert_allclose(sketch.error()(np.ones((1, 1, 1), np.float32)), 1, rtol=1e-5)


def test_drawn_rows_measure_nearly_what_all_do() -> None:
    rng = np.random.default_rng(0)
    data = np.maximum(rng.normal(size=(SAMPLES, 3, 20, 20)), 0).astype(np.float32)
    layer = convolution(np.ones((2, 3, 3, 3), np.float32), pads=(1, 1, 1, 1))
    drawn, every = RowSketch(layer), RowSketch(layer, rows=SAMPLES * 1000)
    for sketch in (drawn, every):
        sketch.update(data[:100])
        sketch.update(data[100:])
    assert drawn.places(SAMPLES, 400).size == ROWS
    change = rng.normal(size=(1, 50, 27)).astype(np.float32)
    np.testing.assert_allclose(drawn.error()(change), every.error()(change), rtol=0.1)


def product(change: np.ndarray) -> Node:
    graph = Graph()
    operands = [graph.add_constant(name, Tensor.of(value)) for name, value in (("x", change[:1]), ("w", change.T))]
    return Node("MatMul", operands, ("y",), name="product")


@settings(max_examples=25, deadline=None)
@given(st.integers(1, SHORT), st.integers(0))
def test_the_error_of_short_rows_is_exact(inputs, seed) -> None:
    rng = np.random.default_rng(seed)
    rows, change = rng.normal(size=(50, inputs)).astype(np.float32), rng.normal(size=(7, inputs)).astype(np.float32)
    sketch = RowSketch(product(change))
    sketch.update(rows)
    np.testing.assert_allclose(
        sketch.error()(change[None])[0], np.square(rows @ change.T).mean(axis=0), rtol=1e-3, atol=1e-4
    )


def test_the_error_of_long_rows_is_near() -> None:
    rng = np.random.default_rng(0)
    inputs = 4 * SHORT
    spectrum = 1 / (1 + np.arange(inputs)).astype(np.float32)
    rows = rng.normal(size=(SAMPLES, inputs)).astype(np.float32) * spectrum
    rows = rows @ np.linalg.qr(rng.normal(size=(inputs, inputs)))[0].astype(np.float32)
    change = rng.normal(size=(20, inputs)).astype(np.float32)
    sketch = RowSketch(product(change))
    sketch.update(rows)
    np.testing.assert_allclose(sketch.error()(change[None])[0], np.square(rows @ change.T).mean(axis=0), rtol=0.05)


def test_data_whose_squares_overflow_measure_nothing() -> None:
    sketch = RowSketch(convolution(np.ones((1, 1, 1, 1), np.float32)))
    sketch.update(np.full((2, 1, 3, 3), 1e25, np.float32))
    assert sketch.error() is None


def test_rows_are_known_of_layers_with_constant_weights_only() -> None:
    weight = np.zeros((2, 3, 1, 1), np.float32)
    assert has_rows(convolution(weight), weight)
    assert has_rows(product(weight[:, :, 0, 0]), weight[:, :, 0, 0].T)
    assert not has_rows(Node("Relu", (), ("y",)), weight)


def weight_quantizer(scheme: str = "uniform", axis: int | None = 0, widths=(2, 3)) -> Node:
    graph = Graph()
    value = graph.add_constant("w", Tensor.of(np.zeros((4, 6), np.float32)))
    return make_fake_quant(
        value,
        name="w",
        bits=2,
        widths=widths,
        signed=True,
        narrow=True,
        scheme=scheme,
        granularity=granularity_of(axis),
    )


@pytest.mark.parametrize("axis", [0, None])
def test_the_output_error_of_ranges_by_output_is_least(axis) -> None:
    rng = np.random.default_rng(0)
    weight, inputs = rng.normal(size=(4, 6)).astype(np.float32), rng.lognormal(size=(200, 6)).astype(np.float32)
    sketch = RowSketch(product(weight))
    sketch.update(inputs)
    node = weight_quantizer(axis=axis)

    def error(ranges: np.ndarray) -> float:
        scheme = FakeQuant(node).scheme(2)
        made = scheme.fake_quantize(weight, scheme.parameters(ranges[0], 2, True, True), axis)
        return float(np.square(inputs @ (made - weight).T).mean())

    by_output = weight_ranges(FakeQuant(node), weight, "output", sketch.error(), channel_axis=0)
    assert by_output.shape == (2, 4 if axis == 0 else 1, 2)
    for method in ("mse", "minmax"):
        assert error(by_output) <= error(weight_ranges(FakeQuant(node), weight, method))


@pytest.mark.parametrize("axis", [0, None])
def test_weights_beyond_the_cache_lose_little_by_fewer_candidates(axis) -> None:
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(200, 400)).astype(np.float32)
    value = Graph().add_constant("w", Tensor.of(weight))
    options = {
        "widths": (2, 3, 4, 6, 8),
        "signed": True,
        "narrow": True,
        "scheme": "uniform",
        "granularity": granularity_of(axis),
    }
    node = make_fake_quant(value, name="w", bits=2, **options)
    found = weight_ranges(FakeQuant(node), weight, "mse", channel_axis=0)
    for ranges, bits in zip(found, FakeQuant(node).widths, strict=True):
        scheme = get_scheme("uniform")
        full = scheme.fit(weight, bits, True, True, axis)
        errors = []
        for pair in (ranges, *(full * fraction for fraction in np.linspace(0.2, 1, 41, dtype=np.float32))):
            change = scheme.fake_quantize(weight, scheme.parameters(pair, bits, True, True), axis) - weight
            errors.append(np.square(change).sum(axis=1 if axis == 0 else None))
        assert np.mean(errors[0]) <= 1.02 * np.mean(np.min(errors[1:], axis=0))


def test_an_unknown_way_to_clip_weights_is_named() -> None:
    with pytest.raises(PassError, match="'guess' is unknown; expected one of output"):
        weight_ranges(FakeQuant(weight_quantizer()), np.ones((4, 6), np.float32), "guess")


def calibrate(module: Module, images: np.ndarray, **options) -> None:
    PassManager([Calibrate(**options)]).run(module, PassContext(calibration_data=images))


def test_output_ranges_differ_from_weight_ranges_at_few_bits_only(inserted, images) -> None:
    by_output, by_weight = (inserted("lenet", "weight_widths=2|8") for _ in range(2))
    calibrate(by_output, images)
    calibrate(by_weight, images, weights="mse")
    others = quantizers(by_weight.graph)
    for name, node in quantizers(by_output.graph).items():
        if name.endswith(".weight"):
            assert np.array_equal(node.ranges(8), others[name].ranges(8))
            assert not np.array_equal(node.ranges(2), others[name].ranges(2))


@pytest.mark.parametrize("scheme", ["resq", "kmeans"])
def test_levels_are_stored_for_schemes_that_keep_them(inserted, images, scheme) -> None:
    module = inserted("lenet", "weight_widths=2|8,activation_widths=4|8")
    nodes = quantizers(module.graph)
    for node in nodes.values():
        narrow = min(node.widths)
        if narrow < 8:
            node.set_scheme({narrow: scheme})
            if scheme == "resq":
                node.signed = True
    calibrate(module, images)
    stored = {bits for node in nodes.values() for bits in (2, 4, 8) if node.levels(bits) is not None}
    assert stored == {2, 4}
    for node in nodes.values():
        bits = min(node.widths)
        if bits < 8:
            channels = 1 if node.granularity.axis is None else len(node.ranges(bits))
            assert node.levels(bits).shape == (channels, 1 << bits)
