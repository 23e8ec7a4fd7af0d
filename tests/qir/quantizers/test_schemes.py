import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qir.errors import QirError
from qir.quantizers import QuantParameters, Scheme, Storage, get_scheme, register, scheme_names

BUILTIN = [name for name in scheme_names() if "test" not in name]
CASES = [
    (name, bits, signed)
    for name in BUILTIN
    for bits in get_scheme(name).widths
    if bits <= 8
    for signed in sorted(get_scheme(name).signedness)
]


def data(signed, size=2000, seed=0):
    x = np.random.default_rng(seed).normal(size=(2, size)).astype(np.float32)
    return x if signed else np.maximum(x, 0)


@pytest.mark.parametrize(("name", "bits", "signed"), CASES)
def test_values_lie_on_an_ascending_grid_that_the_width_can_index(name, bits, signed):
    scheme, x = get_scheme(name), data(signed)
    parameters = scheme.fit_parameters(x, bits, signed, axis=0)
    grid = scheme.grid(parameters)
    codes = scheme.quantize(x, parameters, 0)
    assert parameters.codes <= 1 << bits
    assert (np.diff(grid, axis=1) >= 0).all()
    assert codes.min() >= parameters.low_code
    assert codes.max() <= parameters.high_code
    assert not ((codes - parameters.low_code) % parameters.code_step).any()
    for channel in range(2):
        assert np.isin(scheme.fake_quantize(x, parameters, 0)[channel], grid[channel]).all()


@pytest.mark.parametrize(("name", "bits", "signed"), CASES)
def test_codes_never_fall_while_values_rise(name, bits, signed):
    scheme = get_scheme(name)
    x = np.sort(data(signed), axis=1)
    assert (np.diff(scheme.quantize(x, scheme.fit_parameters(x, bits, signed, axis=0), 0), axis=1) >= 0).all()


@pytest.mark.parametrize(("name", "bits", "signed"), [case for case in CASES if case[0] not in {"dorefa", "resq"}])
def test_levels_map_to_themselves(name, bits, signed):
    scheme = get_scheme(name)
    parameters = scheme.fit_parameters(data(signed), bits, signed, axis=0)
    grid = scheme.grid(parameters)
    np.testing.assert_array_equal(scheme.fake_quantize(grid, parameters, 0), grid)


@pytest.mark.parametrize(("name", "bits", "signed"), CASES)
def test_dead_and_tiny_and_single_valued_data_give_finite_grids(name, bits, signed):
    scheme = get_scheme(name)
    for x in (np.zeros((1, 4)), np.full((1, 4), 1e-40), np.full((1, 4), 3.0)):
        parameters = scheme.fit_parameters(x, bits, signed, axis=0)
        result = scheme.fake_quantize(x, parameters, 0)
        assert np.isfinite(result).all()
        assert (parameters.scale >= 2.0**-60).all()
    assert (
        np.abs(scheme.fake_quantize(np.zeros((1, 4)), scheme.fit_parameters(np.zeros((1, 4)), bits, signed))).max() <= 1
    )


@pytest.mark.parametrize("name", BUILTIN)
def test_a_range_alone_gives_the_grid_again(name):
    scheme, signed = get_scheme(name), True
    bits = min(scheme.widths[-1], 8)
    x = data(signed)
    if scheme.stores_levels:
        parameters = scheme.fit_parameters(x, bits, signed, axis=0)
        again = scheme.parameters_from_levels(parameters.levels, bits, signed)
        result, expected = scheme.fake_quantize(x, again, 0), scheme.fake_quantize(x, parameters, 0)
        assert np.mean(np.abs(result - expected) > 1e-6) < 2e-3
    else:
        ranges = scheme.fit(x, bits, signed, axis=0)
        assert ranges.dtype == np.float32
        assert ranges.shape == (2, 2)
        expected = scheme.fake_quantize(x, scheme.fit_parameters(x, bits, signed, axis=0), 0)
        np.testing.assert_array_equal(scheme.fake_quantize(x, scheme.parameters(ranges, bits, signed), 0), expected)


def test_ternary_follows_twn():
    x = data(True)[0].astype(np.float64)
    threshold = 0.7 * np.abs(x).mean()
    scale = np.abs(x)[np.abs(x) > threshold].mean()
    scheme = get_scheme("ternary")
    result = scheme.fake_quantize(x, scheme.fit_parameters(x, 2, signed=True))
    expected = scale * np.clip(np.floor(x / (2 * threshold) + 0.5), -1, 1)
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_ternary_is_odd_at_its_threshold():
    scheme = get_scheme("ternary")
    parameters = scheme.parameters([[-0.5, 2.0]], 2, signed=True)
    assert scheme.quantize(np.array([-0.5, 0.5, -0.49, 0.49]), parameters).tolist() == [-1, 1, 0, 0]


def test_quaternary_follows_the_paper():
    x = data(True)[0].astype(np.float64)
    scale = x.std()
    scheme = get_scheme("quaternary")
    result = scheme.fake_quantize(x, scheme.fit_parameters(x, 2, signed=True))
    np.testing.assert_allclose(result, scale * (np.clip(np.floor(x / scale), -2, 1) + 0.5), rtol=1e-6)


@pytest.mark.parametrize("bits", range(2, 9))
def test_clipq_follows_the_paper(bits):
    x = data(True)[0].astype(np.float64)
    scheme = get_scheme("clipq-paper")
    step = x.std() * scheme.steps[bits]
    expected = step * (np.clip(np.floor(x / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) + 0.5)
    result = scheme.fake_quantize(x, scheme.fit_parameters(x, bits, signed=True))
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize("bits", range(2, 5))
def test_potq_follows_the_paper(bits):
    x = data(True)[0].astype(np.float64)
    scheme = get_scheme("potq-paper")
    unit = x.std() * scheme.steps[bits]
    v = np.clip(np.floor(np.log2(np.abs(x) / unit) + 0.5), 0, 2 ** (bits - 1) - 1)
    result = scheme.fake_quantize(x, scheme.fit_parameters(x, bits, signed=True))
    np.testing.assert_allclose(result, unit * np.where(x < 0, -1, 1) * 2.0 ** (v - (v == 0)), rtol=1e-5)


@pytest.mark.parametrize("bits", range(2, 9))
def test_fixedq_follows_the_paper_but_saturates(bits):
    x = data(True)[0].astype(np.float64)
    scale = 2.0 ** (np.floor(np.log2(np.abs(x).max())) - (bits - 2))
    expected = scale * np.clip(np.floor(x / scale + 0.5), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    scheme = get_scheme("fixedq")
    np.testing.assert_array_equal(scheme.fake_quantize(x, scheme.fit_parameters(x, bits, signed=True)), expected)


@pytest.mark.parametrize("bits", range(1, 9))
def test_zoomq_follows_the_paper(bits):
    x = data(True)[0].astype(np.float64)
    step, low = np.ptp(x) / 2**bits, x.min()
    expected = step * np.clip(np.floor((x - low) / step), 0, 2**bits - 1) + low + step / 2
    scheme = get_scheme("zoomq")
    np.testing.assert_allclose(
        scheme.fake_quantize(x, scheme.fit_parameters(x, bits, signed=True)), expected, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("bits", range(1, 7))
def test_resq_follows_the_recursion_of_the_paper(bits):
    x = data(True)[0].astype(np.float64)
    residual, expected = x.copy(), np.zeros_like(x)
    for _ in range(bits):
        term = np.abs(residual).mean() * np.where(residual < 0, -1, 1)
        expected, residual = expected + term, residual - term
    scheme = get_scheme("resq")
    result = scheme.fake_quantize(x, scheme.fit_parameters(x, bits, signed=True))
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bits", range(2, 9))
def test_dorefa_follows_equation_nine(bits):
    w = data(True)[0].astype(np.float64)
    top = 2**bits - 1
    r = np.tanh(w) / (2 * np.abs(np.tanh(w)).max()) + 0.5
    scheme = get_scheme("dorefa")
    result = scheme.fake_quantize(w, scheme.fit_parameters(w, bits, signed=True))
    assert np.mean(np.abs(result - (2 * np.round(top * r) / top - 1)) > 1e-5) < 2e-3


@pytest.mark.parametrize("bits", range(2, 9))
def test_wrpn_follows_equation_one_of_releq(bits):
    w = data(True)[0].astype(np.float64)
    largest, steps = np.abs(w).max(), 2 ** (bits - 1) - 1
    scheme = get_scheme("wrpn")
    result = scheme.fake_quantize(w, scheme.fit_parameters(w, bits, signed=True))
    np.testing.assert_allclose(result, largest * np.round(steps * (w / largest)) / steps, rtol=1e-5)


@pytest.mark.parametrize("name", ["power-of-two", "fixedq"])
def test_scales_are_powers_of_two(name):
    scheme = get_scheme(name)
    for signed in (True, False):
        scale = scheme.fit_parameters(data(signed), 4, signed, axis=0).scale
        assert (np.frexp(scale)[0] == 0.5).all()


def test_kmeans_is_not_worse_than_any_other_scheme_of_its_width():
    x = data(True)

    def loss(name):
        scheme = get_scheme(name)
        return np.mean((scheme.fake_quantize(x, scheme.fit_parameters(x, 3, signed=True, axis=0), 0) - x) ** 2)

    others = [name for name in BUILTIN if 3 in get_scheme(name).widths and name != "kmeans"]
    assert loss("kmeans") <= min(loss(name) for name in others)


def test_kmeans_represents_few_distinct_values_exactly():
    scheme, x = get_scheme("kmeans"), np.array([1.0, 5.0, -2.0, 5.0], dtype=np.float32)
    np.testing.assert_array_equal(scheme.fake_quantize(x, scheme.fit_parameters(x, 3, signed=True)), x)


def test_lsq_starts_at_the_step_of_the_paper():
    x = data(True)[0]
    scale = get_scheme("lsq").fit_parameters(x, 4, signed=True).scale[0]
    assert scale == pytest.approx(2 * np.abs(x).mean() / np.sqrt(7), rel=1e-6)


def test_pact_and_lsq_activations_have_zero_point_zero():
    for name in ("pact", "lsq"):
        assert get_scheme(name).parameters([[-3.0, 2.0]], 4, signed=False).zero_point.tolist() == [0]


@settings(max_examples=30)
@given(st.integers(1, 8), st.floats(2.0**-20, 2.0**20))
def test_additive_powers_of_two_have_full_codes(bits, top):
    scheme = get_scheme("additive-power-of-two")
    if bits >= 2:
        grid = scheme.grid(scheme.parameters([[0.0, top]], bits, signed=False))
        assert len(np.unique(grid)) == 1 << bits
        assert len(np.unique(scheme.grid(scheme.parameters([[-top, top]], bits, signed=True)))) == (1 << bits) - 1


def test_signed_only_schemes_say_so():
    for name in ("ternary", "quaternary"):
        with pytest.raises(QirError, match="unsigned"):
            get_scheme(name).fit(data(False), 2, signed=False)


def test_storage_is_declared():
    assert get_scheme("resq").storage is Storage.BINARY_SUM
    assert get_scheme("kmeans").storage is Storage.CODEBOOK
    assert get_scheme("clipq").storage is Storage.INTEGER


@pytest.mark.parametrize(("name", "bits", "signed"), CASES)
def test_grids_are_stored_as_their_scheme_declares(name, bits, signed):
    scheme = get_scheme(name)
    parameters = scheme.fit_parameters(data(signed), bits, signed, axis=0)
    assert parameters.has_integer_codes == (scheme.storage is Storage.INTEGER)
    if scheme.storage is Storage.BINARY_SUM:
        levels = parameters.levels.astype(np.float64)
        signs = 2 * ((np.arange(1 << bits)[:, None] >> np.arange(bits)[::-1]) & 1) - 1
        parts = np.concatenate([np.ones((1 << bits, 1)), signs], axis=1)
        weights = np.linalg.lstsq(parts, levels.T, rcond=None)[0]
        np.testing.assert_allclose(parts @ weights, levels.T, atol=1e-5)


def test_a_scheme_of_ones_own_is_registered_in_a_few_lines():
    from dataclasses import dataclass
    from typing import ClassVar

    @dataclass(frozen=True)
    class Halves(Scheme):
        name: ClassVar[str] = "test-halves"
        widths: ClassVar[tuple[int, ...]] = (2, 3)
        storage: ClassVar[Storage] = Storage.INTEGER

        def _parameters(self, ranges, bits, signed, narrow):
            scale, zero = np.full(len(ranges), 0.5, np.float32), np.zeros(len(ranges), np.int32)
            return QuantParameters(bits, signed, scale, zero, 0, (1 << bits) - 1)

    scheme = register(Halves())
    assert get_scheme("test-halves") is scheme
    assert scheme.fake_quantize(np.array([0.6, 9.0]), scheme.fit_parameters(np.ones(1), 2, True)).tolist() == [0.5, 1.5]
    with pytest.raises(QirError, match="taken"):
        register(type("Other", (Halves,), {})())
    again = register(
        type("Halves", (Halves,), {"__module__": Halves.__module__, "__qualname__": Halves.__qualname__})()
    )
    assert get_scheme(scheme.name) is again
    for nothing in ("halves", Halves, type("Nameless", (Halves.__base__,), {"_parameters": None})()):
        with pytest.raises(QirError, match="is not a scheme"):
            register(nothing)


@pytest.mark.parametrize("name", BUILTIN)
def test_values_that_have_no_range_are_refused(name):
    scheme = get_scheme(name)
    bits, signed = scheme.widths[-1], max(scheme.signedness)
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(QirError, match="fit: holds"):
            scheme.fit([[1.0, bad]], bits, signed)


@pytest.mark.parametrize("name", ["uniform", "fixedq", "power-of-two", "pact"])
def test_a_range_whose_lowest_level_float32_does_not_hold_is_refused(name):
    with pytest.raises(QirError, match="too wide"):
        get_scheme(name).parameters([[-3.4e38, 3.4e38]], 3, signed=True)
