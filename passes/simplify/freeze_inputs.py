"""Inputs with a default value or a given one become constants, and open sizes known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.errors import PassError
from qir.graph import Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.tensor import Tensor, numpy_dtype
from qir.types import TensorType

_FIRST_WITH_CONSTANTS = 4


@dataclass(frozen=True)
class FreezeInputs(Pass):
    """Turn inputs of the main graph that have a default value, or are given one, into constants.

    Up to ONNX's IR version 3 every weight had to be listed as an input, and ONNX Runtime never lets a caller replace
    it: such modules are frozen and their IR version is raised to 4. From version 4 on such an input is meant to be
    replaced, and is left alone unless `always` or `parameters` is set: many exporters list every weight all the same.

    Attributes:
        always: freeze whatever the IR version is.
        parameters: freeze, whatever the IR version is, what operators take as weights, biases or the like, and
            everything in a file whose constants are all listed.
        values: `input:number`, for example `sr:16000`: the input becomes that number at every place.
        shapes: `input:1x3x224x224`: the input has this shape from now on; run `infer-types` after it.
        batch: samples at a time: what the open first size of the first input is, wherever it stands; 0 leaves it open.
    """

    name: ClassVar[str] = "freeze-inputs"
    always: bool = False
    parameters: bool = False
    values: tuple[str, ...] = ()
    shapes: tuple[str, ...] = ()
    batch: int = 0

    def run(self, module: Module, context: PassContext) -> bool:
        """Freeze; True when an input became a constant. `PassError` for inputs and texts that do not fit."""
        del context
        changed = False
        for text in self.shapes:
            changed |= _fix_shape(module, text)
        if self.batch:
            changed |= _fix_batch(module, self.batch)
        for text in self.values:
            value, number = _split(module, text)
            value.constant = _filled(value, number)
        given = {_split(module, text)[0] for text in self.values}
        every = module.ir_version < _FIRST_WITH_CONSTANTS or self.always
        listed = [value for value in module.graph.inputs if value.constant is not None]
        parameters = set(_parameters(module, listed)) if self.parameters else set()
        frozen = [value for value in listed if every or value in given or value in parameters]
        for value in frozen:
            _freeze(module, value)
        if frozen:
            module.ir_version = max(module.ir_version, _FIRST_WITH_CONSTANTS)
        return changed or bool(frozen)


def _fix_batch(module: Module, batch: int) -> bool:
    """Give the number of samples a size, in every input; whether a type changed."""
    types = {value: value.type for value in module.graph.inputs if value.constant is None}
    shapes = {value: known.shape for value, known in types.items() if isinstance(known, TensorType) and known.shape}
    first = next((shape[0] for shape in shapes.values() if shape), None)
    if batch < 0 or (isinstance(first, int) and first != batch) or not shapes:
        known = next(iter(types.values()), "missing")
        raise PassError(f"freeze-inputs: the first input is {known}: it does not take {batch} samples at a time")
    for value, shape in shapes.items():
        known = value.type
        sizes = [
            batch if (size is None and at == 0) or (size is not None and size == first) else size
            for at, size in enumerate(shape or ())
        ]
        if isinstance(known, TensorType) and not isinstance(first, int):
            value.type = TensorType(known.element, tuple(sizes))
    return any(value.type != known for value, known in types.items())


def _parameters(module: Module, listed: list[Value]) -> list[Value]:
    """Return the listed constants that operators take as parameters; all where the file lists every constant."""
    found = [v for v in listed if any(use.index in op_of(use.node).trained for use in v.uses)]
    return found if module.graph.constants else listed if found else []


def _freeze(module: Module, value: Value) -> None:
    graph, name = module.graph, value.name
    made = graph.add_constant(Value(graph.clock.unique_name(name)), value.constant)
    made.doc_string, made.metadata = value.doc_string, dict(value.metadata)
    value.replace_all_uses_with(made)
    graph.remove_input(value)
    made.name = name


def _split(module: Module, text: str) -> tuple[Value, str]:
    name, found, rest = text.rpartition(":")
    by_name = {value.name: value for value in module.graph.inputs}
    if not found or name not in by_name:
        raise PassError(f"freeze-inputs: {text!r}: expected input:…, where the inputs are {', '.join(by_name)}")
    return by_name[name], rest


def _filled(value: Value, number: str) -> Tensor:
    known = value.type
    shape = known.static_shape() if isinstance(known, TensorType) else None
    if shape is None or not isinstance(known, TensorType):
        raise PassError(f"freeze-inputs: input {value.name!r} is {known}: fix its shape first, shapes=[input:1x3]")
    try:
        return Tensor.of(np.full(shape, float(number)).astype(numpy_dtype(known.dtype)), dtype=known.dtype)
    except ValueError:
        raise PassError(f"freeze-inputs: {number!r} for input {value.name!r} is not a number") from None


def _fix_shape(module: Module, text: str) -> bool:
    value, sizes = _split(module, text)
    known = value.type
    try:
        shape = tuple(int(size) for size in sizes.split("x") if size)
    except ValueError:
        raise PassError(f"freeze-inputs: {sizes!r} is not a shape; expected for example 1x3x224x224") from None
    if not isinstance(known, TensorType):
        raise PassError(f"freeze-inputs: input {value.name!r} is {known}, no tensor")
    before = known.shape
    if before is not None and (
        len(before) != len(shape) or any(isinstance(b, int) and b != s for b, s in zip(before, shape, strict=True))
    ):
        raise PassError(f"freeze-inputs: shape {sizes} does not fit input {value.name!r}, {known}")
    value.type = TensorType(known.element, shape)
    return value.type != known
