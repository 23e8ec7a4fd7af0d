"""Learned rounding (AdaRound) next to nearest rounding: accuracy after post-training quantization at few weight bits.

    python benchmarks rounding [--networks lenet resnet-20] [--widths 2 3 4] [--iterations 1000]

Every weight at the width of the row, every activation at 8 bits, the first and last layer too; weight ranges by least
error of the weight (`mse`, as AdaRound's paper) or of the layer's output (`output`, qir's default). No labels are used.
`corrected` adds the channel-wise affine correction. Accuracy is measured on the first images of the search-validation
split of Fashion-MNIST.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch

import qir
from qir.backends.torch.module import TorchModule
from qir.backends.training.retrain import accuracy
from qir.fake_quant import quantizers
from qir.models import Samples, fashion_mnist, path
from qir.module import Module
from qir.passes import Pass, PassContext, PassManager, apply_policy, parse_pipeline
from qir.passes.correction.adaround import AdaRound
from qir.passes.correction.correct import CorrectChannels
from qir.policy import Policy

PIPELINE = (
    "fold-constants,fold-batchnorm,insert-fake-quant{{weight_widths=2|3|4|8,activation_widths=8}},"
    "calibrate{{weights={weights}}},fit-bias"
)


def measured(module: Module, steps: Sequence[Pass], bits: int, data: np.ndarray, test: Samples) -> list[float]:
    """At a width of the weights: accuracy after some passes, then corrected too; CPU seconds of the passes."""
    made = module.clone()
    apply_policy(made, Policy({name: bits if name.endswith(".weight") else 8 for name in quantizers(made.graph)}))
    started = time.process_time()
    PassManager(steps).run(made, PassContext(calibration_data=data))
    seconds = time.process_time() - started
    found = accuracy(TorchModule(made), test)
    PassManager([CorrectChannels()]).run(made, PassContext(calibration_data=data))
    return [100 * found, 100 * accuracy(TorchModule(made), test), seconds]


def main() -> None:
    """Print one table per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["lenet", "resnet-20"])
    parser.add_argument("--widths", nargs="+", type=int, default=[2, 3, 4])
    parser.add_argument("--ranges", nargs="+", default=["mse", "output"], help="how weights are clipped")
    parser.add_argument("--iterations", type=int, default=AdaRound.iterations)
    parser.add_argument("--images", type=int, default=AdaRound.images)
    parser.add_argument("--samples", type=int, default=1000, help="images that accuracy is measured on")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, test = fashion_mnist("calibration").images, fashion_mnist("search-validation")
    test = Samples(test.images[: options.samples], test.labels[: options.samples], test.split)
    adaround = AdaRound(iterations=options.iterations, images=options.images)
    print("| network | weights | ranges | nearest | corrected | AdaRound | AdaRound, corrected | CPU s of AdaRound |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for network in options.networks:
        for weights in options.ranges:
            module = qir.load(path(network))
            context = PassContext(calibration_data=data)
            PassManager(parse_pipeline(PIPELINE.format(weights=weights))).run(module, context)
            for bits in options.widths:
                nearest, learned = (measured(module, passes, bits, data, test) for passes in ([], [adaround]))
                cells = " | ".join(f"{rate:.1f}" for rate in (*nearest[:2], *learned[:2]))
                print(f"| {network} | {bits} bits | {weights} | {cells} | {learned[2]:.0f} |", flush=True)


if __name__ == "__main__":
    main()
