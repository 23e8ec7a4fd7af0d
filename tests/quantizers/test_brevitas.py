"""Against Brevitas' quantizers (`pip install brevitas`); skipped where it is not installed.

Values are equal. Of the gradients, the learned step's is compared; for binary and ternary weights Brevitas multiplies
the gradient by the scale, where qir passes it on (AutoQNN and BinaryConnect: the derivative of the projection is 1).
"""

import numpy as np
import pytest
import torch

from qir.backends.torch_quantizers import TorchParameters, fake_quantize, get_torch_scheme
from qir.quantizers import get_scheme

pytest.importorskip("brevitas")
pytestmark = pytest.mark.slow


def values(count=100_000):
    return torch.randn(count, generator=torch.Generator().manual_seed(0))


def test_binary_values():
    from brevitas.core.quant import BinaryQuant
    from brevitas.core.scaling import ConstScaling

    x = torch.cat([values(), torch.zeros(1)])
    parameters = get_scheme("binary").parameters([[-0.7, 0.7]], 1, signed=True)
    ours = get_torch_scheme("binary").fake_quantize(x, TorchParameters.of(parameters))
    assert torch.equal(ours, BinaryQuant(ConstScaling(0.7))(x)[0])


def test_ternary_values():
    from brevitas.core.quant import TernaryQuant
    from brevitas.core.scaling import ConstScaling

    x = values()
    parameters = get_scheme("ternary").parameters([[-0.5, 1.0]], 2, signed=True)
    ours = get_torch_scheme("ternary").fake_quantize(x, TorchParameters.of(parameters))
    assert torch.equal(ours, TernaryQuant(ConstScaling(1.0), 0.5)(x)[0])


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_learned_step_has_the_same_values_and_gradients(bits, signed):
    from brevitas.core.function_wrapper import Identity, RoundSte, TensorClamp
    from brevitas.core.quant import IntQuant

    theirs = IntQuant(
        narrow_range=False,
        signed=signed,
        input_view_impl=Identity(),
        float_to_int_impl=RoundSte(),
        tensor_clamp_impl=TensorClamp(),
    )
    upstream = torch.randn(100_000, generator=torch.Generator().manual_seed(1))
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    results = []
    for run in (
        lambda x, s: fake_quantize(x, s, None, low, high),
        lambda x, s: theirs(s, torch.tensor(0.0), torch.tensor(float(bits)), x),
    ):
        x, scale = values().requires_grad_(), torch.tensor([4.0 / 2**bits * 1.1], requires_grad=True)
        result = run(x, scale)
        (result * upstream).sum().backward()
        results.append((result.detach(), x.grad, scale.grad))
    (ours, of_x, of_scale), (other, other_x, other_scale) = results
    assert torch.equal(ours, other)
    # Brevitas lets values between the end code and half a step beyond it pass: its mask is on rounded codes.
    ratio = (values() / (4.0 / 2**bits * 1.1)).numpy()
    edge = ((ratio >= high) & (ratio <= high + 0.5)) | ((ratio <= low) & (ratio >= low - 0.5))
    np.testing.assert_allclose(of_x.numpy()[~edge], other_x.numpy()[~edge], rtol=1e-6)  # it multiplies and divides
    correction = float((upstream.numpy() * ratio)[edge].sum())
    assert of_scale.item() - correction == pytest.approx(other_scale.item(), rel=1e-3, abs=0.5)
