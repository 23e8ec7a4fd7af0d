"""Values and gradients equal those of Brevitas' binary, ternary and learned-step quantizers.

Brevitas lives in an environment of its own; QIR_BREVITAS_PYTHON names its interpreter:
`python -m venv E; E/bin/pip install brevitas==0.13.4`. Three differences are known and tested as such. The gradient of
binary and ternary weights: Brevitas multiplies it by the scale, and masks it where a ternary code is 0; qir passes it
on (AutoQNN and BinaryConnect: the derivative of the projection is 1). Values less than half a step beyond the end
codes: Brevitas lets their gradient pass (its mask is on rounded codes), LSQ's equation 3 does not.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from qir.backends.torch.quantizers import TorchParameters, fake_quantize, get_torch_scheme
from qir.quantizers import get_scheme

PYTHON = os.environ.get("QIR_BREVITAS_PYTHON")
COUNT = 100_000
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="QIR_BREVITAS_PYTHON names no interpreter with brevitas"),
]


def step(bits):
    return np.float32(4.0 / 2**bits * 1.1)


@pytest.fixture(scope="module")
def given():
    generator = np.random.default_rng(0)
    x = generator.normal(size=COUNT).astype(np.float32)
    x[:3] = [0.0, -0.0, 0.5]
    return x, generator.normal(size=COUNT).astype(np.float32)


@pytest.fixture(scope="module")
def theirs(given, tmp_path_factory):
    folder = tmp_path_factory.mktemp("brevitas")
    x, upstream = given
    np.savez(folder / "in.npz", x=x, upstream=upstream, **{f"scale{b}": [step(b)] for b in range(2, 9)})
    script = Path(__file__).with_name("brevitas_values.py")
    command = [PYTHON, str(script), str(folder / "in.npz"), str(folder / "out.npz")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "out.npz")


def ours(run, given, scale):
    x, upstream = (torch.from_numpy(array) for array in given)
    x, scale = x.clone().requires_grad_(), torch.tensor([scale], requires_grad=True)
    result = run(x, scale)
    (result * upstream).sum().backward()
    return result.detach().numpy(), x.grad.numpy(), scale.grad


def test_binary(given, theirs):
    value, of_x, of_scale = ours(lambda x, s: fake_quantize(x, s, None, -1, 1, code_step=2), given, 0.7)
    np.testing.assert_array_equal(value, theirs["binary value"])
    np.testing.assert_allclose(np.float32(0.7) * of_x, theirs["binary of_x"], rtol=1e-6)
    assert of_scale.item() == pytest.approx(theirs["binary of_scale"].item(), rel=1e-4)


def test_ternary(given, theirs):
    parameters = TorchParameters.of(get_scheme("ternary").parameters([[-0.5, 1.0]], 2, signed=True))
    x, upstream = (torch.from_numpy(array) for array in given)
    x = x.clone().requires_grad_()
    result = get_torch_scheme("ternary").fake_quantize(x, parameters)
    (result * upstream).sum().backward()
    neighbour = np.abs(given[0]) != 0.5  # at the threshold itself Brevitas gives 0, TWN (closed below) the scale
    np.testing.assert_array_equal(result.detach().numpy()[neighbour], theirs["ternary value"][neighbour])
    scale_of_codes = (theirs["ternary value"] != 0).astype(np.float32)  # times the scale, 1
    np.testing.assert_allclose(scale_of_codes * x.grad.numpy(), theirs["ternary of_x"], rtol=1e-6)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("signed", [True, False])
def test_learned_step(bits, signed, given, theirs):
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    value, of_x, of_scale = ours(lambda x, s: fake_quantize(x, s, None, low, high), given, step(bits))
    name = f"learned {bits} {signed}"
    np.testing.assert_array_equal(value, theirs[f"{name} value"])
    ratio = given[0] / step(bits)
    edge = ((ratio >= high) & (ratio <= high + 0.5)) | ((ratio <= low) & (ratio >= low - 0.5))
    np.testing.assert_allclose(of_x[~edge], theirs[f"{name} of_x"][~edge], rtol=1e-6)
    beyond = float((given[1].astype(np.float64) * ratio)[edge].sum())
    assert of_scale.item() - beyond == pytest.approx(theirs[f"{name} of_scale"].item(), rel=1e-3, abs=0.5)
