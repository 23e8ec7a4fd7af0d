"""Which axis of each input counts samples, and feeds cut and joined along it.

An axis is given, or it is where the symbol of the batch stands in the input's shape, or the first one. Inputs without
it (a mask for all samples, a rate) go whole into every feed. Where inputs begin with sizes of different names (atoms,
bonds), none of them called batch, a feed is one sample.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from qir.constants import is_standard
from qir.errors import DataError
from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.tensor import Array

Feed = dict[str, Array]

_STATE_RANK, _STATE_AXIS = 3, 1
"""The state of ONNX's LSTM, GRU and RNN is [directions, batch, hidden]; files stack those of their layers."""

META = "batch_axes"
"""Where a module keeps the axes that were given: `module.meta["batch_axes"]`, name of an input → axis or None."""


_SAYS_NOTHING = re.compile(r"unk__\d+|(p2o\.)?DynamicDimension\.\d+")
"""Names of sizes that tf2onnx and Paddle2ONNX give to unknown ones, each its own: equal sizes have different names."""


def shape_of(value: Value) -> tuple[int | str | None, ...] | None:
    """Return the shape of a value as far as it is known; a name that says nothing is None."""
    if value.shape is None:
        return None
    return tuple(None if isinstance(dim, str) and _SAYS_NOTHING.fullmatch(dim) else dim for dim in value.shape)


class BatchAxes:
    """How the feeds of a network are cut.

    Attributes:
        inputs: the inputs that are fed, by name.
        fixed: how many samples the network takes at a time; 0 = any number.
    """

    def __init__(self, module: Module, given: Mapping[str, int | None] | None = None) -> None:
        self.inputs = {value.name: value for value in module.graph.inputs if value.constant is None}
        self._given: dict[str, int | None] = dict(module.meta.get(META, {}) if given is None else given)
        if unknown := sorted(self._given.keys() - self.inputs.keys()):
            raise DataError(f"batch axis of {unknown[0]!r}: the network has the inputs {', '.join(self.inputs)}")
        self._symbol, self._whole = _batch_symbol(list(self.inputs.values()))
        self.fixed = self._fixed(module)

    def axes(self, feed: Mapping[str, Array]) -> dict[str, int | None]:
        """Return the axis of samples of each array; None for arrays that hold for all samples."""
        found = {name: self._declared(name, array) for name, array in feed.items() if array.ndim}
        counted = {
            feed[name].shape[axis] for name, axis in found.items() if axis is not None and axis < feed[name].ndim
        }
        count = counted.pop() if len(counted) == 1 else 0
        return {name: self._told(name, array, found.get(name), count) for name, array in feed.items()}

    def samples(self, feed: Mapping[str, Array]) -> int:
        """Return the number of samples in a feed; 1 where no array tells."""
        axes = self.axes(feed)
        return next((feed[name].shape[axis] for name, axis in axes.items() if axis is not None), 1)

    def cut(self, feeds: Iterable[Feed], batch: int) -> Iterator[Feed]:
        """Yield feeds of `batch` samples (`fixed` where the network fixes it); those that are smaller are joined.

        Feeds whose arrays do not agree on the number of samples pass as they are. What fills no feed of a fixed number
        is left out.

        Raises:
            DataError: not even one feed of a fixed number is filled.
        """
        size, pending, full = self.fixed or batch, _Pending(), False
        for feed in (part for given in feeds for part in self._unstacked(given)):
            axes = self.axes(feed)
            lengths = {feed[name].shape[axis] for name, axis in axes.items() if axis is not None}
            if len(lengths) != 1:
                yield from self._rest(pending, full=full)
                full = True
                yield feed
                continue
            for part in _slices(feed, axes, lengths.pop(), size, pending):
                if not pending.fits(part, axes):
                    yield from self._rest(pending, full=full)
                pending.add(part, axes)
                if pending.count >= size:
                    full = True
                    yield pending.taken()
        yield from self._rest(pending, full=full)

    def _unstacked(self, feed: Feed) -> Iterator[Feed]:
        """Yield the feed itself, or one for each sample where an array has one axis more than its input.

        Whole inputs.
        """
        stacked = [name for name, array in feed.items() if self._is_stacked(name, array)]
        if not stacked:
            yield feed
            return
        count = len(feed[stacked[0]])
        for index in range(count):
            yield {
                name: array[index] if name in stacked else array[index : index + 1] if _has(array, count) else array
                for name, array in feed.items()
            }

    def _is_stacked(self, name: str, array: Array) -> bool:
        shape = shape_of(self.inputs[name]) if name in self.inputs else None
        if shape is None or array.ndim != len(shape) + 1:
            return False
        return all(not isinstance(dim, int) or dim == n for dim, n in zip(shape, array.shape[1:], strict=True))

    def _rest(self, pending: _Pending, *, full: bool) -> Iterator[Feed]:
        if not pending.count:
            return
        count, feed = pending.count, pending.taken()
        if not self.fixed or count == self.fixed:
            yield feed
        elif not full:
            name = next(iter(self.inputs))
            raise DataError(f"input {name!r}: {count} samples; the network takes exactly {self.fixed} at a time")

    def _declared(self, name: str, array: Array) -> int | None:
        """Return the axis that is given or that the input's shape tells."""
        if name in self._given:
            return self._given[name]
        value = self.inputs.get(name)
        shape = None if value is None else shape_of(value)
        if shape is None or len(shape) != array.ndim:
            return 0
        if self._symbol and self._symbol in shape:
            return shape.index(self._symbol)
        if isinstance(shape[0], str):
            return None if self._symbol or self._whole else 0
        return 0 if shape[0] is None or shape[0] != len(array) or shape[0] == self._common() else None

    def _told(self, name: str, array: Array, axis: int | None, count: int) -> int | None:
        """Return the axis where the data tell it.

        1 or open in the shape, and in the array as long as there are samples.
        """
        value = self.inputs.get(name)
        shape = None if value is None else shape_of(value)
        if not array.ndim or name in self._given or shape is None or len(shape) != array.ndim:
            return axis if array.ndim else None
        if axis == 0 and not count and shape == array.shape:
            return None  # given once, for all samples
        pairs = enumerate(zip(shape, array.shape, strict=True))
        places = [k for k, (d, n) in pairs if n == count > (1 if d == 1 else 0) and (d == 1 or not isinstance(d, int))]
        return places[0] if axis is None and len(places) == 1 else axis

    def _common(self) -> int:
        """Return the number that the first axes of all inputs fix, 0 where they differ."""
        sizes = {shape[0] for value in self.inputs.values() if (shape := shape_of(value))}
        size = sizes.pop() if len(sizes) == 1 else 0
        return size if isinstance(size, int) else 0

    def _fixed(self, module: Module) -> int:
        fixed = self._common() or _of_states(self.inputs.values()) * (not self._whole)
        shapes = [(name, shape) for name, value in self.inputs.items() if (shape := shape_of(value))]
        axes = [(shape, self._given.get(name, 0)) for name, shape in shapes]
        if fixed or not axes:
            return fixed
        named = {shape[axis] for shape, axis in axes if axis is not None and axis < len(shape)}
        if self._symbol is None and 1 in named and all(isinstance(size, int) for size in named):
            return 1  # states next to one sample
        outputs = [shape_of(value) for value in module.graph.outputs if value is not None]
        baked = all(shape is not None and len(shape) > 0 and shape[0] == 1 for shape in outputs)
        return 1 if baked and outputs and self._symbol is not None else 0


def _of_states(inputs: Iterable[Value]) -> int:
    """Return the number of samples that the initial states of recurrent layers fix, 0 where none does."""
    for value in inputs:
        shape = shape_of(value)
        if shape and len(shape) == _STATE_RANK and _is_state(value, set()):
            size = shape[_STATE_AXIS]
            return size if isinstance(size, int) else 0
    return 0


def _is_state(value: Value, seen: set[Value]) -> bool:
    """Tell whether a value is a recurrent layer's state, through what keeps, moves or quantizes its elements."""
    seen.add(value)
    for use in value.uses:
        node = use.node
        kernel = None if node.is_return else op_of(node).float_kernel(node)
        if kernel is not None and kernel.data.get(use.index) in {"state", "cell"}:
            return True
        if node.is_return or node.results[0] in seen or not _hands_on(node, use.index):
            continue
        if _is_state(node.results[0], seen):
            return True
    return False


def _hands_on(node: Node, index: int) -> bool:
    op = op_of(node)
    quantizes = node.is_fake_quant or op.is_quantize or op.is_dequantize or is_standard(node, "Clip")
    return op.grid_operand(node) == index or (quantizes and index == 0)


class _Pending:
    """Parts that wait for a feed to be filled."""

    def __init__(self) -> None:
        self.count = 0
        self._parts: list[Feed] = []
        self._axes: dict[str, int | None] = {}

    def fits(self, part: Feed, axes: Mapping[str, int | None]) -> bool:
        """Return whether a part can be joined to what waits.

        The same shapes but for the axes of samples, the same rest.
        """
        if not self._parts:
            return True
        first = self._parts[0]
        return self._axes == axes and all(_alike(first[name], part[name], axis) for name, axis in axes.items())

    def add(self, part: Feed, axes: dict[str, int | None]) -> None:
        self._parts.append(part)
        self._axes = axes
        self.count += next(part[name].shape[axis] for name, axis in axes.items() if axis is not None)

    def taken(self) -> Feed:
        """Return what waits, as one feed; nothing waits after."""
        parts, axes = self._parts, self._axes
        self._parts, self.count = [], 0
        if len(parts) == 1:
            return parts[0]
        return {
            name: parts[0][name] if axis is None else np.concatenate([part[name] for part in parts], axis)
            for name, axis in axes.items()
        }


def _alike(one: Array, other: Array, axis: int | None) -> bool:
    if axis is None:
        return one is other or (one.shape == other.shape and one.dtype == other.dtype and np.array_equal(one, other))
    return one.dtype == other.dtype and _without(one.shape, axis) == _without(other.shape, axis)


def _has(array: Array, count: int) -> bool:
    return array.ndim > 0 and len(array) == count


def _without(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    return shape[:axis] + shape[axis + 1 :]


def _slices(feed: Feed, axes: Mapping[str, int | None], count: int, size: int, pending: _Pending) -> Iterator[Feed]:
    """Yield parts of a feed, each at most what is missing from `size`."""
    start = 0
    while start < count:
        stop = min(start + size - pending.count, count)
        if not (start == 0 and stop == count):
            yield {
                name: array if (axis := axes[name]) is None else array[(slice(None),) * axis + (slice(start, stop),)]
                for name, array in feed.items()
            }
        else:
            yield feed
        start = stop


def _batch_symbol(inputs: list[Value]) -> tuple[str | None, bool]:
    """Return the symbol that counts samples, and whether none does, so that a feed is one sample.

    It is one that is called so, else the one that all inputs that begin with a symbol begin with, unless states fix the
    number of samples: then that symbol counts time.
    """
    shapes = [shape for value in inputs if (shape := shape_of(value))]
    symbols = [dim for shape in shapes for dim in shape if isinstance(dim, str)]
    called = next((name for name in symbols if "batch" in name.lower() or name in {"N", "B"}), None)
    first = list(dict.fromkeys(shape[0] for shape in shapes if isinstance(shape[0], str)))
    if called is not None:
        return called, False
    whole = len(first) > 1 or (len(first) == 1 and _of_states(inputs) > 0)
    return (None if whole or not first else first[0]), whole
