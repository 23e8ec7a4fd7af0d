"""Costs that gradients can lower: average bits, and the expected cost over a table at real-valued bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qir.errors import SearchError

if TYPE_CHECKING:
    from qir.search.problem.problem import Problem


def average_bits(bits: Mapping[str, Tensor], elements: Mapping[str, int]) -> Tensor:
    """Return mean number of bits of a value: quantizers weighted by the values they quantize (the set B of equation 6).

    Args:
        bits: bits of each quantizer, scalars.
        elements: number of values of each quantizer (activations: of one sample).
    """
    total = sum(elements[name] for name in bits)
    return torch.stack([value * (elements[name] / total) for name, value in bits.items()]).sum()


def precision_loss(average: Tensor, target: float) -> Tensor:
    """Return the squared distance of the average from the target (AutoQNN equation 6)."""
    return (average - target) ** 2


@dataclass(frozen=True, slots=True)
class CostTerm:
    """The cost of one node over the widths of its two operands.

    Attributes:
        activation: name of the quantizer of the first operand, None where it is not quantized.
        weight: name of the quantizer of the second operand, or None.
        activation_widths: ascending; one entry where `activation` is None.
        weight_widths: ascending; one entry where `weight` is None.
        cost: [activation widths, weight widths]; finite.
    """

    activation: str | None
    weight: str | None
    activation_widths: tuple[int, ...]
    weight_widths: tuple[int, ...]
    cost: NDArray[np.float64]


class ExpectedCost:
    """Sum of node costs, linear between neighbouring widths: the expectation when each real width is drawn from them.

    Args:
        terms: one per node.
        fixed: what no width changes.

    Raises:
        SearchError: a matrix does not have one finite cost per pair of widths.
    """

    def __init__(self, terms: Sequence[CostTerm], fixed: float = 0.0) -> None:
        for term in terms:
            expected = (len(term.activation_widths), len(term.weight_widths))
            if term.cost.shape != expected or not np.isfinite(term.cost).all():
                raise SearchError(
                    f"cost of ({term.activation}, {term.weight}): {term.cost.shape}, not finite everywhere or not "
                    f"{expected}: illegal pairs and unknown costs cannot be learned; use another solver"
                )
        self.terms, self.fixed = tuple(terms), fixed

    @staticmethod
    def of_problem(problem: Problem, name: str) -> ExpectedCost:
        """Return the terms of a search problem's additive cost, over its decisions.

        Pairs that are illegal cost as much as the dearest legal one here: they are drawn only between neighbours, and
        a solver of the problem keeps them out of the policy.

        Args:
            problem: its options are ascending widths.
            name: of the cost.

        Raises:
            SearchError: a cost is unknown.
        """
        widths = {d.name: tuple(o for o in d.options if isinstance(o, int)) for d in problem.decisions}
        rows = problem.costs.get(name, [[0.0] * len(own) for own in widths.values()])
        terms = [
            CostTerm(None, own, (0,), widths[own], _finite(np.asarray([row], np.float64)))
            for own, row in zip(widths, rows, strict=True)
        ]
        terms += [
            CostTerm(p.first, p.second, widths[p.first], widths[p.second], _finite(np.asarray(p.matrix, np.float64)))
            for p in problem.pair_costs.get(name, ())
        ]
        return ExpectedCost(terms, float(problem.fixed_costs.get(name, 0.0)))

    def __call__(self, bits: Mapping[str, Tensor]) -> Tensor:
        """Return the expected cost: a scalar that carries gradients to the bits.

        Args:
            bits: real-valued bits of each quantizer, scalars.
        """
        total = torch.tensor(self.fixed, dtype=torch.float64)
        for term in self.terms:
            left = _shares(bits, term.activation, term.activation_widths)
            right = _shares(bits, term.weight, term.weight_widths)
            total = total + left @ torch.from_numpy(term.cost) @ right
        return total

    def at(self, bits: Mapping[str, int]) -> float:
        """Return the exact cost of a policy."""
        return float(self({name: torch.tensor(float(width)) for name, width in bits.items()}))


def _finite(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make infinite costs as large as the largest finite one; NaN stays."""
    known = matrix[np.isfinite(matrix)]
    return np.where(np.isposinf(matrix), known.max(initial=0.0), matrix)


def _shares(bits: Mapping[str, Tensor], name: str | None, widths: Sequence[int]) -> Tensor:
    """Return how much each width takes part: two neighbours share a real-valued width linearly."""
    if name is None or len(widths) == 1:
        return torch.ones(1, dtype=torch.float64)
    if name not in bits:
        raise SearchError(f"cost: no bits for quantizer {name!r}; expected one of {sorted(bits)}")
    grid = torch.tensor(widths, dtype=torch.float64)
    value = bits[name].double().clamp(widths[0], widths[-1])
    gaps = torch.diff(grid)
    rising = torch.cat([torch.ones(1, dtype=torch.float64), (value - grid[:-1]) / gaps]).clamp(0, 1)
    falling = torch.cat([(grid[1:] - value) / gaps, torch.ones(1, dtype=torch.float64)]).clamp(0, 1)
    return torch.minimum(rising, falling)
