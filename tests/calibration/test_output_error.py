"""Weight ranges by output error: the matrices that measure it, and what it is worth."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qir.errors import PassError
from qir.fake_quant import make_fake_quant, quantizers, ranges_at, scheme_of
from qir.graph import Graph, Node
from qir.module import Module
from qir.passes import PassContext, PassManager
from qir.passes.calibrate import Calibrate
from qir.passes.gram_matrices import LARGEST_ROW, RANK, ROWS, SAMPLES, GramMatrix, OutputError, has_gram_matrix
from qir.passes.weight_ranges import weight_ranges
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
    st.tuples(*[st.integers(0, 2)] * 4),
    st.integers(0),
)
def test_the_matrix_measures_the_output_error_of_any_convolution(groups, stride, dilation, pads, seed) -> None:
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(3, 4, 7, 6)).astype(np.float32)
    change = rng.normal(size=(8, 4 // groups, 2, 3)).astype(np.float32)
    options = {"strides": (stride,) * 2, "dilations": (dilation,) * 2, "group": groups, "pads": pads}
    gram = GramMatrix(convolution(change, **options), rows=SAMPLES * 100)
    gram.update(data[:2])
    gram.update(data[2:])
    matrix = gram.matrix()
    top, left, bottom, right = pads
    padded = torch.nn.functional.pad(torch.from_numpy(data), [left, right, top, bottom])
    result = torch.nn.functional.conv2d(padded, torch.from_numpy(change), None, stride, 0, dilation, groups).numpy()
    rows = change.reshape(groups, 8 // groups, -1)
    np.testing.assert_allclose(
        ((rows @ matrix) * rows).sum(2).reshape(-1), np.square(result).mean(axis=(0, 2, 3)), rtol=1e-3, atol=1e-3
    )
    centred = gram.matrix(centred=True)
    np.testing.assert_allclose(
        ((rows @ centred) * rows).sum(2).reshape(-1), result.var(axis=(0, 2, 3)), rtol=1e-3, atol=1e-3
    )


def test_samples_beyond_the_bound_are_passed_over() -> None:
    gram = GramMatrix(convolution(np.ones((1, 1, 1, 1), np.float32)))
    gram.update(np.ones((SAMPLES, 1, 2, 2), np.float32))
    gram.update(np.full((4, 1, 2, 2), 100, np.float32))
    assert gram.samples == SAMPLES
    assert gram.matrix() == np.ones((1, 1, 1))


def test_a_matrix_of_drawn_rows_is_near_that_of_all() -> None:
    rng = np.random.default_rng(0)
    data = np.maximum(rng.normal(size=(SAMPLES, 3, 20, 20)), 0).astype(np.float32)
    layer = convolution(np.ones((2, 3, 3, 3), np.float32), pads=(1, 1, 1, 1))
    drawn, every = GramMatrix(layer), GramMatrix(layer, rows=SAMPLES * 400)
    for gram in (drawn, every):
        gram.update(data[:100])
        gram.update(data[100:])
    assert drawn.places(SAMPLES, 400).size == ROWS
    np.testing.assert_allclose(drawn.matrix(), every.matrix(), atol=0.05)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, RANK), st.integers(1, 3), st.integers(0))
def test_the_error_of_short_rows_is_exact(inputs, groups, seed) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(groups, 50, inputs)).astype(np.float32)
    gram = np.swapaxes(rows, 1, 2) @ rows / 50
    change = rng.normal(size=(2, 2 * groups, inputs)).astype(np.float32)
    parted = change.reshape(2, groups, 2, inputs)
    np.testing.assert_allclose(
        OutputError.of(gram)(change), ((parted @ gram) * parted).sum(3).reshape(2, -1), rtol=1e-3, atol=1e-4
    )


def test_the_error_of_long_rows_is_near() -> None:
    rng = np.random.default_rng(0)
    spectrum = 1 / (1 + np.arange(4 * RANK)).astype(np.float32)
    rows = rng.normal(size=(1000, 4 * RANK)).astype(np.float32) * spectrum
    rows = rows @ np.linalg.qr(rng.normal(size=(4 * RANK, 4 * RANK)))[0].astype(np.float32)
    gram = (rows.T @ rows / 1000)[None]
    change = rng.normal(size=(1, 20, 4 * RANK)).astype(np.float32)
    exact = ((change @ gram) * change).sum(2)
    np.testing.assert_allclose(OutputError.of(gram)(change), exact, rtol=0.05)


def test_long_rows_have_no_matrix() -> None:
    short = np.zeros((2, LARGEST_ROW, 1, 1), np.float32)
    long = np.zeros((2, LARGEST_ROW + 1, 1, 1), np.float32)
    assert has_gram_matrix(convolution(short), short)
    assert not has_gram_matrix(convolution(long), long)


def weight_quantizer(scheme: str = "uniform", axis: int | None = 0, widths=(2, 3)) -> Node:
    graph = Graph()
    value = graph.add_constant("w", Tensor.of(np.zeros((4, 6), np.float32)))
    return make_fake_quant(value, name="w", bits=2, widths=widths, signed=True, narrow=True, scheme=scheme, axis=axis)


@pytest.mark.parametrize("axis", [0, None])
def test_the_output_error_of_ranges_by_output_is_least(axis) -> None:
    rng = np.random.default_rng(0)
    weight, inputs = rng.normal(size=(4, 6)).astype(np.float32), rng.lognormal(size=(200, 6)).astype(np.float32)
    gram = (inputs.T @ inputs / 200)[None]
    node = weight_quantizer(axis=axis)

    def error(ranges: np.ndarray) -> float:
        scheme = get_scheme(scheme_of(node, 2))
        made = scheme.fake_quantize(weight, scheme.parameters(ranges[0], 2, True, True), axis)
        return float(np.square(inputs @ (made - weight).T).mean())

    by_output = weight_ranges(node, weight, "output", gram, channel_axis=0)
    assert by_output.shape == (2, 4 if axis == 0 else 1, 2)
    for method in ("mse", "minmax"):
        assert error(by_output) <= error(weight_ranges(node, weight, method))


def test_an_unknown_way_to_clip_weights_is_named() -> None:
    with pytest.raises(PassError, match="'guess' is unknown; expected one of output"):
        weight_ranges(weight_quantizer(), np.ones((4, 6), np.float32), "guess")


def calibrate(module: Module, images: np.ndarray, **options) -> None:
    PassManager([Calibrate(**options)]).run(module, PassContext(calibration_data=images))


def test_output_ranges_differ_from_weight_ranges_at_few_bits_only(inserted, images) -> None:
    by_output, by_weight = (inserted("lenet", "weight_widths=2|8") for _ in range(2))
    calibrate(by_output, images)
    calibrate(by_weight, images, weights="mse")
    others = quantizers(by_weight.graph)
    for name, node in quantizers(by_output.graph).items():
        if name.endswith(".weight"):
            assert np.array_equal(ranges_at(node, 8), ranges_at(others[name], 8))
            assert not np.array_equal(ranges_at(node, 2), ranges_at(others[name], 2))


@pytest.mark.parametrize("scheme", ["resq", "kmeans"])
def test_levels_are_stored_for_schemes_that_keep_them(inserted, images, scheme) -> None:
    module = inserted("lenet", "weight_widths=2|8,activation_widths=4|8")
    nodes = quantizers(module.graph)
    for node in nodes.values():
        narrow = min(node.attribute("widths"))
        if narrow < 8:
            node.set_attribute("scheme", (f"{narrow}={scheme}", "default=uniform"))
            if scheme == "resq":
                node.set_attribute("signed", 1)
    calibrate(module, images)
    stored = {bits for node in nodes.values() for bits in (2, 4, 8) if node.attribute(f"levels_{bits}") is not None}
    assert stored == {2, 4}
    for node in nodes.values():
        bits = min(node.attribute("widths"))
        if bits < 8:
            channels = 1 if node.attribute("axis") is None else len(ranges_at(node, bits))
            assert node.attribute(f"levels_{bits}").numpy().shape == (channels, 1 << bits)
