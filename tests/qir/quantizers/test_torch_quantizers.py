import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper

from qir import quantizers
from qir.backends.torch.quantizers import TorchParameters, fake_quantize, fake_quantize_channels, get_torch_scheme
from qir.quantizers import get_scheme, scheme_names

CASES = [
    (name, bits, signed)
    for name in scheme_names()
    if "test" not in name
    for bits in get_scheme(name).widths
    if bits <= 8
    for signed in sorted(get_scheme(name).signedness)
]


def near_ties(scale, size, seed=0):
    """Values at, one float above and one float below half steps, plus subnormals, zeros and ordinary ones."""
    rng = np.random.default_rng(seed)
    ties = ((rng.integers(-300, 300, size) + 0.5) * float(scale)).astype(np.float32)
    up, down = np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))
    tiny = np.array([0.0, -0.0, 1e-45, -1e-45, 1e-40, -1e-40, 1e30, -1e30], dtype=np.float32)
    return np.concatenate([ties, up, down, tiny, (rng.normal(size=size) * 50 * float(scale)).astype(np.float32)])


def onnx_quantize(x, parameters):
    """Values and codes of ONNX Runtime's QuantizeLinear and DequantizeLinear on 16-bit integers."""
    kind = TensorProto.INT16 if parameters.signed else TensorProto.UINT16
    dtype = np.int16 if parameters.signed else np.uint16
    scale, zero = parameters.scale[0], parameters.zero_point.astype(dtype)[0]

    def constant(name, array, tensor_type):
        return helper.make_tensor(name, tensor_type, [], [array])

    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [None]),
            helper.make_tensor_value_info("q", kind, [None]),
        ],
        [constant("s", scale, TensorProto.FLOAT), constant("z", int(zero), kind)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def onnx_values(x, parameters):
    """Codes and values of ONNX Runtime's Q, Clip, DQ: the clipped codes' values go through it once more."""
    _, codes = onnx_quantize(x, parameters)
    clipped = np.clip(codes.astype(np.int32), parameters.low_code, parameters.high_code)
    values, again = onnx_quantize(
        (clipped - parameters.zero_point[0]).astype(np.float32) * parameters.scale[0], parameters
    )
    np.testing.assert_array_equal(again, clipped)
    return clipped, values


@pytest.mark.parametrize(("name", "bits", "signed"), CASES)
@pytest.mark.parametrize("axis", [None, 1])
def test_torch_equals_numpy_to_the_bit(name, bits, signed, axis):
    scheme, twin = get_scheme(name), get_torch_scheme(name)
    fit = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)
    parameters = scheme.fit_parameters(fit if signed else np.maximum(fit, 0), bits, signed, axis=axis)
    x = near_ties(parameters.scale[0], 999)
    x = np.stack([x, x, x], axis=1)
    tensor = torch.from_numpy(x).requires_grad_()
    expected = scheme.fake_quantize(x, parameters, axis)
    for source in (tensor, tensor.detach()):
        result = twin.fake_quantize(source, TorchParameters.of(parameters), axis)
        np.testing.assert_array_equal(result.detach().numpy(), expected)


@pytest.mark.parametrize("name", [name for name in scheme_names() if "test" not in name])
def test_torch_grids_equal_numpy_grids(name):
    scheme, twin = get_scheme(name), get_torch_scheme(name)
    x = np.random.default_rng(2).normal(size=(4, 50)).astype(np.float32)
    x[3] = 0
    for bits in scheme.widths[:8]:
        for signed in scheme.signedness:
            ranges = twin.fit(torch.from_numpy(x), bits, signed, axis=0)
            np.testing.assert_array_equal(ranges.numpy(), scheme.fit(x, bits, signed, axis=0))
            ours, theirs = twin.parameters(ranges, bits, signed), scheme.parameters(ranges.numpy(), bits, signed)
            np.testing.assert_array_equal(ours.scale.numpy(), theirs.scale)
            assert (ours.low_code, ours.high_code, ours.code_step) == (
                theirs.low_code,
                theirs.high_code,
                theirs.code_step,
            )


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, 30, elements=st.floats(width=32, allow_nan=False)),
    st.floats(2.0**-30, 2.0**30, width=32),
    st.integers(2, 8),
    st.booleans(),
)
def test_any_float_equals_onnx_runtime(x, high, bits, signed):
    scheme = get_scheme("uniform")
    parameters = scheme.parameters([[-high / 3, high]], bits, signed)
    codes, values = onnx_values(x, parameters)
    np.testing.assert_array_equal(scheme.quantize(x, parameters), codes)
    np.testing.assert_array_equal(scheme.fake_quantize(x, parameters), values)
    tensor = get_torch_scheme("uniform").fake_quantize(torch.from_numpy(x), TorchParameters.of(parameters))
    np.testing.assert_array_equal(tensor.numpy(), values)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("name", ["uniform", "uniform-asymmetric", "power-of-two"])
def test_near_ties_equal_onnx_runtime(name, bits):
    scheme = get_scheme(name)
    parameters = scheme.parameters([[-0.7, 1.3]], bits, signed=True)
    x = near_ties(parameters.scale[0], 20_000)
    codes, values = onnx_values(x, parameters)
    np.testing.assert_array_equal(scheme.quantize(x, parameters), codes)
    np.testing.assert_array_equal(scheme.fake_quantize(x, parameters), values)


@pytest.mark.slow
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_ten_million_values_equal_onnx_runtime(bits, signed):
    scheme = get_scheme("uniform")
    if signed and bits == 1:
        pytest.skip("1 bit signed is bipolar: QuantizeLinear has no such grid")
    parameters = scheme.parameters([[-0.9, 1.1]], bits, signed)
    twin = get_torch_scheme("uniform")
    for seed in range(4):
        x = near_ties(parameters.scale[0], 625_000, seed)
        codes, values = onnx_values(x, parameters)
        assert not (scheme.quantize(x, parameters) != codes).any()
        assert not (scheme.fake_quantize(x, parameters) != values).any()
        assert not (twin.fake_quantize(torch.from_numpy(x), TorchParameters.of(parameters)).numpy() != values).any()


@pytest.mark.parametrize("bits", range(2, 9))
def test_power_of_two_scales_equal_torchs_own_fake_quantize(bits):
    parameters = get_scheme("power-of-two").parameters([[-1.0, 1.0], [-0.2, 0.3]], bits, signed=True)
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    ours = get_torch_scheme("power-of-two").fake_quantize(x, TorchParameters.of(parameters), 1)
    theirs = torch.fake_quantize_per_channel_affine(
        x,
        torch.from_numpy(parameters.scale),
        torch.zeros(2, dtype=torch.int32),
        1,
        parameters.low_code,
        parameters.high_code,
    )
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize(("name", "signed"), [("power-of-two", True), ("power-of-two", False), ("fixedq", True)])
def test_one_power_of_two_scale_equals_torchs_own_fake_quantize_with_its_gradient(name, bits, signed):
    parameters = get_scheme(name).parameters([[-0.9, 1.0] if signed else [0.0, 1.0]], bits, signed)
    values = torch.from_numpy(near_ties(parameters.scale[0], 20_000))
    low, high, scale = parameters.low_code, parameters.high_code, float(parameters.scale[0])
    results = []
    for run in (
        lambda x: fake_quantize(x, torch.from_numpy(parameters.scale), None, low, high),
        lambda x: torch.fake_quantize_per_tensor_affine(x, scale, int(parameters.zero_point[0]), low, high),
    ):
        x = values.clone().requires_grad_()
        run(x).sum().backward()
        results.append((run(x).detach(), x.grad))
    ordinary = values.abs() < 1e9  # torch turns larger codes into int64 before it clips
    assert torch.equal(results[0][0][ordinary], results[1][0][ordinary])
    assert torch.equal(results[0][1][ordinary], results[1][1][ordinary])


def slope(function, point, step):
    """Central finite difference in float64."""
    return (function(point + step) - function(point - step)) / (2 * step)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4])
def test_learned_step_equals_finite_differences_of_the_smoothed_function(bits, signed):
    """Rounding is replaced by a line of slope 1 through its value, which is what straight-through takes it for."""
    generator = torch.Generator().manual_seed(bits)
    x, upstream = (torch.randn(200, generator=generator) for _ in range(2))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    here = torch.tensor([0.37], requires_grad=True)
    (fake_quantize(x, here, None, low, high) * upstream).sum().backward()
    ratio = x.double() / 0.37

    def smoothed(step):
        moved = ratio.round() + (x.double() / step - ratio)
        code = torch.where(ratio <= low, low, torch.where(ratio >= high, high, moved))
        return float((step * code * upstream.double()).sum())

    assert here.grad.item() == pytest.approx(slope(smoothed, 0.37, 1e-6), rel=1e-4)


@pytest.mark.parametrize("bits", [2, 4])
def test_learned_clip_equals_finite_differences_of_the_smoothed_function(bits):
    """PACT's function without rounding is clip(x, 0, a): its slope in a is 1 for saturated values."""
    generator = torch.Generator().manual_seed(bits)
    x, upstream = torch.rand(200, generator=generator) * 2, torch.randn(200, generator=generator)
    twin = get_torch_scheme("pact")
    ranges = torch.tensor([[0.0, 1.3]], requires_grad=True)
    (twin.fake_quantize(x, twin.parameters(ranges, bits, False)) * upstream).sum().backward()

    def smoothed(high):
        return float((x.double().clamp(0, high) * upstream.double()).sum())

    assert ranges.grad[0, 1].item() == pytest.approx(slope(smoothed, 1.3, 1e-6), rel=1e-4)


def test_gradient_passes_inside_and_is_masked_outside():
    x = torch.tensor([-3.0, -0.5, 0.2, 0.9, 3.0], requires_grad=True)
    fake_quantize(x, torch.tensor([0.25]), None, -4, 3).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0, 0]


def test_widths_per_channel_are_tensors_of_codes():
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([0.5, 0.1])
    result = fake_quantize(x, scale, None, torch.tensor([-2.0, -8.0]), torch.tensor([1.0, 7.0]), 1)
    for channel, (low, high) in enumerate([(-2, 1), (-8, 7)]):
        alone = fake_quantize(x[:, channel], scale[channel : channel + 1], None, low, high)
        assert torch.equal(result[:, channel], alone)


@pytest.mark.parametrize("name", ["binary", "ternary", "quaternary", "resq"])
def test_weight_schemes_of_few_levels_pass_every_gradient(name):
    scheme = get_scheme(name)
    x = torch.tensor([-9.0, -0.1, 0.1, 9.0], requires_grad=True)
    parameters = scheme.fit_parameters(x.detach().numpy(), scheme.widths[0], signed=True)
    get_torch_scheme(name).fake_quantize(x, TorchParameters.of(parameters)).sum().backward()
    assert x.grad.tolist() == [1, 1, 1, 1]


def test_codebook_gradient_is_masked_beyond_its_ends():
    x = torch.tensor([-9.0, -0.1, 0.1, 9.0], requires_grad=True)
    parameters = get_scheme("zoomq").parameters([[-1.0, 1.0]], 3, signed=True)
    get_torch_scheme("zoomq").fake_quantize(x, TorchParameters.of(parameters)).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("axis", [None, 0])
def test_lsq_step_has_the_gradient_of_equation_three(signed, axis):
    twin, generator = get_torch_scheme("lsq"), torch.Generator().manual_seed(0)
    x = torch.randn(2, 40, generator=generator).abs() if not signed else torch.randn(2, 40, generator=generator)
    ranges = twin.fit(x, 3, signed, axis=axis).requires_grad_()
    upstream = torch.randn(2, 40, generator=generator)
    (twin.fake_quantize(x, twin.parameters(ranges, 3, signed), axis) * upstream).sum().backward()
    low, high = (-4, 3) if signed else (0, 7)
    step = (ranges[:, 1] / high).detach().reshape(-1, 1)
    v = x / step
    of_step = torch.where(v <= low, float(low), torch.where(v >= high, float(high), v.round() - v))
    expected = (upstream * of_step).reshape(len(step), -1).sum(1) / (x.numel() / len(step) * high) ** 0.5 / high
    torch.testing.assert_close(ranges.grad[:, 1], expected, rtol=1e-4, atol=1e-6)
    assert not ranges.grad[:, 0].any()


def test_pact_clip_receives_the_gradient_of_saturated_values():
    twin = get_torch_scheme("pact")
    x = torch.tensor([-1.0, 0.3, 0.99, 1.3, 7.0], requires_grad=True)
    ranges = torch.tensor([[0.0, 1.0]], requires_grad=True)
    upstream = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    (twin.fake_quantize(x, twin.parameters(ranges, 2, False)) * upstream).sum().backward()
    assert x.grad.tolist() == [0, 2, 3, 0, 0]
    assert ranges.grad[0, 1].item() == pytest.approx(9.0)


def test_dorefa_gradient_passes_through_tanh():
    twin = get_torch_scheme("dorefa")
    w = torch.tensor([-0.8, 0.1, 0.5], requires_grad=True)
    twin.fake_quantize(w, twin.parameters(twin.fit(w, 3, True), 3, True)).sum().backward()
    expected = (1 - torch.tanh(w.detach()) ** 2) / np.tanh(0.8)
    torch.testing.assert_close(w.grad, expected)


def test_channels_of_zeros_have_finite_values_and_gradients_in_every_scheme():
    x = np.array([[0.0, -0.0, 0.0], [0.5, -1.0, 2.0]], np.float32)
    for name, bits, signed in CASES:
        parameters = get_scheme(name).fit_parameters(x, bits, signed, axis=0)
        tensor = torch.from_numpy(x).requires_grad_()
        result = get_torch_scheme(name).fake_quantize(tensor, TorchParameters.of(parameters), 0)
        result.sum().backward()
        np.testing.assert_array_equal(result.detach().numpy(), get_scheme(name).fake_quantize(x, parameters, 0))
        assert torch.isfinite(tensor.grad).all(), name


def test_learned_ranges_are_written_back_mirrored():
    ranges = torch.tensor([[-3.0, 1.5]])
    assert get_torch_scheme("lsq").stored_ranges(ranges, signed=True).tolist() == [[-1.5, 1.5]]
    assert get_torch_scheme("pact").stored_ranges(ranges, signed=False).tolist() == [[0.0, 1.5]]


def test_widths_per_channel_equal_numpy_and_pruned_channels_get_no_gradient():
    x = np.random.default_rng(0).normal(size=(4, 6, 3)).astype(np.float32)
    bits, names = (0, 1, 2, 3, 3, 8), {1: "binary", 2: "ternary", 3: "zoomq", 8: "uniform"}
    grids = {width: get_scheme(name).fit_parameters(x, width, True, axis=1) for width, name in names.items()}
    tensor = torch.from_numpy(x).requires_grad_()
    twins = {width: (get_torch_scheme(names[width]), TorchParameters.of(grid)) for width, grid in grids.items()}
    result = fake_quantize_channels(tensor, twins, bits, 1)
    np.testing.assert_array_equal(result.detach().numpy(), quantizers.fake_quantize_channels(x, grids, bits, 1))
    result.sum().backward()
    assert not tensor.grad[:, 0].any()
    assert tensor.grad[:, 1].all()
