"""What was understood of data, in a line, and what of it cannot be right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.data.batch_axes import BatchAxes, shape_of
from qir.passes.data.kinds.preprocessing import Preprocessing
from qir.passes.data.kinds.source import Source
from qir.passes.data.sources import inputs_of
from qir.passes.data.training_statistics import shift_from_training
from qir.tensor import Array

LOOKED_AT = 16
"""Samples that are looked at."""

LEAST_PIXELS = 64
"""Whole numbers of which none is above this may be anything."""


@dataclass(frozen=True)
class Understanding:
    """What data are taken for.

    Attributes:
        line: number, shape, element type, range, layout and classes.
        warnings: what cannot be right, a sentence each.
    """

    line: str
    warnings: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """The line, and a line a warning."""
        return [f"data: {self.line}", *(f"warning: {text}" for text in self.warnings)]


def understand(
    module: Module, source: Source, feed: Mapping[str, Array], nearby: Preprocessing | None
) -> Understanding:
    """Return what data are taken for, judged by their first samples.

    Args:
        module: float network, as it was read.
        source: the data.
        feed: their first samples, checked against the inputs.
        nearby: what a file next to the network says of images; None where there is none.
    """
    parts = [source.what]
    parts += [_described(value, feed[value.name]) for value in inputs_of(module) if value.name in feed]
    if source.preprocessing is not None:
        parts.append(f"{source.preprocessing.layout}, {source.preprocessing.text}")
    if source.labels is not None and len(source.labels):
        parts.append(_classes(source.labels, source.classes))
    return Understanding("; ".join([*parts, *source.notes]), tuple(_warnings(module, source, feed, nearby)))


def _described(value: Value, array: Array) -> str:
    reach = f", {array.min():g} to {array.max():g}" if array.size and array.dtype.kind in "iuf" else ""
    return f"{value.name} {array.dtype} {list(array.shape[1:])}{reach}"


def _classes(labels: Array, classes: Sequence[str]) -> str:
    names = ", ".join(classes[:4]) + (", …" if len(classes) > 4 else "")
    found = np.unique(labels)
    return f"{len(found):,} classes, labels {found[0]} to {found[-1]}" + (f" ({names})" if names else "")


def _warnings(module: Module, source: Source, feed: Mapping[str, Array], nearby: Preprocessing | None) -> Sequence[str]:
    found = [text for name, array in feed.items() for text in _of_numbers(name, array, _axis(module, feed, name))]
    found += _of_labels(module, source)
    if not found:
        found += _of_range(module, source, feed, nearby)
    return found


def _axis(module: Module, feed: Mapping[str, Array], name: str) -> int | None:
    return BatchAxes(module).axes(feed)[name]


def _of_numbers(name: str, array: Array, axis: int | None) -> list[str]:
    """Return numbers that no data hold."""
    if array.dtype.kind != "f" or not array.size:
        return []
    if not np.isfinite(array).all():
        return [f"input {name!r}: the data hold NaN or infinities"]
    if axis is None or array.ndim < 2:
        return []
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    if rows.shape[1] < 2:
        return []
    constant = int((rows == rows[:, :1]).all(axis=1).sum())
    if constant:
        return [f"input {name!r}: {constant} of the first {len(rows)} samples are one number throughout"]
    if len(rows) > 1 and (rows == rows[:1]).all():
        return [f"input {name!r}: the first {len(rows)} samples are all the same"]
    return []


def _of_labels(module: Module, source: Source) -> list[str]:
    """Return labels that the network has no class for."""
    labels, outputs = source.labels, [value for value in module.graph.outputs if value is not None]
    shape = shape_of(outputs[0]) if outputs else None
    if labels is None or not len(labels) or shape is None or len(shape) != 2 or not isinstance(shape[1], int):
        return []
    low, high, classes = labels.min(), labels.max(), shape[1]
    if low < 0 or high >= classes > 1:
        return [f"labels {low} to {high}; the network has the classes 0 to {classes - 1}: accuracy says nothing"]
    if source.classes and len(source.classes) != classes:
        text = (
            f"{len(source.classes)} class folders, and the network has {classes} classes: labels are the places of "
            "the folders in alphabetical order; call the folders by their class numbers, or list all classes in "
            "classes.txt"
        )
        return [text]
    return []


def _of_range(module: Module, source: Source, feed: Mapping[str, Array], nearby: Preprocessing | None) -> list[str]:
    """Return images in another range than the network saw."""
    shift = shift_from_training(module, feed)
    if shift is not None and shift.far:
        text = (
            f"the data are not what the network was trained on: at {shift.node!r} their spread is {shift.spread:.3g} "
            f"times what its BatchNormalization has stored, their mean is off by {shift.offset:.3g} standard "
            "deviations: check the range of pixels (0 to 255, or 0 to 1), mean and std"
        )
        return [text]
    if source.preprocessing is not None:
        return []
    images = {name: array for name, array in feed.items() if array.ndim == 4 and array.dtype.kind == "f"}
    if nearby is not None:
        return [text for name, array in images.items() for text in _out_of_reach(name, array, nearby)]
    return (
        [] if shift is not None else [text for name, array in images.items() for text in _pixels(module, name, array)]
    )


def _out_of_reach(name: str, array: Array, nearby: Preprocessing) -> list[str]:
    """Return arrays that reach further than the file of preprocessing lets images reach, by more than half of it."""
    (low, high), least, most = nearby.reach, float(array.min()), float(array.max())
    slack = (high - low) / 2
    if least >= low - slack and most <= high + slack:
        return []
    return [
        f"input {name!r}: the data reach {least:g} to {most:g}; by {nearby.source} images reach {low:.3g} to {high:.3g}"
    ]


def _pixels(module: Module, name: str, array: Array) -> list[str]:
    """Return bytes as floats, for a network that does not scale them itself."""
    (value,) = (value for value in inputs_of(module) if value.name == name)
    least, most = float(array.min()), float(array.max())
    whole = least >= 0 and LEAST_PIXELS < most <= 255 and bool((array == np.round(array)).all())
    if not whole or any(_scales(user, value) for user in value.users):
        return []
    text = (
        f"input {name!r}: the data are whole numbers from {least:g} to {most:g}, like pixels; most networks take 0 to "
        "1, or less mean and by standard deviation"
    )
    return [text]


def _scales(node: Node, value: Value) -> bool:
    """Return whether a node combines a value with one constant: subtracts a mean, divides by 255."""
    others = [operand for operand in node.operands if operand is not value]
    return op_of(node).is_elementwise and len(others) == 1 and others[0].is_constant
