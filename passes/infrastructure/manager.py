"""Passes and the manager that runs them.

A pass rewrites a module in place. Subclass `Pass` as a frozen dataclass whose fields are the options:

    @dataclass(frozen=True)
    class CountNodes(Pass):
        name: ClassVar[str] = "count-nodes"

        def run(self, module: Module, context: PassContext) -> bool:
            module.meta["nodes"] = len(module.graph)
            return False
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar
from weakref import WeakKeyDictionary

from qir.errors import DataError, ExportError, MissingExtraError, PassError, QirError
from qir.passes.data.samples import readable_again

if TYPE_CHECKING:
    from qir.module import Module
    from qir.passes.infrastructure.instruments import Instrument

T = TypeVar("T")

_FLAGS = {"target": "--target", "calibration_data": "--data"}


class Analysis(ABC, Generic[T]):
    """A fact about a module, computed when it is asked for and kept until the module changes.

    Subclass as a frozen dataclass; the fields are the question's parameters.

    Attributes:
        reads_policy: whether the result depends on the chosen bits; if not, writes of `bits` leave it valid.
    """

    reads_policy: ClassVar[bool] = True

    @abstractmethod
    def compute(self, module: Module) -> T:
        """The fact for the module as it is now."""


class AnalysisCache:
    """Results of analyses, per module, valid as long as the versions they depend on have not moved."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Module, dict[Analysis[Any], tuple[tuple[int, int], Any]]] = WeakKeyDictionary()

    def get(self, analysis: Analysis[T], module: Module) -> T:
        """The analysis' result for the module, from the cache when it is still valid."""
        kept = self._kept.setdefault(module, {})
        stamp = (module.version, module.policy_version if analysis.reads_policy else -1)
        found = kept.get(analysis)
        if found is None or found[0] != stamp:
            found = kept[analysis] = (stamp, analysis.compute(module))
        result: T = found[1]
        return result


class MissingContextError(PassError):
    """A pass needs an object that the context does not hold."""


@dataclass
class PassContext:
    """The objects that passes work with; options that are text belong to the pass itself.

    Attributes:
        target: the hardware (`qir.backends.Target`), or None.
        calibration_data: samples in any form that calibration takes, or None.
        seed: seed of every random choice.
        progress: called with a text when a long step advances, or None.
        analyses: results of analyses.
    """

    target: Any = None
    calibration_data: Any = None
    seed: int = 0
    progress: Callable[[str], None] | None = None
    analyses: AnalysisCache = field(default_factory=AnalysisCache)

    def __post_init__(self) -> None:
        self.calibration_data = readable_again(self.calibration_data)

    def require(self, name: str) -> Any:
        """The field `name`.

        Raises:
            MissingContextError: it is None; the message names the field and the shell's flag.
        """
        found = getattr(self, name)
        if found is None:
            flag = _FLAGS.get(name)
            in_shell = f", or {flag} in the shell" if flag else ""
            raise MissingContextError(f"this pass needs {name}: give PassContext({name}=...){in_shell}")
        return found

    def report(self, text: str) -> None:
        """Tell the progress of a long step."""
        if self.progress is not None:
            self.progress(text)


@dataclass(frozen=True)
class Pass(ABC):
    """One rewrite of a module: verified IR in, verified IR out.

    Contract: `run` changes the module in place and returns whether it changed anything; the network computes the same
    unless the docstring says otherwise; order and names come out the same on every run; what was left undone is told
    in `module.meta[name]`; a failure raises a `QirError` and may leave the module half changed. Fields are options:
    text, numbers, booleans, tuples of them, or None.

    Attributes:
        name: the name in a pipeline text, in kebab-case.
    """

    name: ClassVar[str]

    @abstractmethod
    def run(self, module: Module, context: PassContext) -> bool:
        """Rewrite the module in place; True when something changed."""

    def __str__(self) -> str:
        from qir.passes.infrastructure.pipeline import pass_text

        return pass_text(self)


@dataclass(frozen=True)
class Repeat(Pass):
    """Run passes over and over until none of them changes the module.

    Attributes:
        passes: the passes of one round.
        limit: number of rounds after which it is an error that something still changes.
    """

    name: ClassVar[str] = "repeat"

    passes: tuple[Pass, ...]
    limit: int = 10

    def run(self, module: Module, context: PassContext) -> bool:
        """Run rounds until one changes nothing; `PassError` when the last allowed round still does."""
        return self.rounds(lambda step: step.run(module, context))

    def rounds(self, execute: Callable[[Pass], bool]) -> bool:
        """Run rounds with `execute` in place of `Pass.run`."""
        for number in range(self.limit):
            changes = [execute(step) for step in self.passes]
            if not any(changes):
                return number > 0
        restless = [step.name for step, changed in zip(self.passes, changes, strict=True) if changed]
        raise PassError(
            f"repeat: after {self.limit} rounds {', '.join(restless)} still change the module: "
            "two rewrites undo each other, or raise the limit"
        )


def _default_instruments() -> tuple[Instrument, ...]:
    from qir.passes.infrastructure.instruments import VerifyEach

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

    def run(self, module: Module, context: PassContext | None = None) -> bool:
        """Run every pass on the module, in place; True when one of them changed it.

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

    def go(self) -> bool:
        changed = False
        for step in self.manager.passes:
            changed |= self.execute(step)
        for instrument in self.manager.instruments:
            instrument.finish(self.module)
        return changed

    def execute(self, step: Pass) -> bool:
        if isinstance(step, Repeat):
            try:
                return step.rounds(self.execute)
            except _ReportedError:
                raise
            except PassError as error:
                raise self.failure(step, error, internal=True) from error
        self.guarded(step, lambda: self.before(step), internal=True)
        changed = self.guarded(step, lambda: step.run(self.module, self.context), internal=False)
        self.guarded(step, lambda: self.after(step, changed), internal=True)
        self.history.append(str(step))
        return changed

    def before(self, step: Pass) -> None:
        for instrument in self.manager.instruments:
            instrument.before(step, self.module)

    def after(self, step: Pass, changed: bool) -> None:
        for instrument in self.manager.instruments:
            instrument.after(step, self.module, changed)

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
        history = f" (behind {', '.join(self.history)})" if self.history else ""
        reproducer = self.reproducer(step, message) if internal and self.original is not None else ""
        return _ReportedError(message + history + reproducer)

    def reproducer(self, step: Pass, message: str) -> str:
        from qir.passes.infrastructure.reproducer import write_reproducer

        assert self.original is not None  # noqa: S101 - asked by the caller
        parent = None if isinstance(self.manager.reproducers, bool) else self.manager.reproducers
        pipeline = ",".join([*self.history, str(step)])
        try:
            folder = write_reproducer(self.original, pipeline, message, self.context, parent)
        except Exception as error:  # noqa: BLE001 - the first failure matters more than that of its report
            return f" (no reproducer could be written: {error})"
        return f" (repeat it with: qir opt --replay {folder})"


def _interrupted(error: BaseException | None) -> bool:
    """Whether an interruption is the reason of an error: extensions turn it into another one while they are loaded."""
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
