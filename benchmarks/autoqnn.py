"""AutoQNN in small: table 7 of the paper (Gong et al., 2024) on the shipped LeNet and slice of Fashion-MNIST.

    python benchmarks/autoqnn.py [--network lenet] [--epochs 4] [--bits 3]

Every row trains the same number of epochs from the same float network: single schemes at one width, the scheme search
model-wise and layer-wise, and the search followed by precision learning at the same average bits. The network, the data
and the lengths are far smaller than the paper's; test accuracy is measured once per row, at the end.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import torch

import qir
from qir.backends.torch_module import TorchModule
from qir.models.data.fashion_mnist import fashion_mnist
from qir.models.data.samples import Samples
from qir.models.shipped import path
from qir.module import Module
from qir.passes import PassContext, PassManager, parse_pipeline
from qir.search.autoqnn import AutoQnn
from qir.search.autoqnn_protocol import AutoQnnProtocol

SINGLE = ("fixedq", "zoomq", "clipq", "clipq-paper", "potq", "potq-paper", "uniform")
CANDIDATES = ("fixedq", "zoomq", "clipq", "potq")
PIPELINE = (
    "fold-constants,fold-batchnorm,insert-fake-quant{{placement=qag,weight_widths={w},activation_widths={w}}},calibrate"
)


def prepared(network: str, calibration: Samples, widths: str) -> Module:
    """The shipped network with fake-quant nodes as AutoQNN's Algorithm 1 places them, calibrated."""
    module = qir.load(path(network))
    context = PassContext(calibration_data=calibration.images[:256])
    PassManager(parse_pipeline(PIPELINE.format(w=widths))).run(module, context)
    return module


def accuracy(module: Module, samples: Samples) -> float:
    """Share of samples classified right."""
    network, right = TorchModule(module), 0
    with torch.no_grad():
        for start in range(0, len(samples), 500):
            (logits, *_) = network(torch.from_numpy(samples.images[start : start + 500]))
            right += int((logits.argmax(1).numpy() == samples.labels[start : start + 500]).sum())
    return right / len(samples)


def main() -> None:
    """Print one row per method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="lenet")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    calibration, training, test = (fashion_mnist(split) for split in ("calibration", "retraining", "test"))
    module = prepared(options.network, calibration, "2|3|4|5|6|7|8")
    half = AutoQnnProtocol(
        scheme_epochs=options.epochs // 2, precision_epochs=options.epochs - options.epochs // 2, seed=options.seed
    )
    whole = replace(half, scheme_epochs=0, precision_epochs=options.epochs)
    rate = accuracy(module, test)
    print(f"{options.network}, {len(training)} images of Fashion-MNIST, {options.epochs} epochs, seed {options.seed}")
    print(f"test accuracy +- standard error ({len(test)} images); calibrated 8 bits without training: {rate:.4f}")
    print(f"{'method':28} {'bits':>5} {'test':>7} {'+-':>7} {'seconds':>8}  schemes")

    def row(name: str, run: AutoQnn, schemes: dict[str, str], learn: bool, started: float) -> None:
        result = run.learn_precision(schemes, options.bits, widths=None if learn else (options.bits,))
        rate = accuracy(run.finish(schemes, result.policy), test)
        error = (rate * (1 - rate) / len(test)) ** 0.5
        print(
            f"{name:28} {result.average:5.2f} {rate:7.4f} {error:7.4f} {time.perf_counter() - started:8.1f}  "
            f"{' '.join(sorted(set(schemes.values())))} {result.policy if learn else ''}",
            flush=True,
        )

    for scheme in SINGLE:
        run, started = AutoQnn(module, training.images, training.labels, whole), time.perf_counter()
        row(f"{scheme}, {options.bits} bits", run, dict.fromkeys(run.decided, scheme), False, started)
    for granularity in ("model", "layer"):
        for learn in (False, True):
            run, started = AutoQnn(module, training.images, training.labels, half), time.perf_counter()
            found = run.search_schemes(CANDIDATES, options.bits, granularity)
            row(f"QSS {granularity}-wise{' + QPL' * learn}", run, found.schemes, learn, started)
    run, started = AutoQnn(module, training.images, training.labels, whole), time.perf_counter()
    row("clipq + QPL", run, dict.fromkeys(run.decided, "clipq"), True, started)


if __name__ == "__main__":
    main()
