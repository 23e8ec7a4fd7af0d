"""The parts of a search problem: decisions, budgets, relations and costs of pairs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from qir.errors import SearchError
from qir.policy import Bits

Indices = np.ndarray[Any, np.dtype[np.intp]]
Floats = np.ndarray[Any, np.dtype[np.float64]]

_BUDGET = re.compile(r"\s*([0-9.eE+-]+)\s*(x?)\s*(\S*)\s*")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


def exact(number: float | Fraction) -> Fraction:
    """Return the number as its shortest decimal says it: `exact(0.1)` is 1/10, not the nearest binary fraction."""
    return number if isinstance(number, Fraction) else Fraction(repr(float(number)))


def numbers(what: str, given: Any) -> Floats:
    """Return what a user gave as an array.

    Raises:
        SearchError: these are not numbers, or rows of different lengths.
    """
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SearchError(f"{what}: {given!r}; expected numbers, in rows of equal length") from error


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice of the search.

    Attributes:
        name: name of the quantizer (or of the layer) that is decided.
        options: the widths to choose from, in bits; an option is an int or a tuple of widths that are chosen together,
            for example (activation bits, weight bits).

    Raises:
        SearchError: no options, an option twice, or one that is not a width.
    """

    name: str
    options: tuple[Bits, ...]

    def __post_init__(self) -> None:
        try:
            options = tuple(tuple(int(b) for b in o) if isinstance(o, Iterable) else int(o) for o in self.options)
        except (TypeError, ValueError) as error:
            raise SearchError(
                f"decision {self.name!r}: options {self.options!r}; expected widths in bits such as (2, 4, 8), or "
                "tuples of widths"
            ) from error
        object.__setattr__(self, "options", options)
        if not options or len(set(options)) != len(options):
            raise SearchError(f"decision {self.name!r}: options {options}; expected one or more, none twice")


@dataclass(frozen=True, slots=True)
class PairCost:
    """A cost that depends on two decisions, such as a node's latency on its activation and its weight width.

    Attributes:
        first: name of the decision that selects the row.
        second: name of the decision that selects the column.
        matrix: [options of first, options of second]; +inf forbids a pair.
    """

    first: str
    second: str
    matrix: Sequence[Sequence[float]] | Floats


@dataclass(frozen=True, slots=True)
class Relation:
    """Which pairs of options of two decisions are legal.

    Attributes:
        first: name of a decision.
        second: name of another decision.
        allowed: legal pairs (option of first, option of second).
    """

    first: str
    second: str
    allowed: frozenset[tuple[Bits, Bits]]

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "allowed", frozenset((a, b) for a, b in self.allowed))
        except (TypeError, ValueError) as error:
            raise SearchError(
                f"relation {self.first!r} - {self.second!r}: allowed {self.allowed!r}; expected pairs such as (8, 4)"
            ) from error

    @staticmethod
    def tie(first: str, second: str, options: Iterable[Bits]) -> Relation:
        """Both decisions take the same option."""
        return Relation(first, second, frozenset((o, o) for o in options))


@dataclass(frozen=True, slots=True)
class Budget:
    """The most that a cost may be.

    Attributes:
        maximum: the limit in the cost's unit, or
        ratio: the limit as a share of a reference cost.
        reference: what `ratio` is a share of: a cost, a policy, or a name in `Problem.references` such as "fp32";
            None is the policy with 8 bits everywhere.
        seconds: the limit as a time, for costs in cycles of a target whose clock is known (`at_clock`).
    """

    maximum: float | None = None
    ratio: float | None = None
    reference: float | str | Mapping[str, Bits] | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = [limit for limit in (self.maximum, self.ratio, self.seconds) if limit is not None]
        if len(given) != 1:
            raise SearchError("budget: give one of maximum (in the cost's unit), ratio (of a reference) and seconds")
        limit = given[0]
        if isinstance(limit, str) or limit is None or not np.isfinite(limit):
            raise SearchError(f"budget: {limit!r} is not a finite number; Budget.parse reads text such as '0.6x'")
        if self.ratio is not None and self.ratio <= 0:
            raise SearchError(f"budget: a share of {self.ratio:g} of a reference; expected more than 0, such as 0.6")

    @staticmethod
    def parse(text: str) -> Budget:
        """Read "1000" (absolute), "1.5ms" (a time), "0.6x" (of 8 bits everywhere) or "0.1x fp32" (of a reference).

        Raises:
            SearchError: the text is none of these, or the limit is not above 0.
        """
        match = _BUDGET.fullmatch(str(text))
        try:
            limit = float(match[1]) if match else float("nan")
        except ValueError:
            limit = float("nan")
        if match and 0 < limit < float("inf"):
            if match[2]:
                return Budget(ratio=limit, reference=match[3] or None)
            if not match[3]:
                return Budget(maximum=limit)
            if match[3] in _SECONDS:
                return Budget(seconds=limit * _SECONDS[match[3]])
        raise SearchError(
            f"budget {text!r}: expected a number above 0 ('1000'), a time ('1.5ms'), or a share above 0 ('0.6x', "
            "'0.1x fp32')"
        )

    def at_clock(self, name: str, hertz: float | None) -> Budget:
        """Return the same limit in cycles, where it is a time.

        Args:
            name: of the cost, which is latency.
            hertz: cycles a second; None where the target does not say.

        Raises:
            SearchError: another cost than latency, or no clock.
        """
        if self.seconds is None:
            return self
        if name != "latency" or hertz is None:
            why = "the target has no clock_hz" if name == "latency" else "only latency is a time"
            raise SearchError(f"budget {name}={self.seconds:g}s: {why}: give a number or a share such as '0.6x'")
        return Budget(maximum=self.seconds * hertz)
