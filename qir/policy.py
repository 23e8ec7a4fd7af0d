"""A policy: how many bits each quantizer of a network gets."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral
from operator import itemgetter

from qir.errors import QirError

Bits = int | tuple[int, ...]


@dataclass(frozen=True, slots=True, init=False)
class Policy(Mapping[str, Bits]):
    """An immutable, hashable map from the name of a quantizer to its bits.

    Bits are an int, or one int per channel (0 = pruned channel). Two policies with the same entries are equal
    whatever the order they were written in.
    """

    entries: tuple[tuple[str, Bits], ...]

    def __init__(self, entries: Mapping[str, Bits]) -> None:
        for name, bits in entries.items():
            for width in bits if isinstance(bits, tuple) else (bits,):
                if not isinstance(width, Integral) or isinstance(width, bool) or not 0 <= width <= 32:
                    raise QirError(f"policy: quantizer {name!r} has {width} bits; expected a whole number of 0 to 32")
        object.__setattr__(self, "entries", tuple(sorted(entries.items())))

    def __getitem__(self, name: str) -> Bits:
        index = bisect_left(self.entries, name, key=itemgetter(0))
        if index == len(self.entries) or self.entries[index][0] != name:
            raise KeyError(name)
        return self.entries[index][1]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def _repr_html_(self) -> str:
        """Show a table in a notebook."""
        from qir.support.html_table import html_table

        return html_table(("quantizer", "bits"), self.entries)

    def __str__(self) -> str:
        return ",".join(f"{name}={bits}" for name, bits in self.entries)
