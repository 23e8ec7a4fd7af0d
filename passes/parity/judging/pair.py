"""Any two executors against each other: which codes differ, and whether rounding, clipping or other inputs explain it.

The integer reference is the arbiter, not a third opinion: it computes every layer twice, from the codes that each of
the two gave it. A difference that both agree with is inherited from other codes; one where an executor rounds a value
within float error of a half step is a tie; what clips as on x86 CPUs without VNNI is saturated; the rest is a fault of
the executor whose code its own inputs do not give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qir.backends.execution.executor import Run
from qir.passes.parity.judging.comparison import EngineComparison
from qir.tensor import Array


@dataclass
class PairLayer:
    """One tensor of codes of two executors.

    Attributes:
        value: name of the value that holds the codes.
        node: name of the node whose result is quantized.
        mismatches: codes that differ between the two.
        ties: how many of them an executor rounds otherwise than the reference, within float error of a half step.
        saturated: how many of them have products clipped to int16 in one of the two.
        inherited: how many of them follow from other codes before: each is what its executor's own inputs give.
        faults: how many of them are not what the own inputs give, by executor.
    """

    value: str
    node: str
    mismatches: int = 0
    ties: int = 0
    saturated: int = 0
    inherited: int = 0
    faults: dict[str, int] = field(default_factory=dict)


class PairComparison:
    """Two executors of an exported network, batch by batch.

    Args:
        comparison: both against the reference, by name.
        names: of the two.

    Attributes:
        layers: by name of the value, those whose codes differ, in the network's order.
    """

    def __init__(self, comparison: EngineComparison, names: tuple[str, str]) -> None:
        self._comparison, self._names = comparison, names
        self._nodes = {layer.value: layer.node for layer in comparison.layers}
        self.layers: dict[str, PairLayer] = {}

    def add(self, feed: Mapping[str, Array], first: Run, second: Run) -> None:
        """Compare one batch.

        Raises:
            DataError, QirError: as `IntegerReference.run`.
        """
        self._comparison.add(feed, dict(zip(self._names, (first, second), strict=True)))
        for value, node in self._nodes.items():
            codes, other = (run.codes[value].astype(np.int64) for run in (first, second))
            if not np.array_equal(codes, other):
                self._explain(self.layers.setdefault(value, PairLayer(value, node)), np.asarray(codes != other))

    def _explain(self, layer: PairLayer, open_: Array) -> None:
        found = {name: self._comparison.deviations.get((name, layer.value)) for name in self._names}
        deviations = {name: deviation for name, deviation in found.items() if deviation is not None}
        layer.mismatches += int(open_.sum())
        for name, deviation in deviations.items():
            if faults := int((open_ & deviation.faults).sum()):
                layer.faults[name] = layer.faults.get(name, 0) + faults
        for deviation in deviations.values():
            open_ = open_ & ~deviation.faults
        for deviation in deviations.values():
            layer.saturated += int((open_ & deviation.saturated).sum())
            open_ = open_ & ~deviation.saturated
        for deviation in deviations.values():
            layer.ties += int((open_ & deviation.ties).sum())
            open_ = open_ & ~deviation.ties
        layer.inherited += int(open_.sum())
