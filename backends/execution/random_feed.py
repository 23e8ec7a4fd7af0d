"""Random feeds that respect what the inputs of a network are: floats, indices of a table, integers, booleans."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qir.errors import DataError
from qir.graph import Value
from qir.module import Module
from qir.ops import op_of
from qir.tensor import Array, numpy_dtype
from qir.types import TensorType

MOST = 4
"""Integers other than indices of a table are drawn below it."""


def random_feed(module: Module, *, samples: int = 16, unknown: int = 1, seed: int = 0) -> dict[str, Array]:
    """Return random arrays for the inputs of a network that have no default.

    Floats are standard normal; integers are rows of the smallest table that they choose from (Gather), such as tokens
    of a vocabulary, and 0 to 3 elsewhere; bool is either; strings are empty.

    Args:
        module: the network.
        samples: length of first dimensions that are not known.
        unknown: length of other dimensions that are not known.
        seed: seed of the generator.

    Returns:
        Arrays by input name, in the inputs' own element types.

    Raises:
        DataError: the type or rank of an input is not known.
    """
    generator = np.random.default_rng(seed)
    feed = {}
    for value in module.graph.inputs:
        if value.constant is None:
            shape = _shape(value, samples, unknown)
            feed[value.name] = random_array(value, shape, generator, below=_rows(value))
    return feed


def random_array(value: Value, shape: tuple[int, ...], generator: np.random.Generator, *, below: int = MOST) -> Array:
    """Return one random array of a value's element type; integers lie in [0, below)."""
    dtype = numpy_dtype(value.type.dtype) if isinstance(value.type, TensorType) else np.dtype(np.float32)
    if dtype.kind == "O":
        return np.full(shape, "", object)
    if dtype.kind in "iu":
        return generator.integers(0, below, shape).astype(dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(dtype)
    return np.asarray(generator.standard_normal(shape)).astype(dtype)


def _shape(value: Value, samples: int, unknown: int) -> tuple[int, ...]:
    shape = value.type.shape if isinstance(value.type, TensorType) else None
    if shape is None:
        raise DataError(f"input {value.name!r} has type {value.type}: random samples need its shape; give data for it")
    return tuple(d if isinstance(d, int) else unknown if i else samples for i, d in enumerate(shape))


def _rows(value: Value) -> int:
    """Return the smallest number of rows of the tables that a value's elements are indices of, else `MOST`."""
    return min(_tables(value, set()), default=MOST)


def _tables(value: Value, seen: set[Value]) -> Iterator[int]:
    """Yield rows of each constant table that a value indexes, seen through what keeps or moves its elements."""
    seen.add(value)
    for use in value.uses:
        node = use.node
        if node.op == "Gather" and use.index == 1:
            table, axis = node.operands[0], node.attribute("axis", 0)
            shape = table.type.shape if isinstance(table.type, TensorType) else None
            if shape and isinstance(shape[axis], int):
                yield max(1, int(shape[axis]))
        elif not node.is_return and (node.op == "Cast" or op_of(node).grid_operand(node) == use.index):
            yield from (rows for result in node.results if result not in seen for rows in _tables(result, seen))
