"""Learned rounding of weights: AdaRound (Nagel et al., "Up or Down?", ICML 2020).

Each weight goes to one of the two levels around it. Which one is learned per layer, without labels, so that the layer's
output after its activation comes near the float network's. This module learns it for one layer, given as a matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - the name that PyTorch's own documentation uses

from qir.errors import QirError
from qir.graph import Node
from qir.ops.families.matrix import same_pads

LOW, HIGH = -0.1, 1.1
"""The sigmoid is stretched to these ends and clipped to 0 and 1 (equation 23: gamma and zeta)."""

PLACES = 16
"""Rows that are drawn a sample: a convolution has one for every place of its output."""

CHUNK = 32
"""Samples whose rows are made at a time."""


FIRST_BETA, LAST_BETA = 20.0, 2.0
"""The regularizer's exponent falls from the one to the other along a cosine."""


@dataclass(frozen=True, slots=True)
class RoundingProtocol:
    """How rounding is learned.

    Attributes:
        iterations: Adam's steps a layer (paper: 10,000).
        rows: rows of the layer's input that a step sees.
        learning_rate: of Adam.
        regularization: lambda, the weight of the regularizer that drives h to 0 or 1 (equation 24; paper: 0.01).
        warm_up: share of the iterations, at the start, without the regularizer.
        seed: of the order of the rows.
    """

    iterations: int = 1000
    rows: int = 512
    learning_rate: float = 0.01
    regularization: float = 0.01
    warm_up: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.rows < 1 or self.learning_rate <= 0 or self.regularization < 0:
            raise QirError(f"{self}: expected iterations >= 0, rows >= 1, learning rate > 0, regularization >= 0")
        if not 0 <= self.warm_up < 1:
            raise QirError(f"{self}: expected 0 <= warm_up < 1")

    def beta(self, step: int) -> float:
        """Return the regularizer's exponent at a step after the warm-up."""
        start = self.warm_up * self.iterations
        share = (step - start) / max(self.iterations - start, 1)
        return LAST_BETA + 0.5 * (FIRST_BETA - LAST_BETA) * (1 + math.cos(math.pi * share))


@dataclass(frozen=True, slots=True, eq=False)
class RoundingProblem:
    """One layer as a matrix product: `outputs = weight @ inputs + shift`, group by group.

    Attributes:
        weight: float32 [groups, outputs, inputs].
        lower, upper: the levels around each weight, of the same shape; equal where it lies outside of the grid.
        inputs: float32 [groups, inputs, rows], what the quantized network feeds the layer.
        wanted: float32 [groups, outputs, rows], what the float network's layer gives for the same samples.
        shift: float32 [groups, outputs, 1], the bias.
        activation: what follows the layer; the error is measured after it.
    """

    weight: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor
    inputs: torch.Tensor
    wanted: torch.Tensor
    shift: torch.Tensor
    activation: Callable[[torch.Tensor], torch.Tensor]

    @property
    def fraction(self) -> torch.Tensor:
        """Where each weight lies between its levels: 0 = on the lower one, 1 = on the upper one."""
        gap = self.upper - self.lower
        share = (self.weight - self.lower) / torch.where(gap > 0, gap, 1)
        return torch.where(gap > 0, share.clamp(0, 1), 0)

    def error(self, weight: torch.Tensor, rows: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """Return the squared error of some rows' outputs after the activation: summed over outputs, mean over rows."""
        made = self.activation(weight @ self.inputs[..., rows] + self.shift)
        return (made - self.activation(self.wanted[..., rows])).square().sum((0, 1)).mean()


def rectified_sigmoid(variable: torch.Tensor) -> torch.Tensor:
    """`clip(sigmoid(v) (zeta - gamma) + gamma, 0, 1)` (equation 23)."""
    return (torch.sigmoid(variable) * (HIGH - LOW) + LOW).clamp(0, 1)


def inverse_rectified_sigmoid(share: torch.Tensor) -> torch.Tensor:
    """Return the variable whose rectified sigmoid is a share from 0 to 1."""
    return torch.logit((share - LOW) / (HIGH - LOW))


def learn_rounding(problem: RoundingProblem, plan: RoundingProtocol) -> torch.Tensor:
    """Learn which level every weight goes to.

    Args:
        problem: the layer.
        plan: how to learn.

    Returns:
        The levels chosen, float32 [groups, outputs, inputs]: those of nearest rounding where learning did no better.
    """
    fraction, gap = problem.fraction, problem.upper - problem.lower
    nearest = torch.where(fraction > 0.5, problem.upper, problem.lower)
    variable = inverse_rectified_sigmoid(fraction).requires_grad_(True)
    optimizer = torch.optim.Adam([variable], lr=plan.learning_rate)
    generator = torch.Generator().manual_seed(plan.seed)
    count = problem.inputs.shape[-1]
    for step in range(plan.iterations):
        rows = torch.randint(count, (min(plan.rows, count),), generator=generator)
        share = rectified_sigmoid(variable)
        loss = problem.error(problem.lower + share * gap, rows)
        if step >= plan.warm_up * plan.iterations:
            loss = loss + plan.regularization * (1 - (2 * share - 1).abs() ** plan.beta(step)).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        learned = torch.where(rectified_sigmoid(variable) > 0.5, problem.upper, problem.lower)
        return learned if problem.error(learned) < problem.error(nearest) else nearest


def input_rows(node: Node, data: torch.Tensor, kernel: tuple[int, ...]) -> torch.Tensor:
    """Return what a layer multiplies its weight by, sample after sample: [groups, inputs, rows].

    Args:
        node: Conv, Gemm without transA, or MatMul by a matrix.
        data: its data operand, [samples, …].
        kernel: sizes of a convolution's kernel, empty for a matrix.
    """
    if not kernel:
        return data.reshape(-1, data.shape[-1]).T[None]
    rank, ones = len(kernel), (1,) * len(kernel)
    dilations, strides = node.attribute("dilations", ones), node.attribute("strides", ones)
    pads = same_pads(node, tuple(data.shape[2:]), kernel)
    windows = F.pad(data, [pads[side * rank + axis] for axis in reversed(range(rank)) for side in (0, 1)])
    for axis, (size, dilation, stride) in enumerate(zip(kernel, dilations, strides, strict=True)):
        windows = windows.unfold(2 + axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    samples, channels, groups = len(data), data.shape[1], node.attribute("group", 1)
    parted = windows.reshape(samples, groups, channels // groups, -1, math.prod(kernel))
    return parted.permute(1, 2, 4, 0, 3).reshape(groups, channels // groups * math.prod(kernel), -1)


def output_rows(outputs: torch.Tensor, kernel: tuple[int, ...]) -> torch.Tensor:
    """Return a layer's outputs as [rows, channels], rows in the order of `input_rows`; `kernel` as there."""
    if kernel:
        outputs = outputs.flatten(2).transpose(1, 2)
    return outputs.reshape(-1, outputs.shape[-1])


def drawn_inputs(node: Node, data: torch.Tensor, kernel: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return rows drawn from a layer's data: [groups, inputs, rows].

    Arguments as for `input_rows`, seed of the draw.
    """
    generator, found = torch.Generator().manual_seed(seed), []
    for start in range(0, len(data), CHUNK):
        part = data[start : start + CHUNK]
        rows = input_rows(node, part, kernel)
        found.append(rows[..., _drawn(rows.shape[-1], len(part), generator)])
    return torch.cat(found, dim=-1)


def drawn_outputs(outputs: torch.Tensor, kernel: tuple[int, ...], seed: int) -> torch.Tensor:
    """Return the rows of a layer's outputs that belong to `drawn_inputs` of the same seed and samples.

    Shape [channels, rows].
    """
    generator, found = torch.Generator().manual_seed(seed), []
    for start in range(0, len(outputs), CHUNK):
        part = outputs[start : start + CHUNK]
        rows = output_rows(part, kernel)
        found.append(rows[_drawn(len(rows), len(part), generator)].T)
    return torch.cat(found, dim=-1)


def _drawn(rows: int, samples: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randperm(rows, generator=generator)[: PLACES * samples]
