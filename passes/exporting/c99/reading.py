"""Names and numbers as C writes them, and what a guide has to say for that."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypeVar

import numpy as np

from qir.errors import ExportError
from qir.guide_network import NetworkTensor, StepGuide

T = TypeVar("T")

_WORDS = """auto break case char const continue default do double else enum extern float for goto if inline int long
main register restrict return short signed sizeof static struct switch typedef union unsigned void volatile while"""
KEYWORDS = frozenset(re.findall(r"\w+", _WORDS))
"""Names that C has taken."""


def required(found: T | None, what: str) -> T:
    """Return what the guide has to say for the kernels to be written.

    Raises:
        ExportError: it does not; `what` says whose and what.
    """
    if found is None:
        raise ExportError(f"profile 'c99': the guide gives {what}: export the network again, quantized throughout")
    return found


def identifier(name: str) -> str:
    """Return a name as C allows it."""
    found = re.sub(r"[^0-9A-Za-z_]", "_", name).strip("_") or "net"
    return f"n_{found}" if found[0].isdigit() or found in KEYWORDS else found


def comment(text: str) -> str:
    """Return text that may stand in a comment of C, on one line."""
    return re.sub(r"[^0-9A-Za-z_ .,:;()\[\]=+x-]", "_", text)[:100]


def numbers(values: Iterable[int]) -> str:
    """Return numbers of an initializer, in lines of at most 110 characters."""
    lines, line = [], ""
    for value in values:
        text = f"{int(value)},"
        if len(line) + len(text) > 108:
            lines.append(line)
            line = ""
        line += text
    return "\n  ".join([*lines, line]).rstrip(",") or "0"


def label(step: StepGuide) -> str:
    """Return how messages and comments call a step."""
    return f"{step.op} {step.name!r}"


def elements(tensor: NetworkTensor) -> int:
    """Return the number of elements."""
    return int(np.prod(tensor.shape))
