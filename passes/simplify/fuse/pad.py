"""Pad goes into the convolution or pooling after it."""

from __future__ import annotations

import math

from qir.graph import Node
from qir.passes.analysis.constants import array_of, is_standard, replace
from qir.passes.analysis.linear_layer import rank_of
from qir.passes.analysis.rules import scalar, sole_producer
from qir.rewriting.engine import Match, Plan, Reject, Rewriter, Rule, op


def fuse_pad(match: Match) -> Reject | Plan:
    """Pad by constants, then Conv, AveragePool or MaxPool: the padding becomes the operator's own.

    Exact for zeros before Conv, zeros before AveragePool (which then counts them), and minus infinity before MaxPool.
    """
    node = match.root
    pad = sole_producer(node.input(0), "Pad")
    if pad is None or node.attribute("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
        return Reject("no Pad that only it uses stands before it, or its padding follows from auto_pad")
    added = _spatial_pads(pad)
    if added is None or not _value_fits(node, pad):
        return Reject("the Pad is not over the spatial dimensions alone, or pads another number")
    old = tuple(node.attribute("pads", (0,) * len(added)))
    total = tuple(a + b for a, b in zip(old, added, strict=True))
    if not is_standard(node, "Conv") and not _pool_allows(node, total, old):
        return Reject("the pooling cannot have this padding")

    def change(_: Rewriter) -> None:
        if is_standard(node, "AveragePool"):
            node.set_attribute("count_include_pad", 1)
        node.set_attribute("auto_pad", None)
        node.set_attribute("pads", total)
        source = pad.input(0)
        assert source is not None  # noqa: S101 - Pad has data
        replace(pad, source)

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
    value = pad.attribute("value", 0.0) if pad.input(2) is None else scalar(pad.input(2))
    return value == (-math.inf if is_standard(node, "MaxPool") else 0.0)


def _pool_allows(node: Node, pads: tuple[int, ...], old: tuple[int, ...]) -> bool:
    kernel = node.attribute("kernel_shape", ())
    if node.attribute("ceil_mode", 0) or any(p >= k for p, k in zip(pads, (*kernel, *kernel), strict=True)):
        return False
    if is_standard(node, "AveragePool"):
        return not any(old) or bool(node.attribute("count_include_pad", 0))
    return len([value for value in node.results if value.uses]) <= 1


RULES = (Rule("fuse-pad", op(("Conv", "AveragePool", "MaxPool")), plan=fuse_pad),)
