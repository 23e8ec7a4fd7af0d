"""Fake-quantized training of ResNet-20: forward and backward pass in qir, with torch's modules and with Brevitas.

    OMP_NUM_THREADS=1 python benchmarks training [--batch 256] [--repeats 5]

Brevitas' row needs an interpreter that has it next to qir: `python -m venv E; E/bin/pip install brevitas==0.13.4 -e .`.

Both run the same network with BatchNorm folded, with fake quantizers on the same tensors (weights per channel, data per
tensor, fixed ranges, which Brevitas computes of weights at every step; qir shares one where two layers read one value),
in turn, on one thread; the best of the repeats counts.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_eval

import qir
from qir.backends.torch.module import TorchModule
from qir.fake_quant import quantizers
from qir.models.builders import build, export_onnx
from qir.passes import run_passes

PIPELINE = (
    "fold-constants,fold-batchnorm,insert-fake-quant{placement=qag,weight_widths=4|8,activation_widths=4|8,"
    "input_widths=all},calibrate{method=minmax,weights=minmax}"
)


def qir_network(images: torch.Tensor) -> TorchModule:
    with tempfile.TemporaryDirectory() as folder:
        module = qir.load(export_onnx("resnet-20", Path(folder) / "network.onnx", random_batch_norm=False))
    run_passes(module, PIPELINE, data=images[:32].numpy())
    return TorchModule(module, trainable=True, quantize_bias=False)


def fused(network: nn.Module) -> nn.Module:
    """BatchNorm folded into the convolution whose name precedes it."""
    previous: tuple[nn.Module, str, nn.Conv2d] | None = None
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                previous = (parent, name, child)
            elif isinstance(child, nn.BatchNorm2d) and previous is not None:
                setattr(previous[0], previous[1], fuse_conv_bn_eval(previous[2], child))
                setattr(parent, name, nn.Identity())
                previous = None
    return network


def torch_network(images: torch.Tensor, bits: int) -> nn.Module:
    """Torch's `FakeQuantize` on every weight and on the data operand of every layer, ranges fixed after one batch."""
    from torch.ao.quantization import FakeQuantize, MinMaxObserver, PerChannelMinMaxObserver

    network = fused(build("resnet-20").eval())
    top = 2 ** (bits - 1) - 1
    fakes: list[nn.Module] = []
    for layer in list(network.modules()):
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        weight = FakeQuantize(
            PerChannelMinMaxObserver,
            quant_min=-top,
            quant_max=top,
            dtype=torch.qint8,
            qscheme=torch.per_channel_symmetric,
            ch_axis=0,
        )
        data = FakeQuantize(MinMaxObserver, quant_min=0, quant_max=2**bits - 1, dtype=torch.quint8)
        parametrize.register_parametrization(layer, "weight", weight)
        layer.register_forward_pre_hook(lambda _, inputs, data=data: (data(inputs[0]),))
        fakes += [weight, data]
    with torch.no_grad():
        network(images[:32])
    for fake in fakes:
        fake.disable_observer()
    print(f"torch.ao: {len(fakes)} fake quantizers, channels last")
    return network.to(memory_format=torch.channels_last)


def brevitas_network(images: torch.Tensor, bits: int) -> nn.Module | None:
    """Brevitas' layers in place of torch's, when Brevitas is installed."""
    if importlib.util.find_spec("brevitas") is None:
        print("Brevitas is not installed: its row is left out")
        return None
    import brevitas.nn as qnn
    from brevitas.quant import Int8WeightPerChannelFloat, Uint8ActPerTensorFloat

    shared = {
        "bias": True,
        "weight_quant": Int8WeightPerChannelFloat,
        "weight_bit_width": bits,
        "input_quant": Uint8ActPerTensorFloat,
        "input_bit_width": bits,
        "input_collect_stats_steps": 1,  # from then on the range is a parameter
    }
    network, layers = fused(build("resnet-20").eval()), 0
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d):
                shape = (child.in_channels, child.out_channels, child.kernel_size, child.stride, child.padding)
                made = qnn.QuantConv2d(*shape, **shared)
            elif isinstance(child, nn.Linear):
                made = qnn.QuantLinear(child.in_features, child.out_features, **shared)
            else:
                continue
            made.load_state_dict(child.state_dict(), strict=False)
            setattr(parent, name, made)
            layers += 1
    print(f"Brevitas: {layers} layers with a quantizer of weights and one of data, channels last")
    network.train()
    network(images[:32])
    return network.to(memory_format=torch.channels_last)


def step(network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, labels: torch.Tensor) -> float:
    """CPU seconds of one forward and backward pass, which other programs on the machine disturb less than the clock."""
    start = time.process_time()
    nn.functional.cross_entropy(network(images), labels).backward()
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--bits", type=int, nargs="+", choices=(4, 8), default=(8, 4))
    options = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((options.batch, 3, 32, 32), generator=generator)
    labels = torch.randint(0, 10, (options.batch,), generator=generator)
    last = images.to(memory_format=torch.channels_last)
    ours = qir_network(images)
    names = quantizers(ours.graph)
    print(f"qir: {len(names)} fake quantizers, one network for all widths; {torch.get_num_threads()} threads")
    print(f"batch {options.batch}; CPU seconds for one forward and backward pass")
    print("| bits | network | seconds | of torch.ao |\n| --- | --- | --- | --- |")
    for bits in options.bits:
        ours.set_policy(dict.fromkeys(names, bits))
        theirs = torch_network(images, bits)
        rows: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], torch.Tensor]] = {
            "qir": (lambda x: ours(x)[0], images),
            "torch.ao.quantization.FakeQuantize": (theirs, last),
        }
        brevitas = brevitas_network(images, bits)
        if brevitas is not None:
            rows["Brevitas"] = (brevitas, last)
        times: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(options.repeats + 1):
            for name, (network, x) in rows.items():
                times[name].append(step(network, x, labels))
        best = {name: float(np.min(seen[1:])) for name, seen in times.items()}
        for name, seconds in best.items():
            print(f"| {bits} | {name} | {seconds:.3f} | {seconds / best['torch.ao.quantization.FakeQuantize']:.2f} |")
        slower = ", ".join(name for name in best if best[name] < best["qir"])
        print(f"| {bits} | qir at least as fast as all others | {f'no, slower than {slower}' if slower else 'yes'} | |")


if __name__ == "__main__":
    main()
