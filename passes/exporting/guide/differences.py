"""Where arithmetics of requantization give different codes, among all integers that a step's sums can be.

Every arithmetic is a monotone function of the sum: products and their roundings keep order. Two of them are equal at
every integer exactly where they reach each code at the same one, so that the smallest integer of each code, found by
bisection, decides all integers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from qir.passes.exporting.guide.reach import Reach
from qir.tensor import Array

_MARGIN = 2.0**-21
"""Relative distance between a threshold and where the real multiplier puts it: float32 rounds a few times."""

ROWS = 256
"""Channels that are decided at a time."""

_LISTED = 1 << 16
"""Integers between two thresholds that are listed one by one."""


@dataclass(frozen=True, eq=False)
class Arithmetic:
    """A monotone function from a channel's integers to codes.

    Attributes:
        codes: from integers [rows, any number] of channels [rows] to their codes.
        slope: codes an integer, of every channel or of all [channels or 1], where thresholds are to be looked for.
        zero: code of the integer 0.
    """

    codes: Callable[[Array, Array], Array]
    slope: Array
    zero: int


@dataclass(frozen=True)
class Differences:
    """What two arithmetics compute differently.

    Attributes:
        count: integers at which the codes differ, over all channels.
        largest: difference of two codes.
        first: channel, integer, code of either; None where the codes never differ.
        certain: whether some codes of the inputs give every one of these integers.
    """

    count: int = 0
    largest: int = 0
    first: tuple[int, int, int, int] | None = None
    certain: bool = True

    def joined(self, other: Differences) -> Differences:
        """Return both together."""
        return Differences(
            self.count + other.count,
            max(self.largest, other.largest),
            self.first or other.first,
            self.certain and other.certain,
        )


def thresholds(arithmetic: Arithmetic, reach: Reach, channels: Array, clamp: tuple[int, int]) -> Array:
    """Return the smallest integer of every code above the lowest: int64 [rows, codes - 1].

    One more than the largest integer stands where the code is not reached.

    Args:
        arithmetic: from integers to codes.
        reach: integers of every channel; those in between its steps count too.
        channels: of the rows.
        clamp: lowest and highest code.
    """
    codes = np.arange(clamp[0] + 1, clamp[1] + 1)
    low, high = reach.low[channels, None], reach.high[channels, None]
    under, over = _around(arithmetic, codes, low, high, channels)
    while (open_ := over - under > 1).any():
        middle = np.clip((under + over) // 2, low, high)
        reached = arithmetic.codes(middle, channels) >= codes
        over = np.where(open_ & reached, middle, over)
        under = np.where(open_ & ~reached, middle, under)
    return over


def _around(arithmetic: Arithmetic, codes: Array, low: Array, high: Array, channels: Array) -> tuple[Array, Array]:
    """Return integers below and not below every threshold: close ones where the slope puts them, else the ends."""
    slope = arithmetic.slope if arithmetic.slope.size == 1 else arithmetic.slope[channels]
    with np.errstate(over="ignore", divide="ignore"):
        expected = (codes - arithmetic.zero - 0.5) / slope.astype(np.float64).reshape(-1, 1)
    expected = np.clip(expected, low - 1.0, high + 1.0)
    margin = np.abs(expected) * _MARGIN + 2
    under = np.clip(np.floor(expected - margin).astype(np.int64), low - 1, high)
    over = np.clip(np.ceil(expected + margin).astype(np.int64), low, high + 1)
    below = (under < low) | (arithmetic.codes(np.maximum(under, low), channels) < codes)
    above = (over > high) | (arithmetic.codes(np.minimum(over, high), channels) >= codes)
    return np.where(below, under, low - 1), np.where(above, over, high + 1)


def differences(
    first: Arithmetic, others: Mapping[str, Arithmetic], reach: Reach, clamp: tuple[int, int]
) -> dict[str, Differences]:
    """Return where arithmetics differ from a first one.

    Args:
        first: the arithmetic that the others are held against.
        others: arithmetics by name.
        reach: integers of every channel.
        clamp: lowest and highest code.
    """
    found = dict.fromkeys(others, Differences())
    for start in range(0, reach.low.size, ROWS):
        channels = np.arange(start, min(start + ROWS, reach.low.size))
        places = thresholds(first, reach, channels, clamp)
        for name, other in others.items():
            rows = np.flatnonzero(~_equal(other, places, reach, channels, clamp))
            if rows.size:
                theirs = thresholds(other, reach, channels[rows], clamp)
                more = _between(first, other, reach, channels[rows], places[rows], theirs)
                found[name] = found[name].joined(more)
    return found


def _equal(other: Arithmetic, places: Array, reach: Reach, channels: Array, clamp: tuple[int, int]) -> Array:
    """Return whether an arithmetic reaches every code at these places too: bool [rows]."""
    codes = np.arange(clamp[0] + 1, clamp[1] + 1)
    low, high = reach.low[channels, None], reach.high[channels, None]
    at = other.codes(np.clip(places, low, high), channels) >= codes
    before = other.codes(np.clip(places - 1, low, high), channels) < codes
    return np.asarray(((at | (places > high)) & (before | (places <= low))).all(axis=1))


def _between(
    first: Arithmetic, other: Arithmetic, reach: Reach, channels: Array, ours: Array, theirs: Array
) -> Differences:
    """Return the integers between thresholds [rows, codes] that differ, each looked at by itself."""
    rows, columns = np.nonzero(ours != theirs)
    begin = np.minimum(ours, theirs)[rows, columns]
    lengths = np.minimum(np.abs(ours - theirs)[rows, columns], _LISTED)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    where, integers = np.repeat(channels[rows], lengths), np.repeat(begin, lengths) + within
    where, integers = np.unique(np.stack([where, integers]), axis=1)
    kept = (integers - reach.low[where]) % reach.step[where] == 0
    where, integers = where[kept], integers[kept]
    left, right = (line.codes(integers[:, None], where)[:, 0] for line in (first, other))
    off = np.flatnonzero(left != right)
    if not off.size:
        return Differences()
    start, largest = int(off[0]), int(np.abs(left - right).max())
    example = (int(where[start]), int(integers[start]), int(left[start]), int(right[start]))
    return Differences(off.size, largest, example, bool(reach.whole[where[off]].all()))
