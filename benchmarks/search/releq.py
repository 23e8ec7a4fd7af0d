"""ReLeQ in small (Elthakeb et al., 2020, table 2): average bits of the weights at 0.3 points of loss or less.

    python benchmarks releq --network lenet --bits 2 2.5 3 4 --images 58000 --epochs 3
    python benchmarks releq --network resnet-20 --bits 3 4 --evaluations 40 --search-images 500 \
        --images 12000 --epochs 2

The paper's agent (PPO with an LSTM, one layer a step) chooses 2, 3, 4, 5 or 8 bits for each layer's weights, at an
average of at most the row's bits; as in the paper every layer counts the same in the average. Then follows the long
retraining, and the row with the fewest bits whose loss on search-validation is at most 0.3 points is the result.
What differs: activations have 8 bits (the paper's stay float), a policy is measured in the search after affine
correction and without retraining, the grid is qir's uniform one, and data and epochs are those of a laptop. Test
accuracy is measured once a row, at the end. More than 4,000 images to retrain on need the full Fashion-MNIST.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import qir
from qir.backends import retrain
from qir.backends.torch.module import TorchModule
from qir.backends.training.loop import protocol
from qir.backends.training.retrain import accuracy
from qir.fake_quant import quantizers
from qir.models import Samples, fashion_mnist, path
from qir.models.recipes import training_data
from qir.module import Module
from qir.passes import run_passes
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.policy import Policy
from qir.search import Budget, Decision, Problem, solve
from qir.search.evaluation.accuracy import AccuracyObjective

WIDTHS = (2, 3, 4, 5, 8)
LOSS = 0.3
_PUBLISHED_CODE = {"reward": "releq-code", "clip": 0.3, "epochs": 1}
"""The agent has a budget here: the reward and settings of the published code, not of the paper, which needs none."""
"""Points of accuracy that may be lost."""
PIPELINE = "fold-constants,fold-batchnorm,insert-fake-quant{weight_widths=2|3|4|5|8,activation_widths=8},calibrate"


def evenly(samples: Samples, count: int) -> Samples:
    """So many of the samples, evenly spread; all of them where there are not more."""
    chosen = np.linspace(0, len(samples) - 1, min(count, len(samples))).astype(np.int64)
    return Samples(samples.images[chosen], samples.labels[chosen], samples.split)


def searched(module: Module, constraints: BitConstraints, bits: float, options: argparse.Namespace) -> Policy:
    """The agent's best policy at an average of so many bits."""
    names, few = constraints.decisions, options.search_images
    validation = fashion_mnist("search-validation")
    objective = AccuracyObjective(
        module,
        constraints,
        calibration=fashion_mnist("calibration"),
        validation=Samples(validation.images[:few], validation.labels[:few], validation.split),
    )
    problem = Problem(
        decisions=[Decision(name, WIDTHS) for name in names],
        costs={"bits": [[width / len(names) for width in WIDTHS]] * len(names)},
        budgets={"bits": Budget(maximum=bits)},
        objective=objective,
    )
    return constraints.complete(
        dict(solve(problem, "releq", evaluations=options.evaluations, seed=0, **_PUBLISHED_CODE).policy)
    )


def main() -> None:
    """Print one row per budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="lenet")
    parser.add_argument("--bits", nargs="+", type=float, default=[2.0, 2.5, 3.0, 3.5, 4.0], help="largest averages")
    parser.add_argument("--evaluations", type=int, default=60, help="policies that the agent measures a row")
    parser.add_argument("--search-images", type=int, default=1000, help="images that the agent measures on")
    parser.add_argument("--images", type=int, default=4000, help="retrained on; more than 4,000 need the full set")
    parser.add_argument("--epochs", type=float, default=30, help="of the long retraining")
    options = parser.parse_args()
    torch.set_num_threads(1)
    validation, test = fashion_mnist("search-validation"), fashion_mnist("test")
    retraining = evenly(fashion_mnist("retraining"), options.images)
    if options.images > len(retraining):
        retraining = evenly(training_data("fashion-mnist").samples, options.images)
    module = qir.load(path(options.network))
    exact = [100 * accuracy(TorchModule(module), samples) for samples in (validation, test)]
    run_passes(module, PIPELINE, data=fashion_mnist("calibration").images)
    widths = {name: quantizer.widths for name, quantizer in quantizers(module.graph).items()}
    constraints = BitConstraints(widths, (), {})
    plan = protocol("releq-long", epochs=options.epochs)
    print(
        f"{options.network}, Fashion-MNIST; {options.evaluations} policies measured on {options.search_images} images; "
        f"retrained {plan.epochs:g} epochs of {len(retraining)} images, batch {plan.batch}, rate {plan.learning_rate}; "
        f"float: {exact[0]:.2f} % of search-validation, {exact[1]:.2f} % of test\n"
    )
    print("| average bits | bits of the layers | loss, search-validation | loss, test | CPU s |")
    print("| --- | --- | --- | --- | --- |")
    for bits in sorted(options.bits):
        started = time.process_time()
        policy = searched(module, constraints, bits, options)
        made = TorchModule(retrain(module, policy, retraining, plan))
        lost = [
            before - 100 * accuracy(made, samples) for before, samples in zip(exact, (validation, test), strict=True)
        ]
        chosen = [policy[name] for name in constraints.decisions]
        mean = sum(width for width in chosen if isinstance(width, int)) / len(chosen)
        mark = " (result)" if lost[0] <= LOSS else ""
        print(
            f"| {mean:.2f} | {' '.join(map(str, chosen))} | {lost[0]:+.2f}{mark} | {lost[1]:+.2f} | "
            f"{time.process_time() - started:.0f} |",
            flush=True,
        )
        if mark:
            break


if __name__ == "__main__":
    main()
