"""Pad goes into the convolution or pooling after it."""

from __future__ import annotations

import math

from qir.graph import Node
from qir.ops.definition import rank_of
from qir.passes.analysis.constants import array_of, is_standard, number_of
from qir.rewriting.engine import Match, Plan, Reject, Rewriter, Rule, any_value, op

PADDED = op(("Conv", "AveragePool", "MaxPool"), op("Pad", any_value("x"), ..., name="padded", only_use=True), ...)


def fuse_pad(match: Match) -> Reject | Plan:
    """Pad by constants, then Conv, AveragePool or MaxPool: the padding becomes the operator's own.

    Exact for zeros before Conv, zeros before AveragePool (which then counts them), and minus infinity before MaxPool.
    """
    node, pad = match.root, match.node("padded")
    if node.attribute("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
        return Reject("its padding follows from auto_pad")
    added = _spatial_pads(pad)
    if added is None:
        return Reject("it does not pad the spatial dimensions alone", pad)
    if not _value_fits(node, pad):
        return Reject("it pads with another number", pad)
    old = tuple(node.attribute("pads", (0,) * len(added)))
    total = tuple(a + b for a, b in zip(old, added, strict=True))
    if not is_standard(node, "Conv") and not _pool_allows(node, total, old):
        return Reject("the pooling cannot have this padding")

    def write() -> None:
        if is_standard(node, "AveragePool"):
            node.set_attribute("count_include_pad", 1)
        node.set_attribute("auto_pad", None)
        node.set_attribute("pads", total)

    def change(rewriter: Rewriter) -> None:
        rewriter.modify(node, write)
        rewriter.replace(pad, [], [match["x"]])

    return change


def _spatial_pads(pad: Node) -> tuple[int, ...] | None:
    """Begin and end pads of the dimensions after the second, None when others are padded or one is cropped."""
    rank = rank_of(pad.input(0)) or rank_of(pad.result)
    if pad.attribute("mode", "constant") != "constant" or rank is None or pad.input(3) is not None:
        return None
    given = pad.attribute("pads")
    if given is None:
        array = array_of(pad.input(1))
        given = None if array is None else array.tolist()
    if given is None or len(given) != 2 * rank or min(given) < 0:
        return None
    begin, end = given[:rank], given[rank:]
    if any(begin[:2]) or any(end[:2]):
        return None
    return (*map(int, begin[2:]), *map(int, end[2:]))


def _value_fits(node: Node, pad: Node) -> bool:
    value = pad.attribute("value", 0.0) if pad.input(2) is None else number_of(pad.input(2))
    return value == (-math.inf if is_standard(node, "MaxPool") else 0.0)


def _pool_allows(node: Node, pads: tuple[int, ...], old: tuple[int, ...]) -> bool:
    kernel = node.attribute("kernel_shape", ())
    if node.attribute("ceil_mode", 0) or any(p >= k for p, k in zip(pads, (*kernel, *kernel), strict=True)):
        return False
    if is_standard(node, "AveragePool"):
        return not any(old) or bool(node.attribute("count_include_pad", 0))
    return len([value for value in node.results if value.uses]) <= 1


RULES = (Rule("fuse-pad", PADDED, plan=fuse_pad),)
