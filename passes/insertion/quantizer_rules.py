"""Rules about which tensors are quantized, and at which widths: the pass's options joined with the target's wishes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qir.errors import QirError
from qir.fake_quant import FakeQuant
from qir.graph import Node
from qir.ops import op_of
from qir.passes.constraints.propagate_constraints import FIXED

if TYPE_CHECKING:
    from qir.backends.costs.target import Target

WIDEST = 32


@dataclass(frozen=True)
class Keep:
    """A rule `pattern:width`: quantizers whose name holds the pattern, or operands of an operator, keep a width."""

    text: str
    pattern: re.Pattern[str]
    width: int


@dataclass(frozen=True)
class QuantizerRules:
    """What is quantized next to the layers, and what keeps a width.

    Attributes:
        first_last: width of the first and last layer's operands; 0 = they are decisions.
        keep: rules in order, later ones win.
        exclude: patterns of operators (whole) and of node names (anywhere) that stay float.
        ops: operators besides the layers whose operands and results are quantized; None = additions, concatenations
            and average pooling.
        block: elements of a weight that share a range, 0 = those of a channel.
    """

    first_last: int
    keep: tuple[Keep, ...]
    exclude: tuple[re.Pattern[str], ...]
    ops: frozenset[str] | None
    block: int = 0

    @staticmethod
    def of(
        target: Target | None, *, first_last: int, keep: Iterable[str], exclude: str, ops: Iterable[str], block: int = 0
    ) -> QuantizerRules:
        """Return the options of a pass joined with a target's `quantize`; options win where both say something.

        Raises:
            QirError: a rule or a pattern is no such text.
        """
        wish = None if target is None else target.quantize
        patterns = [*(() if wish is None else wish.exclude), *([exclude] if exclude else [])]
        listed = tuple(ops) or (None if wish is None else wish.ops)
        return QuantizerRules(
            first_last or (0 if wish is None else wish.first_last or 0),
            tuple(_keep(text) for text in (*(() if wish is None else wish.keep), *keep)),
            tuple(_pattern(text) for text in patterns),
            None if listed is None else frozenset(listed),
            block or (0 if wish is None else wish.block),
        )

    def excludes(self, node: Node) -> bool:
        """Return whether a node stays float."""
        return any(p.fullmatch(node.op) or p.search(node.name) for p in self.exclude)

    def quantizes(self, node: Node) -> bool:
        """Return whether operands and result of a node that is not a layer are quantized."""
        facts = op_of(node)
        if self.ops is not None:
            return node.op in self.ops
        return facts.is_join or facts.is_average


def widths_of(text: str, default: Iterable[int]) -> tuple[int, ...]:
    """Return ascending widths of `2|4|8`; the default's for an empty text.

    Raises:
        QirError: the text is not a list of widths.
    """
    if not text:
        return tuple(sorted(default))
    try:
        widths = tuple(sorted(int(part) for part in text.split("|")))
    except ValueError:
        raise QirError(
            f"insert-fake-quant: widths {text!r} are not numbers divided by '|', for example 2|4|8"
        ) from None
    if any(not 1 <= width <= WIDEST for width in widths):
        raise QirError(f"insert-fake-quant: widths {text!r} are not between 1 and {WIDEST}")
    return widths


def pin(quantizer: FakeQuant, width: int, reason: str) -> None:
    """Leave a quantizer one width, so that it is not a decision; the reason is what `explain` says."""
    quantizer.widths = (width,)
    quantizer.bits = width
    quantizer.node.metadata[FIXED] = reason


def _keep(text: str) -> Keep:
    pattern, divided, width = text.rpartition(":")
    try:
        if divided and pattern and 1 <= int(width) <= WIDEST:
            return Keep(text, re.compile(pattern), int(width))
    except (ValueError, re.error):
        pass
    raise QirError(
        f"insert-fake-quant: rule {text!r}; expected pattern:width, for example fc.*:8, width from 1 to {WIDEST}"
    )


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise QirError(f"insert-fake-quant: exclude {text!r} is not a regular expression: {error}") from None
