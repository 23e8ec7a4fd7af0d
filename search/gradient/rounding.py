"""From real-valued bits to legal widths within a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qir.errors import SearchError


def nearest_width(bits: float, widths: Sequence[int]) -> int:
    """Return the legal width nearest to a real number of bits; the smaller one where two are equally near."""
    return min(widths, key=lambda width: (abs(width - bits), width))


def round_within(
    learned: Mapping[str, float],
    widths: Mapping[str, Sequence[int]],
    value: Callable[[Mapping[str, int]], float],
    target: float,
) -> dict[str, int]:
    """Round learned bits to legal widths; over the target, lower one by one, each time the least below its bits.

    In the end, widths that were lowered more than the target needed are raised again as far as it allows.

    Args:
        learned: real-valued bits.
        widths: legal widths of each quantizer.
        value: exact value of a policy; may not fall when a width rises.
        target: largest value allowed.

    Raises:
        SearchError: even the smallest widths are over the target.
    """
    rounded = {name: nearest_width(bits, widths[name]) for name, bits in learned.items()}
    chosen, limit = dict(rounded), target * (1 + 1e-9)
    while value(chosen) > limit:
        lower = {name: max((w for w in widths[name] if w < own), default=0) for name, own in chosen.items()}
        lower = {name: width for name, width in lower.items() if width}
        if not lower:
            raise SearchError(
                f"AutoQNN: the smallest widths give {value(chosen):g}; the target is {target:g}: raise it"
            )
        departures = {name: learned[name] - width for name, width in lower.items()}
        name = min(departures, key=departures.__getitem__)
        chosen[name] = lower[name]
    gaps = {name: learned[name] - width for name, width in chosen.items()}
    for name in sorted(gaps, key=gaps.__getitem__, reverse=True):
        for width in sorted(w for w in widths[name] if chosen[name] < w <= rounded[name]):
            if value({**chosen, name: width}) <= limit:
                chosen[name] = width
    return chosen
