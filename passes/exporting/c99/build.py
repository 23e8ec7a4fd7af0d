"""Compiling and running of exported C: whether it computes what the integer reference computes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from qir.errors import ExportError
from qir.passes.exporting.c99.generate import Sources
from qir.passes.exporting.c99.reading import numbers
from qir.tensor import Array

WARNINGS = ("-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic")
"""How exported C compiles without a word."""


def compiler() -> str | None:
    """Return the machine's C compiler, None where there is none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def runner_text(sources: Sources) -> str:
    """Return a program that reads the codes of samples from its standard input and writes those of the outputs."""
    declared = [f"  static {port.type} {port.name}[{port.count}];" for port in (*sources.inputs, *sources.outputs)]
    read = " && ".join(f"fread({port.name}, 1, {port.count}, stdin) == {port.count}" for port in sources.inputs)
    write = [f"    fwrite({port.name}, 1, {port.count}, stdout);" for port in sources.outputs]
    names = ", ".join(port.name for port in (*sources.inputs, *sources.outputs))
    body = [*declared, f"  while ({read}) {{", f"    {sources.name}_run({names});", *write, "  }"]
    text = "\n".join(body)
    return f'#include <stdio.h>\n#include "{sources.name}.h"\n\nint main(void) {{\n{text}\n  return 0;\n}}\n'


def self_test(sources: Sources, inputs: Sequence[Array], outputs: Sequence[Array]) -> str:
    """Return a program that runs one sample and returns 1 where a code differs from what it holds.

    Args:
        sources: the network.
        inputs: codes of the sample, one array an input.
        outputs: codes of the sample, one array an output.
    """
    lines, checks = [], []
    for port, codes in zip(sources.inputs, inputs, strict=True):
        lines.append(f"static const {port.type} {port.name}[{port.count}] = {{\n  {numbers(codes.reshape(-1))}}};")
    for port, codes in zip(sources.outputs, outputs, strict=True):
        text = numbers(codes.reshape(-1))
        lines.append(f"static const {port.type} golden_{port.name}[{port.count}] = {{\n  {text}}};")
        lines.append(f"static {port.type} {port.name}[{port.count}];")
        checks.append(f"  for (i = 0; i < {port.count}; i++)\n    wrong += {port.name}[i] != golden_{port.name}[i];")
    names = ", ".join(port.name for port in (*sources.inputs, *sources.outputs))
    body = [
        "int main(void) {", "  long i, wrong = 0;", f"  {sources.name}_run({names});", *checks,
        '  printf("%ld codes differ\\n", wrong);', "  return wrong != 0;", "}\n",
    ]  # fmt: skip
    return f'#include <stdio.h>\n#include "{sources.name}.h"\n\n' + "\n".join([*lines, "", *body])


def run_codes(
    sources: Sources,
    samples: Sequence[Sequence[Array]],
    folder: Path,
    flags: Sequence[str] = WARNINGS,
    *,
    tool: str | None = None,
    emulator: Sequence[str] = (),
) -> list[list[Array]]:
    """Return the output codes of samples, as compiled C computes them.

    Args:
        sources: the network.
        samples: of each sample, the codes of every input.
        folder: where it is compiled.
        flags: of the compiler.
        tool: the compiler; None = the machine's own.
        emulator: command that runs programs of another machine.

    Returns:
        Of each sample, the codes of every output: int64, flat.

    Raises:
        ExportError: there is no compiler, or it refuses the source, or the program stops.
    """
    tool = tool or compiler()
    if tool is None:
        raise ExportError("profile 'c99': there is no C compiler (cc) on this machine to prove the source with")
    texts = {f"{sources.name}.h": sources.header, f"{sources.name}.c": sources.source, "runner.c": runner_text(sources)}
    for name, text in texts.items():
        (folder / name).write_text(text)
    command = [tool, *flags, "-o", "runner", f"{sources.name}.c", "runner.c"]
    made = subprocess.run(  # noqa: S603 - the machine's own compiler on text that was just written
        command, cwd=folder, capture_output=True, text=True, check=False
    )
    if made.returncode:
        raise ExportError(f"profile 'c99': {tool} refuses the source: {made.stderr[:2000]}")
    given = b"".join(
        codes.astype(np.dtype(port.type.removesuffix("_t"))).tobytes()
        for sample in samples
        for port, codes in zip(sources.inputs, sample, strict=True)
    )
    done = subprocess.run([*emulator, folder / "runner"], input=given, capture_output=True, check=False)  # noqa: S603 - as above
    if done.returncode or done.stderr:
        raise ExportError(f"profile 'c99': the compiled source stops: {done.stderr.decode(errors='replace')[:2000]}")
    return _split(sources, done.stdout, len(samples))


def _split(sources: Sources, data: bytes, samples: int) -> list[list[Array]]:
    found, place = [], 0
    for _ in range(samples):
        outputs = []
        for port in sources.outputs:
            part = data[place : place + port.count]
            outputs.append(np.frombuffer(part, port.type.removesuffix("_t")).astype(np.int64))
            place += port.count
        found.append(outputs)
    return found
