"""The pass manager: runs passes one after another under the eyes of instruments."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qir.errors import DataError, ExportError, MissingExtraError, PassError, QirError
from qir.passes.infrastructure.contract import MissingContextError, Pass, PassContext, Repeat
from qir.passes.infrastructure.instruments import Instrument, VerifyEach
from qir.passes.infrastructure.reproducer import write_reproducer

if TYPE_CHECKING:
    from qir.module import Module

T = TypeVar("T")


@dataclass(frozen=True)
class PassResult:
    """What a run of passes came to; true when one of them changed the module.

    Attributes:
        changed: whether a pass changed the module.
        reports: name of a pass → what it found and left undone, as its docstring says; of the last run of each.
    """

    changed: bool
    reports: Mapping[str, Any]

    def __bool__(self) -> bool:
        """Return whether a pass changed the module."""
        return self.changed


def _default_instruments() -> tuple[Instrument, ...]:
    return (VerifyEach(),)


class PassManager:
    """Runs passes one after another under the eyes of instruments.

    Attributes:
        passes: what is run.
        instruments: what observes; `VerifyEach` unless told otherwise.
        reproducers: the folder under which the reproducer of an internal error is written, None for
            `qir.passes.infrastructure.reproducer.default_folder()`; False writes none.
    """

    def __init__(
        self,
        passes: Iterable[Pass],
        instruments: Sequence[Instrument] | None = None,
        *,
        reproducers: str | Path | bool | None = None,
    ) -> None:
        self.passes = tuple(passes)
        self.instruments = tuple(instruments) if instruments is not None else _default_instruments()
        self.reproducers = reproducers

    def run(self, module: Module, context: PassContext | None = None) -> PassResult:
        """Run every pass on the module, in place.

        Returns:
            Whether one of them changed it, and what they report (those of passes that the context knew before, too).

        Raises:
            PassError: a pass or an instrument failed; the message names it, the passes before it, and for an internal
                error, one that is not about the input, the folder from which `qir opt --replay FOLDER` repeats it.
            MissingExtraError: a pass needs a package that is not installed.
        """
        return _Run(self, module, context or PassContext()).go()


class _Run:
    """One run of a manager: what was run so far, and the module as it was before."""

    def __init__(self, manager: PassManager, module: Module, context: PassContext) -> None:
        self.manager = manager
        self.module = module
        self.context = context
        self.history: list[str] = []
        self.original = None if manager.reproducers is False else module.clone()

    def go(self) -> PassResult:
        changed = False
        with self.context.observed(self.nested):
            for step in self.manager.passes:
                changed |= self.execute(step)
        for instrument in self.manager.instruments:
            instrument.finish(self.module)
        return PassResult(changed, self.context.reports)

    def execute(self, step: Pass) -> bool:
        if isinstance(step, Repeat):
            try:
                return step.rounds(self.execute)
            except _ReportedError:
                raise
            except PassError as error:
                raise self.failure(step, error, internal=True) from error
        self.guarded(step, lambda: self.before(step, self.module), internal=True)
        changed = self.guarded(step, lambda: step.run(self.module, self.context), internal=False)
        self.guarded(step, lambda: self.after(step, self.module, changed), internal=True)
        self.history.append(str(step))
        return changed

    def nested(self, step: Pass, module: Module) -> bool:
        """Run a pass for another one, whose failure its failure is."""
        self.before(step, module)
        changed = step.run(module, self.context)
        self.after(step, module, changed)
        return changed

    def before(self, step: Pass, module: Module) -> None:
        for instrument in self.manager.instruments:
            instrument.before(step, module)

    def after(self, step: Pass, module: Module, changed: bool) -> None:
        for instrument in self.manager.instruments:
            instrument.after(step, module, changed)

    def guarded(self, step: Pass, action: Callable[[], T], *, internal: bool) -> T:
        """Run a part of a step; `internal` says whether even a `QirError` there is a fault of a pass."""
        try:
            return action()
        except MissingExtraError:
            raise
        except Exception as error:
            if _interrupted(error):
                raise KeyboardInterrupt from error
            faulty = internal or not isinstance(error, QirError | MemoryError | RecursionError)
            raise self.failure(step, error, internal=faulty) from error

    def failure(self, step: Pass, error: Exception, *, internal: bool) -> PassError:
        what = str(error) if isinstance(error, QirError) else f"{type(error).__name__}: {error}"
        message = f"pass {step}: {what}"
        for cause, reported in _FINDINGS.items():
            if isinstance(error, cause):
                return reported(message)
        history = f" (after {', '.join(self.history)})" if self.history else ""
        return _ReportedError(message + history + (self.reproducer(step, message) if internal else ""))

    def reproducer(self, step: Pass, message: str) -> str:
        if self.original is None:
            return ""
        parent = None if isinstance(self.manager.reproducers, bool) else self.manager.reproducers
        pipeline = ",".join([*self.history, str(step)])
        try:
            folder = write_reproducer(self.original, pipeline, message, self.context, parent)
        except Exception as error:  # noqa: BLE001 - the first failure matters more than that of its report
            return f" (no reproducer could be written: {error})"
        return f" (repeat it with: qir opt --replay {folder})"


def _interrupted(error: BaseException | None) -> bool:
    """Return whether an interruption is the reason of an error.

    Extensions turn it into another one while they are loaded.
    """
    while error is not None:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return True
        error = error.__cause__ or error.__context__
    return False


class _ReportedError(PassError):
    """A failure whose message is complete."""


class _ReportedExportError(_ReportedError, ExportError):
    """What a profile cannot hold."""


class _ReportedDataError(_ReportedError, DataError):
    """Data that do not fit the network."""


_FINDINGS: dict[type[QirError], type[_ReportedError]] = {
    MissingContextError: _ReportedError,
    ExportError: _ReportedExportError,
    DataError: _ReportedDataError,
}
"""Findings about what was given, no failures of a pass: what they are raised as. There is nothing to reproduce."""
