"""Sizes that a network leaves open, and a copy of it in which they are known: costs are numbers of known sizes."""

from __future__ import annotations

from collections.abc import Mapping

from qir.errors import QirError, TargetError
from qir.module import Module
from qir.ops import infer_graph
from qir.ops.definition import sizes_of
from qir.tensor import Array
from qir.types import Dim, DType, TensorType

Shape = tuple[int, ...]
SAMPLE_SHAPES = "sample-shapes"
"""Key in `Module.meta`: name of an input → shape of the first samples that the network was calibrated with; also of
values whose size follows from no rule, with one sample."""


def remember_samples(module: Module, feed: Mapping[str, Array]) -> None:
    """Keep the shapes of a network's samples: they are what its open sizes are taken as."""
    module.meta[SAMPLE_SHAPES] = {name: tuple(array.shape) for name, array in feed.items()}


def open_inputs(module: Module) -> dict[str, tuple[Dim, ...]]:
    """Return inputs of which not all sizes are numbers, and their declared shapes; of the samples' rank without one."""
    samples: Mapping[str, Shape] = module.meta.get(SAMPLE_SHAPES, {})
    kinds = {value.name: value.type for value in module.graph.inputs if value.constant is None}
    shapes = {
        name: (None,) * len(samples.get(name, (1,))) if kind.shape is None else kind.shape
        for name, kind in kinds.items()
        if isinstance(kind, TensorType)
    }
    return {name: shape for name, shape in shapes.items() if not all(isinstance(size, int) for size in shape)}


def shape_text(shape: tuple[Dim, ...], separator: str = ",") -> str:
    """Return a shape as options of the shell take it; `?` for a size without number or name."""
    return separator.join("?" if size is None else str(size) for size in shape)


def taken_sizes(module: Module, batch: int = 1) -> dict[str, tuple[Dim, ...]]:
    """Return shapes that open inputs are taken to have: of the samples, `batch` of them; open where neither tells.

    The number of samples is the size called batch or N, else the first size of every input, unless the samples of
    several inputs differ in it.
    """
    samples: Mapping[str, Shape] = module.meta.get(SAMPLE_SHAPES, {})
    opened = open_inputs(module)
    called = {size for shape in opened.values() for size in shape if isinstance(size, str) and _is_batch(size)}
    first = {shape[0] for shape in opened.values() if not isinstance(shape[0], int)}
    counts = {samples[name][0] for name, shape in opened.items() if shape[0] in first and name in samples}
    numbers = called or (first if len(counts) <= 1 else set())
    found: dict[str, tuple[Dim, ...]] = {}
    for name, shape in opened.items():
        given: tuple[Dim, ...] = samples.get(name, shape)
        given = given if len(given) == len(shape) else shape
        found[name] = tuple(
            size if isinstance(size, int) else batch if size in numbers and (size or not index) else given[index]
            for index, size in enumerate(shape)
        )
    return found


def _is_batch(symbol: str) -> bool:
    return symbol.lower() in {"n", "b", "bs"} or "batch" in symbol.lower()


def with_known_sizes(module: Module, *, batch: int = 1) -> Module:
    """Return the network itself where its inputs leave no size open, else a copy with the sizes of `taken_sizes`.

    Raises:
        TargetError: the network does not take these sizes.
    """
    shapes = taken_sizes(module, batch)
    if not shapes:
        return module
    made = module.clone()
    try:
        fix_sizes(made, shapes)
    except QirError as error:
        taken = ", ".join(f"{name}={shape_text(shape)}" for name, shape in shapes.items())
        raise TargetError(f"costs with the sizes {taken}: {error}") from error
    return made


def fix_sizes(module: Module, shapes: Mapping[str, tuple[Dim, ...]]) -> None:
    """Give inputs these shapes, in place.

    A size that had a name (a symbol) takes its number wherever the name occurs; all others are inferred anew, and
    those that no rule gives are taken from the samples.
    """
    symbols: dict[Dim, Dim] = {}
    for value in module.graph.inputs:
        kind = value.type
        if value.name in shapes and isinstance(kind, TensorType):
            symbols |= {
                old: new
                for old, new in zip(kind.shape or (), shapes[value.name], strict=False)
                if isinstance(old, str) and isinstance(new, int)
            }
            value.type = TensorType(kind.element, shapes[value.name])
    samples: Mapping[str, Shape] = module.meta.get(SAMPLE_SHAPES, {})
    inputs = set(module.graph.inputs)
    for value in module.graph.values():
        kind = value.type
        if isinstance(kind, TensorType) and kind.shape is not None and not symbols.keys().isdisjoint(kind.shape):
            value.type = TensorType(kind.element, tuple(symbols.get(size, size) for size in kind.shape))
        elif value.name in samples and value not in inputs and sizes_of(value) is None:
            value.type = TensorType(
                kind.element if isinstance(kind, TensorType) else DType.FLOAT32, samples[value.name]
            )
    infer_graph(module)
