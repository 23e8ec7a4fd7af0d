"""Policies as arrays of codes: for each quantizer, the index of its width among those of a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from qir.errors import TargetError
from qir.policy import Bits, Policy
from qir.support.nearest import nearest

Codes = npt.NDArray[np.integer[Any]]
Widths = Mapping[str, tuple[int, ...]]

_BYTE = 256
_NONE = -1


def read_codes(policies: Iterable[Mapping[str, Bits]], widths: Widths) -> Codes | None:
    """Return indices into the quantizers' widths: int8 [policies, quantizers]; None where bits differ along channels.

    Policies whose maps have the same order of names are read together.

    Raises:
        TargetError: a quantizer is missing or unknown, or its bits are not a candidate.
    """
    orders: dict[tuple[str, ...], tuple[list[int], list[bytes]]] = {}
    count = 0
    for policy in policies:
        names, bits = _entries(policy)
        places, rows = orders.setdefault(names, ([], []))
        try:
            rows.append(bytes(cast("tuple[int, ...]", bits)))
        except (TypeError, ValueError):
            if tuple in map(type, bits):
                return None
            _refuse(dict(zip(names, bits, strict=True)), widths)
        places.append(count)
        count += 1
    codes = np.empty((count, len(widths)), np.int8)
    for names, (places, rows) in orders.items():
        matrix = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), len(names))
        codes[places] = _columns(matrix, names, widths)
    return codes


def code_of(name: str, bits: Bits | None, widths: Widths) -> int:
    """Return the index of a width among those of its quantizer.

    Raises:
        TargetError: the width is none of them, or None.
    """
    known = widths[name]
    if bits is None:
        raise TargetError(f"the policy leaves out quantizer {name!r}: give it one of {list(known)} bits")
    if not isinstance(bits, int) or bits not in known:
        raise TargetError(f"quantizer {name!r} has {bits} bits; the table holds {list(known)}")
    return known.index(bits)


def _entries(policy: Mapping[str, Bits]) -> tuple[tuple[str, ...], tuple[Bits, ...]]:
    """Return names and bits of a policy, in its order."""
    if isinstance(policy, Policy):
        names, bits = zip(*policy.entries, strict=True) if policy.entries else ((), ())
        return names, bits
    if not isinstance(policy, Mapping):
        raise TargetError(f"cost table: found {type(policy).__name__} among the policies; expected quantizer → bits")
    return tuple(policy), tuple(policy.values())


def _columns(matrix: npt.NDArray[np.uint8], names: tuple[str, ...], widths: Widths) -> Codes:
    """Return codes of policies with the same names, in the order of the table's quantizers."""
    column = {name: index for index, name in enumerate(names)}
    if column.keys() != widths.keys():
        _refuse(dict(zip(names, map(int, matrix[0]), strict=True)), widths)
    codes = np.full((len(widths), _BYTE), _NONE, np.int8)
    for row, known in zip(codes, widths.values(), strict=True):
        row[list(known)] = np.arange(len(known))
    found = codes[np.arange(len(widths)), matrix[:, [column[name] for name in widths]]]
    wrong = np.argwhere(found == _NONE)
    if len(wrong):
        _refuse(dict(zip(names, map(int, matrix[wrong[0][0]]), strict=True)), widths)
    return found


def _refuse(policy: Mapping[str, Bits], widths: Widths) -> None:
    """Say what is wrong with a policy."""
    for name in policy:
        if name not in widths:
            raise TargetError(f"policy: the table has no quantizer {name!r}: {nearest(name, widths)}")
    for name in widths:
        code_of(name, policy.get(name), widths)
