"""What every sensitivity metric returns, and how it becomes the additive proxy of a problem."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from qir.errors import SearchError
from qir.passes.constraints.propagate_constraints import BitConstraints
from qir.support.json_text import parse_json


@dataclass(frozen=True)
class Sensitivity:
    """How much each quantizer's width hurts, in the metric's own unit; smaller is better.

    Attributes:
        metric: name of the metric.
        values: (quantizer, bits) → how much that width hurts, everything else left as the metric says.
        forward_passes: forward passes over a batch that measuring took.
        backward_passes: backward passes (Hessian-vector products count as one each).
        stopped: why measuring ended before its last sample ("time-limit", "interrupted"), or empty.
        note: what a reader should know of how it was measured, or empty.
    """

    metric: str
    values: Mapping[tuple[str, int], float]
    forward_passes: int
    backward_passes: int = 0
    stopped: str = ""
    note: str = ""

    def per_decision(self, constraints: BitConstraints) -> list[list[float]]:
        """[decisions][options]: each option costs what it and every quantizer that follows from it cost.

        Raises:
            SearchError: the metric does not know a quantizer's width.
        """
        return [
            [
                self._total({name: widths[bits] for name, widths in group.items()})
                for bits in constraints.options[decision]
            ]
            for decision, group in constraints.groups().items()
        ]

    def __str__(self) -> str:
        """JSON that `parse` reads."""
        rows = [[name, bits, value] for (name, bits), value in self.values.items()]
        return json.dumps([self.metric, rows, self.forward_passes, self.backward_passes])

    @staticmethod
    def parse(text: str) -> Sensitivity:
        """Read what `str` wrote."""
        metric, rows, forward, backward = parse_json(text)
        return Sensitivity(metric, {(name, bits): value for name, bits, value in rows}, forward, backward)

    def _total(self, chosen: Mapping[str, int]) -> float:
        missing = [(name, width) for name, width in chosen.items() if (name, width) not in self.values]
        if missing:
            raise SearchError(
                f"sensitivity {self.metric!r} has no value for quantizer {missing[0][0]!r} at {missing[0][1]} bits"
            )
        return sum(self.values[name, width] for name, width in chosen.items())
