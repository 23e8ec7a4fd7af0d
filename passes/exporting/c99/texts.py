"""The texts of header and source, from what was written of a network's function."""

from __future__ import annotations

import re
from importlib import resources

import numpy as np

from qir.passes.exporting.c99.program import Program
from qir.passes.exporting.c99.reading import comment, required

_SCRATCH = {
    "offsets": ("int32_t", 4),
    "column": ("uint8_t", 1),
    "planes": ("uint64_t", 8),
    "columns": ("int16_t", 2),
    "row": ("int16_t", 2),
}


def _kernels(used: set[str]) -> str:
    """Return the kernels that a network needs, with those that they need, in the order of the file."""
    text = (resources.files("qir.passes.exporting.c99") / "kernels.c").read_text(encoding="utf-8")
    top, *parts = re.split(r"^/\*@ ([a-z0-9_ ]+) \*/\n", text, flags=re.MULTILINE)
    needs = {names.split()[0]: names.split()[1:] for names in parts[::2]}
    found, open_ = set[str](), list(used)
    while open_:
        name = open_.pop()
        if name not in found:
            found.add(name)
            open_ += needs[name]
    bodies = [body for names, body in zip(parts[::2], parts[1::2], strict=True) if names.split()[0] in found]
    return top + "".join(bodies)


def scratch_bytes(program: Program) -> int:
    """Return bytes of static memory for rows and columns."""
    return sum(_SCRATCH[name][1] * count for name, count in program.scratch.items())


def _parameters(program: Program) -> str:
    taken = [f"const {port.type} {port.name}[{port.count}]" for port in program.inputs]
    return ", ".join([*taken, *(f"{port.type} {port.name}[{port.count}]" for port in program.outputs)])


def header(program: Program, name: str) -> str:
    """Write the text of `<name>.h`."""
    lines = [f"/* {comment(name)}: value = (code - zero point) * scale"]
    for port in (*program.inputs, *program.outputs):
        tensor = port.tensor
        grid = required(tensor.grid, f"tensor {tensor.name!r} no grid")
        scale = grid.scale[0] if isinstance(grid.scale, list) else 0.0
        lines.append(
            f"   {port.name}: {comment(str(list(tensor.shape)))}, codes {grid.low_code} to {grid.high_code}, zero "
            f"point {program.zero(tensor)}, scale {np.float32(scale)!s}"
        )
    guard = f"{name.upper()}_H"
    return (
        "\n".join(lines)
        + f" */\n#ifndef {guard}\n#define {guard}\n\n#include <stdint.h>\n\n"
        + f"int {name}_run({_parameters(program)});\n\n#endif\n"
    )


def source(program: Program, name: str) -> str:
    """Write the text of `<name>.c`."""
    uses_arena = any("arena" in line for line in program.body)
    memory = [f"static uint8_t arena[{max(program.arena, 1)}];"] if uses_arena else []
    memory += [f"static {_SCRATCH[name][0]} {name}[{count}];" for name, count in sorted(program.scratch.items())]
    counter = "  int32_t i;\n" if any("(i = 0;" in line for line in program.body) else ""
    return "\n".join(
        [
            f"/* {comment(name)}: integers alone, no heap; not to be run twice at a time */",
            f'#include "{name}.h"\n',
            _kernels(program.kernels),
            *program.constants,
            "",
            *memory,
            "",
            f"int {name}_run({_parameters(program)}) {{",
            counter + "\n".join(program.body),
            "  return 0;\n}\n",
        ]
    )
