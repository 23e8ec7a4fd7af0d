"""From real-valued bits to legal widths within a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qir.errors import SearchError


def nearest_width(bits: float, widths: Sequence[int]) -> int:
    """The legal width nearest to a real number of bits; the smaller one where two are equally near."""
    return min(widths, key=lambda width: (abs(width - bits), width))


def round_within(
    learned: Mapping[str, float],
    widths: Mapping[str, Sequence[int]],
    value: Callable[[Mapping[str, int]], float],
    target: float,
) -> dict[str, int]:
    """Round learned bits to legal widths; while over the target, lower one by one.

    A step that meets the target and stays nearest to it is taken; where none does, the one that leaves the learned
    bits least per unit of value saved.

    Args:
        learned: real-valued bits.
        widths: legal widths of each quantizer.
        value: exact value of a policy.
        target: largest value allowed.

    Raises:
        SearchError: even the smallest widths are over the target.
    """
    chosen = {name: nearest_width(bits, widths[name]) for name, bits in learned.items()}
    while value(chosen) > target * (1 + 1e-9):
        steps = [
            {**chosen, name: max(w for w in widths[name] if w < chosen[name])}
            for name in chosen
            if min(widths[name]) < chosen[name]
        ]
        if not steps:
            raise SearchError(
                f"AutoQNN: the smallest widths give {value(chosen):g}; the target is {target:g}: raise it"
            )
        meeting = [step for step in steps if value(step) <= target]
        if meeting:
            return max(meeting, key=value)
        here = value(chosen)
        prices = [_departure(learned, step) / max(here - value(step), 1e-12) for step in steps]
        chosen = steps[prices.index(min(prices))]
    return chosen


def _departure(learned: Mapping[str, float], chosen: Mapping[str, int]) -> float:
    """How far widths lie below the learned bits, in total."""
    return sum(max(learned[name] - width, 0.0) for name, width in chosen.items())
