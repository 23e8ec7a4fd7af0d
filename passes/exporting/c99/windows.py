"""Steps that look at windows of an image, and steps that move codes: means, maxima, gathers."""

from __future__ import annotations

from qir.errors import ExportError
from qir.guide_network import OutputGuide, StepGuide
from qir.passes.exporting.c99.program import Program
from qir.passes.exporting.c99.reading import label, numbers, required


def average(program: Program, key: str, step: StepGuide, output: OutputGuide) -> None:
    """Write the means of windows."""
    data, result = program.tensors[step.inputs[0]], program.tensors[output.tensor]
    found = required(output.multiplier, f"the mean {label(step)} no multiplier")
    counts, shift = program.reader.integers(found.count), int(program.reader.integers(found.shift).max())
    if (int(counts.max()) << shift) >= 2**62:
        raise ExportError(f"profile 'c99': step {label(step)}: its divisor leaves 62 bits")
    window = program.window(key, step, data.shape[0] * data.shape[1], data.shape[2:], result.shape[2:])
    counted = program.constant("int32_t", f"{key}_count", numbers(counts))
    to = program.to(key, step, output)
    program.kernels.add("average")
    program.body.append(
        f"  qir_average({program.at(data.name)}, {window}, {program.offset(data)}, {counted}, {int(counts.size > 1)}, "
        f"{to}, {program.at(result.name)});"
    )


def maximum(program: Program, key: str, step: StepGuide, output: OutputGuide) -> None:
    """Write the largest codes of windows."""
    data, result = program.tensors[step.inputs[0]], program.tensors[output.tensor]
    window = program.window(key, step, data.shape[0] * data.shape[1], data.shape[2:], result.shape[2:])
    program.kernels.add("maximum")
    program.body.append(f"  qir_maximum({program.at(data.name)}, {window}, {program.at(result.name)});")


def gather(program: Program, key: str, step: StepGuide, output: OutputGuide) -> None:
    """Write a move of codes, each from its own place."""
    data, result = program.tensors[step.inputs[0]], program.tensors[output.tensor]
    gather = required(step.gather, f"the move {label(step)} no places to read from")
    lines = [program.reader.integers(line) for line in gather.offsets]
    if len(lines) > 8:
        raise ExportError(f"profile 'c99': step {label(step)} has more than 8 dimensions")
    names = [program.constant("int32_t", f"{key}_axis{axis}", numbers(line)) for axis, line in enumerate(lines)]
    sizes = program.constant("int32_t", f"{key}_sizes", numbers([line.size for line in lines] or [1]))
    program.constants.append(f"static const int32_t *const {key}_axes[] = {{{', '.join(names) or '0'}}};")
    fill = (gather.fill or 0) - program.limits(data)[0] if gather.fill is not None else 0
    program.kernels.add("gather")
    program.body.append(
        f"  qir_gather({program.at(data.name)}, {len(lines)}, {sizes}, {key}_axes, {fill}, {program.at(result.name)});"
    )
