"""From a guide to C99: header and source of a network on integers alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qir.errors import ExportError
from qir.guide import Guide
from qir.guide_network import OutputGuide, StepGuide
from qir.passes.exporting.c99.pointwise import concat, pair, rescale
from qir.passes.exporting.c99.program import Port, Program
from qir.passes.exporting.c99.reading import comment, identifier, label
from qir.passes.exporting.c99.sums import matmul, product
from qir.passes.exporting.c99.texts import header, scratch_bytes, source
from qir.passes.exporting.c99.windows import average, gather, maximum
from qir.passes.exporting.guide.reader import GuideReader

_ISLANDS = ("float", "control-flow", "unknown")

Writer = Callable[[Program, str, StepGuide, OutputGuide], None]
"""Writes the call of a kernel: the program, a prefix for names, the step and one of its results."""

_ALWAYS: dict[str, Writer] = {
    "Add": pair,
    "Mul": pair,
    "Concat": concat,
    "AveragePool": average,
    "GlobalAveragePool": average,
    "Relu": rescale,
    "Clip": rescale,
    "QuantizeLinear": rescale,
}
_OF_CONSTANTS = _ALWAYS | dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), product)
_OF_ACTIVATIONS = _ALWAYS | dict.fromkeys(("Gemm", "MatMul"), matmul)
"""What writes each op, where its second operand is a constant and where it is not."""


@dataclass(frozen=True)
class Sources:
    """C of a network.

    Attributes:
        name: prefix of its names.
        inputs, outputs: parameters of its function.
        header, source: texts of `<name>.h` and `<name>.c`.
        arena, scratch: bytes of static memory for activations, and for rows and columns.
    """

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    header: str
    source: str
    arena: int
    scratch: int


def c_sources(guide: Guide, weights: bytes, name: str) -> Sources:
    """C99 of a network.

    Args:
        guide: of the network, its multipliers dyadic.
        weights: content of its weights file.
        name: of the network; made an identifier.

    Raises:
        ExportError: a step does not run on integers, or has no kernel; the message names it and why.
    """
    for step in guide.steps:
        if step.kind in _ISLANDS:
            why = f": {guide.network_unknown}" if guide.network_unknown else ""
            raise ExportError(f"profile 'c99': step {label(step)} does not run on integers{why}")
    return _texts(Program(GuideReader(guide, weights)), identifier(name))


def _texts(program: Program, name: str) -> Sources:
    for port in program.inputs:
        _take(program, port)
    for index, step in enumerate(program.reader.guide.steps):
        if step.kind not in ("quantize", "view"):
            _write(program, index, step)
    for port in program.outputs:
        _give(program, port)
    return Sources(
        name,
        program.inputs,
        program.outputs,
        header(program, name),
        source(program, name),
        program.arena,
        scratch_bytes(program),
    )


def _take(program: Program, port: Port) -> None:
    low, place = program.limits(port.tensor)[0], program.at(port.tensor.name)
    if place != port.name:
        program.body.append(
            f"  for (i = 0; i < {port.count}; i++)\n    ({place})[i] = (uint8_t)({port.name}[i] - ({low}));"
        )


def _give(program: Program, port: Port) -> None:
    low, place = program.limits(port.tensor)[0], program.at(port.tensor.name)
    program.body.append(
        f"  for (i = 0; i < {port.count}; i++)\n    {port.name}[i] = ({port.type})(({place})[i] + ({low}));"
    )


def _write(program: Program, index: int, step: StepGuide) -> None:
    program.body.append(f"  /* {comment(step.name)}: {comment(step.op)} */")
    for number, output in enumerate(step.outputs):
        key = f"s{index}" + (f"_{number}" if number else "")
        _writer(program, step)(program, key, step, output)


def _writer(program: Program, step: StepGuide) -> Writer:
    """Return what writes the kernel's call of a step."""
    if step.gather is not None:
        return gather
    if step.kind == "move" and step.window is not None:
        return maximum
    constant = len(step.inputs) > 1 and step.inputs[1] in program.weights
    found = (_OF_CONSTANTS if constant else _OF_ACTIVATIONS).get(step.op)
    if found is None or any(name in program.weights for name in step.inputs[:1]):
        raise ExportError(f"profile 'c99': step {label(step)} has no kernel: export it with another profile")
    return found
