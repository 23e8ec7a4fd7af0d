"""AutoQNN in small: table 7 of the paper (Gong et al., 2024), on LeNet or on its VGG-like network and CIFAR-10.

    python benchmarks autoqnn [--model lenet] [--epochs 4] [--images 4000]
    python -m qir.models.train vgg-like-cifar --out /tmp/vgg
    QIR_CIFAR10=... python benchmarks autoqnn --model /tmp/vgg/vgg_like_cifar_cifar_10.onnx --data cifar-10 \
        --epochs 9 --search-epochs 3 --images 4000 --rate 0.003

Every row trains the same number of epochs on the same images from the same float network: single schemes at 3 bits
(binary, ternary and quaternary weights with ClipQ activations, as in the paper), the scheme search model-wise and
layer-wise, and precision learning at an average of 3 bits. Weights have a range per channel, BatchNorm is folded, the
image stays at 8 bits and the weight of the last layer too (the paper's policies leave both out). Network, data and
lengths are far smaller than the paper's; test accuracy is measured once per row, at the end. `--errors` trains nothing
and prints what each scheme loses on the float network's weights and activations.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import qir
from qir.backends.torch.module import TorchModule
from qir.backends.training.retrain import accuracy
from qir.errors import DataError
from qir.models.data.fashion_mnist import fashion_mnist
from qir.models.data.samples import Samples
from qir.models.recipes import training_data
from qir.models.shipped import names, path
from qir.module import Module
from qir.ops import op_of
from qir.passes import PassContext, PassManager, parse_pipeline
from qir.passes.analysis.quantized_operands import quantizer_stem
from qir.search.gradient.autoqnn import CANDIDATES, AutoQnn
from qir.search.gradient.autoqnn_protocol import AutoQnnProtocol, PrecisionSearch
from qir.search.gradient.relaxed import Relaxation

BITS = 3
FEW_LEVELS = {"binary": 1, "ternary": 2, "quaternary": 2}
"""Schemes of one width, for weights only."""
SINGLE = (
    *("binary/clipq", "ternary/clipq", "quaternary/clipq", "fixedq", "zoomq", "potq", "resq", "clipq"),
    *("potq/clipq", "resq/clipq"),
)
"""Of weights / of activations, one name for both: the paper's rows, and ResQ where activations are ClipQ's."""
PIPELINE = (
    "fold-constants,fold-batchnorm,insert-fake-quant{{placement=qag,weight_widths=1|2|3|4|5|6|7|8,"
    "activation_widths=2|3|4|5|6|7|8,keep={last}.weight:8,per_channel={per_channel}}},calibrate{{weights=mse}}"
)


def splits(data: str, images: int) -> tuple[Samples, Samples]:
    """Training images, evenly spread over the split that floats are trained on, and the test images."""
    if data == "cifar-10":
        found = training_data(data)
        training, test = found.samples, found.measured["test"]
    else:
        training, test = fashion_mnist("retraining"), fashion_mnist("test")
    chosen = np.linspace(0, len(training) - 1, min(images, len(training))).astype(np.int64)
    return Samples(training.images[chosen], training.labels[chosen], training.split), test


def prepared(model: str, calibration: Samples, *, per_channel: bool) -> Module:
    """The float network with fake-quant nodes as AutoQNN's Algorithm 1 places them, calibrated."""
    module = qir.load(path(model) if model in names() else model)
    last = quantizer_stem([node for node in module.graph.nodes if op_of(node).quantizable(node) is not None][-1])
    order = np.random.default_rng(0).permutation(len(calibration))[:256]
    context = PassContext(calibration_data=calibration.images[order])
    PassManager(parse_pipeline(PIPELINE.format(last=last, per_channel=str(per_channel).lower()))).run(module, context)
    return module


def chosen_by_kind(run: AutoQnn, chosen: Mapping[str, str]) -> str:
    """Schemes in the order of the layers, weights first: `potq*7 / resq clipq*6`."""
    parts = []
    for weights in (True, False):
        kinds = [chosen[name] for name, node in run.decided.items() if (node.source.constant is not None) is weights]
        runs = [[kinds[0], 0]]
        for kind in kinds:
            if kind != runs[-1][0]:
                runs.append([kind, 0])
            runs[-1][1] += 1
        parts.append(" ".join(f"{kind}*{count}" for kind, count in runs))
    return " / ".join(parts)


@dataclass(frozen=True)
class Table:
    """Trains and prints rows.

    Attributes:
        module: the prepared network.
        training: images that every row trains on.
        test: measured once a row.
        whole: protocol of rows without a search: all epochs train weights (and bits).
        half: protocol of rows with a search.
    """

    module: Module
    training: Samples
    test: Samples
    whole: AutoQnnProtocol
    half: AutoQnnProtocol

    def start(self, protocol: AutoQnnProtocol) -> AutoQnn:
        """A run from the float network."""
        return AutoQnn(self.module, self.training.images, self.training.labels, protocol)

    def single(self, scheme: str) -> None:
        """One scheme for all weights and one for all activations, at 3 bits or the one width they have."""
        started, run = time.process_time(), self.start(self.whole)
        of_weights, _, of_activations = scheme.partition("/")
        schemes, widths = {}, {}
        for name, node in run.decided.items():
            is_weight = node.source.constant is not None
            schemes[name] = of_weights if is_weight else of_activations or of_weights
            widths[name] = (FEW_LEVELS.get(schemes[name], BITS),)
        self.row(scheme, run, schemes, widths, started)

    def searched(self, granularity: str, *, learn: bool) -> None:
        """QSS at 3 bits, then training at 3 bits or QPL."""
        started, run = time.process_time(), self.start(self.half)
        schemes = run.search_schemes(CANDIDATES, BITS, granularity).schemes
        widths = None if learn else dict.fromkeys(run.decided, (BITS,))
        self.row(f"QSS {granularity}-wise{' + QPL' * learn}", run, schemes, widths, started)

    def learned(self, scheme: str) -> None:
        """QPL with one scheme."""
        started, run = time.process_time(), self.start(self.whole)
        self.row(f"QPL, {scheme}", run, dict.fromkeys(run.decided, scheme), None, started)

    def row(
        self,
        name: str,
        run: AutoQnn,
        schemes: Mapping[str, str],
        widths: Mapping[str, tuple[int, ...]] | None,
        started: float,
    ) -> None:
        """Train, write back, measure, print; a run that diverges is told so."""
        try:
            found = run.learn_precision(schemes, BITS, widths=widths)
        except DataError as error:
            print(f"| {name} | | {error} | {time.process_time() - started:.0f} | |", flush=True)
            return
        rate = accuracy(TorchModule(run.finish(schemes, found.policy)), self.test)
        error = (rate * (1 - rate) / len(self.test)) ** 0.5
        bits = " / ".join(f"{average(run, found, weights=kind):.2f}" for kind in (True, False))
        kinds = [found.policy[n] for n in run.decided] if widths is None else ""
        print(
            f"| {name} | {bits} | {100 * rate:.2f} ± {100 * error:.2f} | {time.process_time() - started:.0f} | "
            f"{chosen_by_kind(run, schemes)} {kinds} |",
            flush=True,
        )


class Loss(torch.nn.Module):
    """Passes a tensor on and keeps what each scheme loses of it at 3 bits: squared error / variance."""

    def __init__(self, run: AutoQnn, name: str) -> None:
        super().__init__()
        self.grids = {scheme: run.grid(name, scheme) for scheme in CANDIDATES}
        self.found: dict[str, float] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The tensor as it is."""
        for scheme, grid in self.grids.items():
            error = (grid.fake_quantize(x, BITS, update=True) - x).square().mean() / x.var()
            self.found[scheme] = float(error)
        return x


def print_errors(run: AutoQnn) -> None:
    """What schemes lose on the float network's tensors before any training, mean over the layers, and the worst."""
    losses = {name: Loss(run, name) for name in run.decided}
    batch = torch.from_numpy(run.images[: run.protocol.batch])
    with torch.no_grad(), run.network.quantizers_off():
        run.network(batch, hook=Relaxation(losses, run.nodes))
    print("| scheme | weights: mean | weights: worst | activations: mean | activations: worst |")
    print("| --- | --- | --- | --- | --- |")
    for scheme in CANDIDATES:
        cells = []
        for weights in (True, False):
            kind = [
                losses[name].found[scheme]
                for name, node in run.decided.items()
                if (node.source.constant is not None) is weights
            ]
            cells += [f"{np.mean(kind):.3f}", f"{max(kind):.3f}"]
        print(f"| {scheme} | {' | '.join(cells)} |")


def average(run: AutoQnn, found: PrecisionSearch, *, weights: bool) -> float:
    """Average bits of the decided weights or activations, each counted by its values."""
    kind = {n: found.policy[n] for n, node in run.decided.items() if (node.source.constant is not None) is weights}
    total = sum(found.elements[name] for name in kind)
    return sum(bits * found.elements[name] for name, bits in kind.items() if isinstance(bits, int)) / total


def main() -> None:
    """Print one row per method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="lenet", help="a shipped network, or an ONNX file")
    parser.add_argument("--data", default="fashion-mnist", choices=("fashion-mnist", "cifar-10"))
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--search-epochs", type=int, help="epochs of a scheme search, half of all unless given")
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=0.01, help="first learning rate of the weights")
    parser.add_argument("--schemes", nargs="*", default=SINGLE, help="single schemes to train")
    parser.add_argument("--singles-only", action="store_true", help="no searches")
    parser.add_argument("--per-layer", action="store_true", help="one range for all weights of a layer")
    parser.add_argument("--errors", action="store_true", help="print what schemes lose, train nothing")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    training, test = splits(options.data, options.images)
    searching = options.epochs // 2 if options.search_epochs is None else options.search_epochs
    half = AutoQnnProtocol(
        scheme_epochs=searching,
        precision_epochs=options.epochs - searching,
        learning_rate=options.rate,
        seed=options.seed,
    )
    table = Table(
        prepared(options.model, training, per_channel=not options.per_layer),
        training,
        test,
        replace(half, precision_epochs=options.epochs),
        half,
    )
    if options.errors:
        print_errors(table.start(half))
        return
    rate = accuracy(TorchModule(table.module), test)
    print(
        f"{Path(options.model).stem}, {len(training)} images of {options.data}, {options.epochs} epochs, of which a "
        f"search takes {searching}, "
        f"rate {options.rate}, seed {options.seed}; at 8 bits without training {100 * rate:.2f} % of {len(test)} test "
        "images\n"
    )
    print("| method | bits of weights / activations | test accuracy, % | CPU s | schemes of weights / activations |")
    print("| --- | --- | --- | --- | --- |")
    for scheme in options.schemes:
        table.single(scheme)
    if options.singles_only:
        return
    for granularity in ("model", "layer"):
        table.searched(granularity, learn=False)
    table.learned("clipq")
    table.searched("layer", learn=True)


if __name__ == "__main__":
    main()
