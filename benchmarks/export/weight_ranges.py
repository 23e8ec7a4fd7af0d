"""Accuracy after post-training quantization, by how the scales of weights are chosen.

    python benchmarks weight-ranges [--networks lenet resnet-20] [--images 1000]

Every weight at the width of the row, every activation at 8 bits, the first and last layer too. `plain` stores the
ranges only; `corrected` adds the channel-wise affine correction. Accuracy is measured on the first images of the
search-validation split of Fashion-MNIST.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import qir.models
from qir.backends.torch.module import TorchModule
from qir.fake_quant import quantizers
from qir.models import Samples
from qir.module import Module
from qir.passes import PassContext, PassManager, parse_pipeline
from qir.passes.calibration.weight_ranges import WEIGHT_METHODS
from qir.passes.constraints.policies import apply_policy
from qir.passes.correction.correct import CorrectChannels
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.policy import Policy
from qir.search import load_network

WIDTHS = (2, 3, 4)


def accuracy(module: Module, samples: Samples) -> float:
    """Share of right answers."""
    network, right = TorchModule(module), 0
    for start in range(0, len(samples.labels), 250):
        with torch.no_grad():
            outputs = network(torch.from_numpy(samples.images[start : start + 250]))
        assert isinstance(outputs, tuple)
        right += int((outputs[0].argmax(1).numpy() == samples.labels[start : start + 250]).sum())
    return right / len(samples.labels)


def calibrated(network: str, method: str, images: np.ndarray) -> tuple[Module, float]:
    """The network, calibrated for all widths, and the CPU seconds that calibration took."""
    module = load_network(qir.models.path(network))
    context = PassContext(calibration_data=images)
    insert = "insert-fake-quant{weight_widths=2|3|4|8,activation_widths=8}"
    PassManager(parse_pipeline(f"{SIMPLIFY},{insert}")).run(module, context)
    started = time.process_time()
    PassManager(parse_pipeline(f"calibrate{{weights={method}}},fit-bias")).run(module, context)
    return module, time.process_time() - started


def at_width(module: Module, bits: int) -> Module:
    """A copy with every weight at a width and every activation at 8 bits."""
    made = module.clone()
    names = quantizers(made.graph)
    apply_policy(made, Policy({name: bits if name.endswith(".weight") else 8 for name in names}))
    return made


def main() -> None:
    """Print one table per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["lenet", "resnet-20"])
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    data = qir.models.fashion_mnist("calibration").images
    test = qir.models.fashion_mnist("search-validation")
    test = Samples(test.images[: options.images], test.labels[: options.images], test.split)
    for network in options.networks:
        floats = accuracy(load_network(qir.models.path(network)), test)
        print(f"\n{network}: float {floats:.4f} on {len(test.labels)} images; {len(data)} calibration images")
        print("weights by        CPU s  " + "  ".join(f"W{b}A8 plain corrected" for b in WIDTHS))
        for method in WEIGHT_METHODS:
            module, seconds = calibrated(network, method, data)
            cells = []
            for bits in WIDTHS:
                made = at_width(module, bits)
                plain = accuracy(made, test)
                PassManager([CorrectChannels()]).run(made, PassContext(calibration_data=data))
                cells.append(f"     {plain:.4f}    {accuracy(made, test):.4f}")
            print(f"{method:16} {seconds:6.1f}  " + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
