"""The policy-transfer matrix: the best policy for one hardware, costed on the others (as in HAQ's introduction).

python benchmarks transfer

MobileNetV2 on BISMO in HAQ's edge and cloud configurations and on BitFusion. A target's best policy is the fastest of
those whose noise is at most that of 5 bits everywhere, found exactly (MILP). The noise is a proxy for accuracy: the
quantization error of each layer's weights, relative to their energy, plus 4^-bits for its activations. Exit code 1 when
another target's policy is faster than a target's own.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import qir
from qir.backends import CostTable, cost_table
from qir.backends.costs.layers.layer_shapes import layer_name
from qir.backends.costs.tables.reports import transfer_matrix
from qir.models.builders import export_onnx
from qir.module import Module
from qir.ops import op_of
from qir.passes import run_passes
from qir.quantizers import get_scheme
from qir.search import Budget, Decision, Problem, solve

TARGETS = {"bismo-haq-edge": 1, "bismo-haq-cloud": 16, "bitfusion-e": 1}
"""Target → images in a batch, as HAQ costs them."""
WIDTHS = tuple(range(2, 9))
UNIFORM = 5
"""Width whose noise, everywhere, is the budget."""


def network() -> Module:
    """MobileNetV2 with random weights, BatchNormalization folded."""
    with tempfile.TemporaryDirectory() as folder:
        module = qir.load(export_onnx("mobilenet-v2", Path(folder) / "network.onnx"))
        run_passes(module, "fold-constants,fold-batchnorm")
    return module


def weight_noise(module: Module) -> dict[str, list[float]]:
    """Layer → error of its weights at each width, relative to their energy."""
    scheme, found = get_scheme("uniform"), {}
    for node in module.graph:
        operands = op_of(node).quantizable(node)
        value = None if operands is None else node.input(operands.weight)
        if operands is None or value is None or value.constant is None:
            continue
        array, axis = value.constant.numpy(), operands.weight_axis
        errors = []
        for bits in WIDTHS:
            grid = scheme.fit_parameters(array, bits=bits, signed=True, axis=axis)
            error = scheme.fake_quantize(array, grid, axis=axis) - array
            errors.append(float((error**2).sum() / (array**2).sum()))
        found[layer_name(node)] = errors
    return found


def best_policy(table: CostTable, noise: dict[str, list[float]]) -> dict[str, int]:
    """The fastest policy whose noise is within the budget."""
    options = tuple((a, w) for a in WIDTHS for w in WIDTHS)
    layers = [row for row in table if row.weight is not None]
    cycles, noises = [], []
    for row in layers:
        matrix = row.matrix("cycles")
        at = [(row.activation_widths.index(a), row.weight_widths.index(w)) for a, w in options]
        cycles.append([float(matrix[cell]) for cell in at])
        noises.append([4.0**-a + noise[row.name][WIDTHS.index(w)] for a, w in options])
    limit = sum(row[options.index((UNIFORM, UNIFORM))] for row in noises)
    problem = Problem(
        decisions=[Decision(row.name, options) for row in layers],
        costs={"noise": noises},
        budgets={"noise": Budget(maximum=limit)},
        sensitivity=cycles,
    )
    chosen = solve(problem, "milp").policy
    found = {}
    for row in layers:
        found[row.activation or ""], found[row.weight or ""] = chosen[row.name]
    return found


def main() -> int:
    """Print the matrix; 1 when a policy of another target is faster than the target's own."""
    module = network()
    noise = weight_noise(module)
    tables = {name: cost_table(module, name, batch=images) for name, images in TARGETS.items()}
    policies = {name: best_policy(table, noise) for name, table in tables.items()}
    uniform = np.array([table.cost([table.uniform(UNIFORM, UNIFORM)])[0] for table in tables.values()])
    matrix = transfer_matrix(tables, policies)
    print(f"cycles relative to {UNIFORM} bits everywhere, at no more noise; rows: whose policy, columns: where it runs")
    print(" " * 18 + "".join(f"{name:>18}" for name in tables))
    for name, row in zip(policies, matrix / uniform, strict=True):
        print(f"{name:18}" + "".join(f"{cell:>18.3f}" for cell in row))
    own = np.diag(matrix)
    slower = (matrix / own).max(axis=0) - 1
    holds = bool((matrix >= own * (1 - 1e-9)).all())
    lines = ", ".join(f"{name} {share:.0%}" for name, share in zip(tables, slower, strict=True))
    print(f"{'ok  ' if holds else 'FAIL'} a foreign policy costs up to this much more: {lines}")
    return int(not holds)


if __name__ == "__main__":
    sys.exit(main())
