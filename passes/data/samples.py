"""Data of any kind as a stream of feeds that fit the network's inputs.

Accepted: one array, a map from input name to array, an iterable of such maps or of arrays, a torch `DataLoader`, an
ONNX Runtime `CalibrationDataReader` (anything with `get_next()`), `.npy` and `.npz` files, folders of images or WAV
files, and lines of ids (`qir.passes.data.sources`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qir.backends.costs.layers.open_sizes import remember_samples, with_known_sizes
from qir.errors import DataError, QirError
from qir.graph import Value
from qir.memory import memory_budget
from qir.module import Module
from qir.passes.data.batch_axes import BatchAxes, Feed
from qir.passes.data.kinds.array_files import as_array, is_plain
from qir.passes.data.kinds.source import Data
from qir.passes.data.kinds.text_ids import with_companions
from qir.passes.data.sources import inputs_of, open_source
from qir.support.progress import advance
from qir.tensor import Array, numpy_dtype
from qir.types import TensorType

PASS = 64 << 20
"""Bytes of values that one forward pass works on: a network's batches are as large as fits, one sample at least. It is
no part of the memory budget, so that batches, and what is computed from them, are the same under every budget; larger
batches would gain nothing, because blocks that leave the allocator's heap (32 MiB in glibc) cost system time."""

KEPT = 256 << 20
"""Bytes of the results of all layers, of as many samples as are looked at together."""


def batches(module: Module, data: Data, *, batch: int = 64) -> Iterator[Feed]:
    """Yield the data as feeds of `batch` samples (the last one of what is left), shapes checked against the inputs.

    Arrays of rank 0, and those that have no axis of samples, hold for all samples; which axis counts samples is told by
    the shapes (`qir.passes.data.batch_axes`) or by `module.meta["batch_axes"]`. Feeds that are smaller are joined. A
    network whose inputs fix the number of samples gets feeds of exactly that many; samples that fill no feed are left
    out.

    Raises:
        DataError: the data are empty, of an unknown kind, or do not fit the inputs (names, rank, dimensions).
    """
    source = open_source(data, module)
    names = [value.name for value in inputs_of(module)]
    done = 0
    for feed in BatchAxes(module).cut((_named(item, names) for item in source.items), batch):
        if not _is_empty(feed):
            yield _checked(module, feed)
            done += samples_of(feed)
            advance(done, source.count or 0)
    if not done:
        raise DataError("the calibration data are empty: give at least one sample")


def samples_of(feed: Mapping[str, Array]) -> int:
    """Return the number of samples in a feed: the length of its first array that has one."""
    return next((len(array) for array in feed.values() if array.ndim), 1)


def fitting_batch(values: Iterable[Value], batch: int, *, memory: int = PASS) -> int:
    """Return at most `batch` samples, fewer where their float32 values would take more than `memory` bytes; at least 1.

    Values of unknown shape, and dimensions other than the first that are not known, count as little as they can.

    Raises:
        QirError: the memory budget does not hold them; the message says what is needed.
    """
    elements = 0
    for value in values:
        shape = value.shape
        elements += math.prod(dim for dim in (shape or ())[1:] if isinstance(dim, int))
    each = 4 * max(elements, 1)
    count = max(min(batch, memory // each), 1)
    memory_budget().require(count * each, "one sample in the network" if count == 1 else f"a batch of {count} samples")
    return count


def fitting_samples(
    module: Module, data: Data | None, values: Iterable[Value], batch: int, *, memory: int = PASS
) -> int:
    """As `fitting_batch`; sizes that the network leaves open, such as seconds of sound, are those of the first sample.

    Args:
        module: network.
        data: samples of any kind, or None.
        values: values of the main graph that are held at the same time.
        batch: most samples.
        memory: bytes.
    """
    held = list(values)
    if data is None or all(_is_sized(value) for value in held):
        return fitting_batch(held, batch, memory=memory)
    copy = module.clone()
    remember_samples(copy, next(iter(batches(module, data, batch=1))))
    try:
        sized = {value.name: value for value in with_known_sizes(copy).graph.values()}
    except QirError:  # the network takes samples of other sizes only: the sizes it declares must do
        return fitting_batch(held, batch, memory=memory)
    return fitting_batch([sized.get(value.name, value) for value in held], batch, memory=memory)


def _is_sized(value: Value) -> bool:
    """Return whether the sizes of one sample of a value are known."""
    shape = value.shape
    return shape is not None and all(isinstance(size, int) for size in shape[1:])


def _is_empty(feed: Feed) -> bool:
    return any(array.ndim and not len(array) for array in feed.values())


def _named(item: Any, names: list[str]) -> Feed:
    """Return an item by the names of the inputs."""
    if isinstance(item, Mapping):
        found = with_companions({name: as_array(item[name]) for name in names if name in item}, names)
        if missing := [name for name in names if name not in found]:
            raise DataError(f"calibration data lack the input {missing[0]!r}; they hold {', '.join(map(str, item))}")
        return {name: found[name] for name in names}
    if isinstance(item, tuple | list):
        item = item[: len(names)]
        if len(item) != len(names):
            raise DataError(f"calibration data give {len(item)} arrays; the network has the inputs {', '.join(names)}")
        return dict(zip(names, map(as_array, item), strict=True))
    if not names:
        raise DataError("calibration data give an array; the network has no inputs")
    found = with_companions({names[0]: as_array(item)}, names)
    if found.keys() != set(names):
        raise DataError(
            f"calibration data give one array; the network has the inputs {', '.join(names)}: give a map by name"
        )
    return {name: found[name] for name in names}


def _checked(module: Module, feed: Feed) -> Feed:
    return {value.name: _fitted(value, feed[value.name]) for value in module.graph.inputs if value.name in feed}


def _fitted(value: Value, array: Array) -> Array:
    """Return an array in the input's element type.

    Raises:
        DataError: it holds no numbers, or its shape does not fit.
    """
    if not isinstance(value.type, TensorType):
        return array
    shape, wanted = value.type.shape, numpy_dtype(value.type.dtype)
    if array.dtype.kind not in "OUS" if wanted.kind == "O" else array.dtype.kind in "US" or not is_plain(array):
        raise DataError(f"input {value.name!r}: data of type {array.dtype}; the network takes {value.type}")
    if shape is not None and not _fits(shape, array.shape):
        raise DataError(
            f"input {value.name!r}: data of shape {array.shape} do not fit {value.type}{_hint(shape, array.shape)}"
        )
    return array if array.dtype == wanted else array.astype(wanted)


def _fits(shape: tuple[Any, ...], found: tuple[int, ...]) -> bool:
    return len(shape) == len(found) and all(not isinstance(d, int) or d == n for d, n in zip(shape, found, strict=True))


def _hint(shape: tuple[Any, ...], found: tuple[int, ...]) -> str:
    """Return what would make data of a wrong shape fit, where that can be said."""
    if len(shape) == len(found) == 4:
        if _fits(shape[1:], (found[3], found[1], found[2])):
            return ": they are NHWC, the network takes NCHW: transpose them with x.transpose(0, 3, 1, 2)"
        if _fits(shape[1:], (found[2], found[3], found[1])):
            return ": they are NCHW, the network takes NHWC: transpose them with x.transpose(0, 2, 3, 1)"
    if len(shape) == len(found) + 1:
        return ": one axis is missing, that of samples or of channels: x[None] or x[:, None] adds it"
    return ""
