"""Runs in Brevitas' own environment: `brevitas_values.py IN.npz OUT.npz` quantizes with Brevitas, with gradients."""

import sys

import numpy as np
import torch
from brevitas.core.function_wrapper import Identity, RoundSte, TensorClamp
from brevitas.core.quant import BinaryQuant, IntQuant, TernaryQuant
from brevitas.core.scaling import ParameterScaling


def run(quantize, x, upstream, scale):
    """Values, gradient of the input, gradient of the scale."""
    x = torch.from_numpy(x).requires_grad_()
    result = quantize(x)
    (result * torch.from_numpy(upstream)).sum().backward()
    return result.detach().numpy(), x.grad.numpy(), scale.grad.numpy()


def main() -> None:
    """Binary at scale 0.7, ternary at scale 1 and threshold 0.5, integers of 2 to 8 bits at the scales given."""
    given = np.load(sys.argv[1])
    x, upstream = given["x"], given["upstream"]
    found = {}
    for name, scaling, made in (
        ("binary", ParameterScaling(0.7), BinaryQuant),
        ("ternary", ParameterScaling(1.0), lambda scaling: TernaryQuant(scaling, 0.5)),
    ):
        quantizer = made(scaling)
        found[name] = run(lambda x, q=quantizer: q(x)[0], x, upstream, scaling.value)
    for bits in range(2, 9):
        for signed in (True, False):
            quantizer = IntQuant(
                narrow_range=False,
                signed=signed,
                input_view_impl=Identity(),
                float_to_int_impl=RoundSte(),
                tensor_clamp_impl=TensorClamp(),
            )
            scale = torch.tensor(given[f"scale{bits}"], requires_grad=True)
            zero, width = torch.tensor(0.0), torch.tensor(float(bits))
            found[f"learned {bits} {signed}"] = run(
                lambda x, q=quantizer, s=scale, z=zero, w=width: q(s, z, w, x), x, upstream, scale
            )
    parts = ("value", "of_x", "of_scale")
    np.savez(sys.argv[2], **{f"{n} {p}": a for n, arrays in found.items() for p, a in zip(parts, arrays, strict=True)})


if __name__ == "__main__":
    main()
