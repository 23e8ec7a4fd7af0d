"""Fake quantization alone, forward and backward, on every tensor that ResNet-20 quantizes at batch 256.

    python benchmarks fake-quant [--batch 256] [--repeats 5] [--bits 4]

Compared: qir (true division), torch's fused operator (it multiplies by the reciprocal, so other codes on near ties),
torch's `FakeQuantize` module with its observer switched off, and Brevitas where it is installed. The engines take turns
on each tensor, the least time of the repeats counts, one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from qir.backends.torch.quantizers import fake_quantize

Engine = Callable[[Tensor, Tensor], Tensor]


def shapes(batch: int) -> list[tuple[int, ...]]:
    """Shape of each quantized tensor: the operands of the first layer, of 3 stages of 6 convolutions, of the last."""
    tensors: list[tuple[int, ...]] = [(batch, 3, 32, 32), (16, 3, 3, 3)]
    channels = 16
    for stage, (width, size) in enumerate([(16, 32), (32, 16), (64, 8)]):
        for index in range(6):
            entering = size * (2 if stage > 0 and index == 0 else 1)
            tensors += [(batch, channels, entering, entering), (width, channels, 3, 3)]
            channels = width
    return [*tensors, (batch, 64), (10, 64)]


def engines(bits: int) -> dict[str, Engine]:
    """Name to fake quantization at a scale, codes 0 to 2**bits - 1."""
    high, zero = 2**bits - 1, torch.zeros(1, dtype=torch.int32)
    found: dict[str, Engine] = {
        "qir": lambda x, scale: fake_quantize(x, scale, None, 0, high),
        "torch operator": lambda x, scale: torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, high),
        "torch FakeQuantize": torch_module(bits),
    }
    brevitas = brevitas_engine(bits)
    return found if brevitas is None else {**found, "Brevitas IntQuant": brevitas}


def torch_module(bits: int) -> Engine:
    """Torch's module with a fixed scale."""
    module = torch.ao.quantization.FakeQuantize(quant_min=0, quant_max=2**bits - 1)
    module.disable_observer()

    def run(x: Tensor, scale: Tensor) -> Tensor:
        module.scale.copy_(scale)
        result: Tensor = module(x)
        return result

    return run


def brevitas_engine(bits: int) -> Engine | None:
    """Brevitas' integer quantizer with straight-through rounding, or None."""
    try:
        from brevitas.core.function_wrapper import Identity, RoundSte, TensorClamp
        from brevitas.core.quant import IntQuant
    except ImportError:
        return None
    module = IntQuant(
        narrow_range=False,
        signed=False,
        input_view_impl=Identity(),
        float_to_int_impl=RoundSte(),
        tensor_clamp_impl=TensorClamp(),
    )
    zero, width = torch.tensor(0.0), torch.tensor(float(bits))

    def run(x: Tensor, scale: Tensor) -> Tensor:
        result: Tensor = module(scale, zero, width, x)
        return result

    return run


def seconds(engine: Engine, x: Tensor, scale: Tensor, gradient: Tensor) -> float:
    """CPU seconds of one forward and backward pass."""
    x.grad = None
    start = time.process_time()
    engine(x, scale).backward(gradient)  # type: ignore[no-untyped-call]
    return time.process_time() - start


def main() -> None:
    """Print the time over all tensors per engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bits", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rivals = engines(options.bits)
    total = dict.fromkeys(rivals, 0.0)
    for shape in shapes(options.batch):
        x, gradient = torch.randn(shape, requires_grad=True), torch.randn(shape)
        scale, least = torch.tensor([0.1]), dict.fromkeys(rivals, float("inf"))
        for _ in range(options.repeats + 1):
            for name, engine in rivals.items():
                least[name] = min(least[name], seconds(engine, x, scale, gradient))
        for name in rivals:
            total[name] += least[name]
    print(f"ResNet-20 at batch {options.batch}, {options.bits} bits: all tensors, forward and backward")
    for name, value in total.items():
        print(f"  {name:20} {value * 1e3:8.1f} ms   {value / total['qir']:5.2f} x qir")


if __name__ == "__main__":
    main()
