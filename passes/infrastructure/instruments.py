"""What observes a run of passes: verification, printing, dumps, timing, counts of changes."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from qir.errors import ModelFileError
from qir.support.atomic_write import make_folder

if TYPE_CHECKING:
    from qir.constraints import OperandRules
    from qir.module import Module
    from qir.passes.infrastructure.contract import Pass


class Instrument:
    """Base of the observers; every hook may be left out. An error raised in a hook is reported as the pass' failure.

    A pass that runs others is seen around them: its `before` comes before theirs, its `after` after theirs.
    """

    def before(self, step: Pass, module: Module) -> None:
        """Take note that a pass is about to run."""

    def after(self, step: Pass, module: Module, changed: bool) -> None:
        """Take note that a pass ran; `changed` is what it returned."""

    def finish(self, module: Module) -> None:
        """Take note that the last pass ran."""


class VerifyEach(Instrument):
    """Verifies the module after every pass that wrote to it; not in the midst of a pass that runs others.

    Attributes:
        rules: operand rules that every quantizable node must obey (`qir.verify`), or None.
    """

    def __init__(self, rules: OperandRules | None = None) -> None:
        self.rules = rules
        self._versions: list[tuple[int, int]] = []

    def before(self, step: Pass, module: Module) -> None:
        """Remember the versions."""
        del step
        self._versions.append((module.version, module.policy_version))

    def after(self, step: Pass, module: Module, changed: bool) -> None:
        """Raise `VerifyError` when the pass broke the module."""
        from qir.verifier import verify

        del step, changed
        versions = self._versions.pop()
        if not self._versions and (module.version, module.policy_version) != versions:
            verify(module, self.rules)


class PrintAfter(Instrument):
    """Prints the module's text after every pass that changed it."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream

    def after(self, step: Pass, module: Module, changed: bool) -> None:
        """Print."""
        from qir.text.printer import print_module

        if changed:
            print(f"// after {step}\n{print_module(module)}", file=self.stream or sys.stdout)


class DumpIR(Instrument):
    """Writes the module's text to `folder/NN-name.qir`: number 00 before the first pass, then after each one.

    Raises:
        ModelFileError: the folder cannot be made or written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        make_folder(self.folder / "00-input.qir", ModelFileError)
        self._count = 0

    def before(self, step: Pass, module: Module) -> None:
        """Write the module as it came in."""
        del step
        if self._count == 0:
            self._write("input", module)

    def after(self, step: Pass, module: Module, changed: bool) -> None:
        """Write the module."""
        del changed
        self._write(step.name, module)

    def _write(self, name: str, module: Module) -> None:
        from qir.text.printer import print_module

        (self.folder / f"{self._count:02d}-{name}.qir").write_text(print_module(module), encoding="utf-8")
        self._count += 1


class Timing(Instrument):
    """Measures the wall time of each pass, in seconds, without that of passes which it runs itself.

    Attributes:
        seconds: (text of the pass, seconds), in order of execution.
    """

    def __init__(self) -> None:
        self.seconds: list[tuple[str, float]] = []
        self._running: list[list[float]] = []

    def before(self, step: Pass, module: Module) -> None:
        """Start the clock."""
        del step, module
        self._running.append([time.perf_counter(), 0.0])

    def after(self, step: Pass, module: Module, changed: bool) -> None:
        """Stop the clock."""
        del module, changed
        start, inner = self._running.pop()
        whole = time.perf_counter() - start
        self.seconds.append((str(step), whole - inner))
        if self._running:
            self._running[-1][1] += whole

    def report(self) -> str:
        """Return a table, slowest first."""
        return "\n".join(f"{seconds:9.4f} s  {name}" for name, seconds in sorted(self.seconds, key=lambda e: -e[1]))


class ChangeCounts(Instrument):
    """Counts how each pass, with those that it runs itself, changed the number of nodes of each operator.

    Attributes:
        changes: (text of the pass, operator → nodes added or, negative, taken away), in order of execution.
    """

    def __init__(self) -> None:
        self.changes: list[tuple[str, dict[str, int]]] = []
        self._before: list[Counter[str]] = []

    def before(self, step: Pass, module: Module) -> None:
        """Count."""
        del step
        self._before.append(_count(module))

    def after(self, step: Pass, module: Module, changed: bool) -> None:
        """Count again."""
        del changed
        now, then = _count(module), self._before.pop()
        difference = {op: now[op] - then[op] for op in sorted({*now, *then})}
        self.changes.append((str(step), {op: count for op, count in difference.items() if count}))


def _count(module: Module) -> Counter[str]:
    return Counter(node.op for graph in module.graphs for node in graph.walk())
