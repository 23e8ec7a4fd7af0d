import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qir.errors import QirError
from qir.quantizers import fake_quantize_channels, get_scheme, parameters_by_width, quantize_channels, scheme_names

finite = st.floats(-(2.0**40), 2.0**40, width=32)


def test_signed_grid_is_symmetric_with_zero_point_zero():
    parameters = get_scheme("uniform").parameters([[-1.0, 0.5]], 4, signed=True)
    assert (parameters.low_code, parameters.high_code) == (-8, 7)
    assert parameters.zero_point.tolist() == [0]
    assert parameters.scale.tolist() == [np.float32(1.0) / np.float32(7.0)]
    assert get_scheme("uniform").parameters([[-1.0, 0.5]], 4, signed=True, narrow=True).low_code == -7


def test_unsigned_grid_holds_zero_exactly():
    scheme = get_scheme("uniform")
    parameters = scheme.parameters([[-0.3, 1.0], [0.5, 2.0]], 3, signed=False)
    assert (parameters.low_code, parameters.high_code) == (0, 7)
    assert (scheme.grid(parameters) == 0).any(axis=1).all()


def test_one_bit_weights_are_bipolar_and_zero_maps_to_plus_one():
    scheme = get_scheme("uniform")
    x = np.array([[-1.0, -0.0, 0.0, 3.0, -1e-45]], dtype=np.float32)
    parameters = scheme.fit_parameters(x, 1, signed=True, axis=0)
    assert scheme.quantize(x, parameters, 0).tolist() == [[-1, 1, 1, 1, -1]]
    assert scheme.grid(parameters).tolist() == [[-np.float32(0.8), np.float32(0.8)]]


def test_one_bit_activations_are_zero_and_one():
    scheme = get_scheme("uniform")
    parameters = scheme.parameters([[0.0, 2.0]], 1, signed=False)
    assert scheme.quantize(np.array([0.9, 1.0, 1.1, 9.0]), parameters).tolist() == [0, 0, 1, 1]


@given(arrays(np.float32, 20, elements=finite), st.integers(2, 8), st.booleans(), st.booleans())
def test_error_is_at_most_half_a_step_inside_the_range(x, bits, signed, narrow):
    scheme = get_scheme("uniform")
    parameters = scheme.fit_parameters(x, bits, signed, narrow)
    error = np.abs(scheme.fake_quantize(x, parameters).astype(np.float64) - x)
    assert error.max() <= float(parameters.scale[0]) * (0.5 + 1e-4) + np.abs(x).max() * 1e-6


@given(arrays(np.float32, (3, 8), elements=finite), st.integers(1, 8), st.booleans())
def test_quantizing_twice_changes_nothing(x, bits, signed):
    scheme = get_scheme("uniform")
    parameters = scheme.fit_parameters(x, bits, signed, axis=0)
    once = scheme.fake_quantize(x, parameters, 0)
    np.testing.assert_array_equal(scheme.fake_quantize(once, parameters, 0), once)


def test_dead_channel_gets_a_positive_finite_scale_and_stays_zero():
    for name in ("uniform", "uniform-asymmetric"):
        scheme = get_scheme(name)
        for signed in (True, False):
            parameters = scheme.parameters(np.zeros((1, 2)), 8, signed)
            assert parameters.scale[0] > 0
            assert scheme.fake_quantize(np.zeros(3), parameters).tolist() == [0, 0, 0]


def test_tiny_ranges_never_give_a_subnormal_scale():
    parameters = get_scheme("uniform").parameters([[-1e-44, 1e-44]], 8, signed=True)
    assert float(parameters.scale[0]) == 2.0**-60


def test_infinite_values_saturate_and_nan_is_refused():
    scheme = get_scheme("uniform")
    parameters = scheme.parameters([[-1.0, 1.0]], 4, signed=True)
    assert scheme.quantize(np.array([np.inf, -np.inf]), parameters).tolist() == [7, -8]
    with pytest.raises(QirError, match="NaN"):
        scheme.quantize(np.array([np.nan]), parameters)


@pytest.mark.parametrize("ranges", [[[1.0, -1.0]], [[0.0, np.inf]], [0.0, 1.0], [[-3e38, 3e38]]])
def test_ranges_that_give_no_grid_are_refused(ranges):
    with pytest.raises(QirError):
        get_scheme("uniform").parameters(ranges, 8, signed=False)


def test_unknown_scheme_and_width_name_what_there_is():
    with pytest.raises(QirError, match="'uniform'"):
        get_scheme("unifrom")
    with pytest.raises(QirError, match="expected one of"):
        get_scheme("binary").parameters([[0, 1]], 3, signed=True)
    assert {"uniform", "binary", "uniform-asymmetric"} <= set(scheme_names())


def test_widths_per_channel_equal_each_channel_alone():
    x = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    scheme = get_scheme("uniform")
    ranges = np.stack([scheme.fit(x, bits, True, True, 1) for bits in (1, 4, 8)])
    grids = dict(zip((1, 4, 8), parameters_by_width("uniform", ranges, (1, 4, 8), True, True), strict=True))
    bits = (4, 0, 1, 8)
    result = fake_quantize_channels(x, grids, bits, axis=1)
    codes, scale, zero_point = quantize_channels(x, grids, bits, axis=1)
    for channel, width in enumerate(bits):
        expected = scheme.fake_quantize(x, grids[width], 1)[:, channel] if width else np.zeros((5, 3), np.float32)
        np.testing.assert_array_equal(result[:, channel], expected)
    np.testing.assert_array_equal(result, (codes - zero_point[:, None]).astype(np.float32) * scale[:, None])


@pytest.mark.parametrize("name", ["uniform", "uniform-asymmetric", "clipq", "kmeans"])
def test_a_tensor_of_rank_0_is_quantized_like_any_other(name) -> None:
    scheme, number = get_scheme(name), np.array(0.3, np.float32)
    fitted = scheme.fit_parameters(number, 4, True, False, None)
    assert scheme.quantize(number, fitted).shape == ()
    assert scheme.quantize(number, fitted) == scheme.quantize(number.reshape(1), fitted)[0]
