"""Steps that compute every element by itself: additions, products, joins and new grids."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.errors import ExportError
from qir.guide_network import OutputGuide, StepGuide
from qir.passes.exporting.c99.program import Program
from qir.passes.exporting.c99.reading import elements, label, numbers
from qir.passes.exporting.c99.strides import merged, strides


def pair(program: Program, key: str, step: StepGuide, output: OutputGuide) -> None:
    """Write a sum or a product of two operands."""
    result = program.tensors[output.tensor]
    places, offsets, steps = [], [], []
    for side, name in zip("ab", step.inputs, strict=True):
        place, offset, shape = _operand(program, f"{key}_{side}", step, name)
        places.append(place)
        offsets.append(offset)
        steps.append(strides(shape, result.shape))
    sizes, steps = merged(list(result.shape), steps)
    if len(sizes) > 8:
        raise ExportError(f"profile 'c99': step {label(step)} has more than 8 dimensions")
    parts = ["{" + ", ".join(map(str, line)) + "}" for line in (sizes, *steps)]
    kernel = "add" if step.op == "Add" else "multiply"
    program.kernels.add(kernel)
    to = program.to(key, step, output)
    program.constants.append(
        f"static const qir_pair {key}_pair = {{{', '.join(parts)}, {len(sizes)}, {offsets[0]}, {offsets[1]}}};"
    )
    program.body.append(
        f"  qir_{kernel}({places[0]}, {places[1]}, &{key}_pair, {elements(result)}, {to}, {program.at(result.name)});"
    )


def _operand(program: Program, key: str, step: StepGuide, name: str) -> tuple[str, int, Sequence[int]]:
    """Place, offset and shape of a tensor or a constant."""
    if name in program.tensors:
        return program.at(name), program.offset(program.tensors[name]), program.tensors[name].shape
    values = program.reader.weight(program.weights[name])
    low = int(values.min())
    if int(values.max()) - low > 255:
        raise ExportError(f"profile 'c99': step {label(step)}: its constant has more than 8 bits")
    return program.constant("uint8_t", key, numbers((values - low).reshape(-1))), low, program.weights[name].shape


def concat(program: Program, key: str, step: StepGuide, output: OutputGuide) -> None:
    """Write a join of tensors, each rescaled to the grid of the result."""
    result = program.tensors[output.tensor]
    axis = int(step.attributes["axis"]) % len(result.shape)
    outer, inner = int(np.prod(result.shape[:axis])), int(np.prod(result.shape[axis + 1 :]))
    many = output.multiplier is not None and program.multipliers(output.multiplier)[1].size > 1
    start = 0
    program.kernels.add("rescale")
    for index, name in enumerate(step.inputs):
        tensor = program.tensors[name]
        size, place = tensor.shape[axis] * inner, f"i * {result.shape[axis] * inner} + {start * inner}"
        to = program.to(f"{key}_{index}", step, output, slice(start, start + 1) if many else slice(None))
        program.body.append(
            f"  for (i = 0; i < {outer}; i++)\n    qir_rescale({program.at(name)} + i * {size}, {size}, "
            f"{program.offset(tensor)}, {to}, {program.at(result.name)} + {place});"
        )
        start += tensor.shape[axis]


def rescale(program: Program, key: str, step: StepGuide, output: OutputGuide) -> None:
    """Write codes on another grid."""
    data, result = program.tensors[step.inputs[0]], program.tensors[output.tensor]
    to = program.to(key, step, output)
    program.kernels.add("rescale")
    program.body.append(
        f"  qir_rescale({program.at(data.name)}, {elements(data)}, {program.offset(data)}, {to}, "
        f"{program.at(result.name)});"
    )
