"""The type of a quantizer's result: what its attributes say, on the shape of its operand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qir.errors import QirError
from qir.types import QuantType, TensorType, Type


def scheme_at(scheme: str | tuple[str, ...], bits: int) -> str:
    """Return the name the quantizing scheme at a width: `scheme` is one name, or entries `width=name`."""
    if isinstance(scheme, str):
        return scheme
    by_width = dict(entry.split("=", 1) for entry in scheme)
    return by_width.get(str(bits)) or by_width.get("default", "uniform")


def quantized_type(source: Type, attribute: Callable[..., Any]) -> TensorType:
    """Derive the type of a fake-quant node's result.

    Args:
        source: type of its operand; only the shape counts.
        attribute: `Node.attribute` of the node: value of an attribute by name, with a default.

    Raises:
        QirError: an attribute is of another kind, or they contradict each other.
    """
    try:
        return _derived(source, attribute)
    except (TypeError, AttributeError, LookupError, ValueError) as error:
        raise QirError(f"the attributes of a fake-quant node are damaged ({error}): insert it again") from error


def _derived(source: Type, attribute: Callable[..., Any]) -> TensorType:
    bits, widths, ranges = attribute("bits"), attribute("widths", ()), attribute("ranges", None)
    low = high = None
    if isinstance(bits, int) and ranges is not None and bits in widths:
        bounds = ranges.numpy()[list(widths).index(bits)]
        low, high = tuple(bounds[:, 0].tolist()), tuple(bounds[:, 1].tolist())
    element = QuantType(
        bits=bits,
        signed=bool(attribute("signed", 1)),
        narrow=bool(attribute("narrow", 0)),
        scheme=scheme_at(attribute("scheme", "uniform"), bits if isinstance(bits, int) else max(bits)),
        axis=attribute("axis", None),
        block=attribute("block", None),
        low=low,
        high=high,
    )
    return TensorType(element, source.shape if isinstance(source, TensorType) else None)
