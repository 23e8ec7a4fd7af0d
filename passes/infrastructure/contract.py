"""The contract of a pass: what it is given, what it must keep, and its text in a pipeline.

A pass rewrites a module in place. Subclass `Pass` as a frozen dataclass whose fields are the options:

    @dataclass(frozen=True)
    class CountNodes(Pass):
        name: ClassVar[str] = "count-nodes"

        def run(self, module: Module, context: PassContext) -> bool:
            context.reports[self.name] = len(module.graph)
            return False
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar
from weakref import WeakKeyDictionary

from qir.errors import PassError
from qir.passes.data.kinds.source import Data
from qir.passes.data.recording import readable_again

if TYPE_CHECKING:
    from qir.backends.costs.target import Target, TargetLike
    from qir.module import Module

T = TypeVar("T")

_PLAIN = re.compile(r'[^,{}\[\]()="\s]+')
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
        """Return the fact for the module as it is now."""


class AnalysisCache:
    """Results of analyses, per module, valid as long as the versions they depend on have not moved."""

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Module, dict[Analysis[Any], tuple[tuple[int, int], Any]]] = WeakKeyDictionary()

    def get(self, analysis: Analysis[T], module: Module) -> T:
        """Return the analysis' result for the module, from the cache when it is still valid."""
        kept = self._kept.setdefault(module, {})
        stamp = (module.version, module.policy_version if analysis.reads_policy else -1)
        found = kept.get(analysis)
        if found is None or found[0] != stamp:
            found = kept[analysis] = (stamp, analysis.compute(module))
        result: T = found[1]
        return result


def _as_target(target: TargetLike) -> Target:
    from qir.backends.costs.target import as_target

    return as_target(target)


class MissingContextError(PassError):
    """A pass needs an object that the context does not hold."""


class PassContext:
    """The objects that passes work with; options that are text belong to the pass itself.

    Attributes:
        target: the hardware, or None.
        calibration_data: samples in any form that calibration takes, or None.
        seed: seed of every random choice.
        progress: called with a text when a long step advances, or None.
        analyses: results of analyses.
        reports: name of a pass → what it found and what it left undone, as its docstring says; a pass writes its own
            and reads those of passes before it.
    """

    def __init__(
        self,
        *,
        target: TargetLike | None = None,
        calibration_data: Data | None = None,
        seed: int = 0,
        progress: Callable[[str], None] | None = None,
        reports: dict[str, Any] | None = None,
        analyses: AnalysisCache | None = None,
    ) -> None:
        """Take the objects.

        Args:
            target: a target, the name of one, or its file.
            calibration_data: samples in any form that calibration takes.
            seed: seed of every random choice.
            progress: called with a text when a long step advances.
            reports: of passes that ran before, in another context.
            analyses: results of analyses that another context holds; None to start without any.

        Raises:
            TargetError: there is no such target.
        """
        self.target: Target | None = None if target is None else _as_target(target)
        self.calibration_data: Data | None = readable_again(calibration_data)
        self.seed = seed
        self.progress = progress
        self.analyses = AnalysisCache() if analyses is None else analyses
        self.reports: dict[str, Any] = {} if reports is None else reports
        self._execute: Callable[[Pass, Module], bool] | None = None

    def require(self, name: str) -> Any:
        """Return the field `name`.

        Raises:
            MissingContextError: it is None; the message names the field and the shell's flag.
        """
        found = getattr(self, name)
        if found is None:
            flag = _FLAGS.get(name)
            in_shell = f", or {flag} in the shell" if flag else ""
            raise MissingContextError(f"this pass needs {name}: give PassContext({name}=...){in_shell}")
        return found

    def run(self, step: Pass, module: Module) -> bool:
        """Run a pass as a part of another one, under the eyes of the same instruments; True when it changed something.

        Verification waits for the end of the outermost pass: in between a module need not be whole.
        """
        return step.run(module, self) if self._execute is None else self._execute(step, module)

    @contextmanager
    def observed(self, execute: Callable[[Pass, Module], bool]) -> Iterator[None]:
        """Hand every `run` inside to a manager."""
        before, self._execute = self._execute, execute
        try:
            yield
        finally:
            self._execute = before

    def report(self, text: str) -> None:
        """Tell the progress of a long step."""
        if self.progress is not None:
            self.progress(text)


@dataclass(frozen=True)
class Pass(ABC):
    """One rewrite of a module: verified IR in, verified IR out.

    Contract: `run` changes the module in place and returns whether it changed anything; the network computes the same
    unless the docstring says otherwise; order and names come out the same on every run; what was found and what was
    left undone is told in `context.reports[name]`; other passes are run by `context.run`; a failure raises a `QirError`
    and may leave the module half changed. Fields are options: text, numbers, booleans, tuples of them, or None.

    Attributes:
        name: the name in a pipeline text, in kebab-case.
    """

    name: ClassVar[str]

    @abstractmethod
    def run(self, module: Module, context: PassContext) -> bool:
        """Rewrite the module in place; True when something changed."""

    def __str__(self) -> str:
        """Write the pass as pipeline text: its name and the options that differ from their defaults."""
        options = [
            f"{option.name.replace('_', '-')}={value_text(getattr(self, option.name))}"
            for option in self._options()
            if getattr(self, option.name) != default_of(option)
        ]
        return self.name + (f"{{{','.join(options)}}}" if options else "")

    def _options(self) -> Sequence[Field[Any]]:
        return fields(self)


def default_of(option: Field[Any]) -> Any:
    """Return the default of an option; `MISSING` where it has none."""
    return option.default_factory() if option.default_factory is not MISSING else option.default


def value_text(value: Any) -> str:
    """Write an option's value as pipeline text."""
    if isinstance(value, tuple | list):
        return "[" + ",".join(value_text(item) for item in value) + "]"
    if value is None or isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if _PLAIN.fullmatch(text) and text != "none":
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


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
        return self.rounds(lambda step: context.run(step, module))

    def __str__(self) -> str:
        """Write the options, then the passes in parentheses."""
        return f"{super().__str__()}({','.join(map(str, self.passes))})"

    def _options(self) -> Sequence[Field[Any]]:
        return [option for option in fields(self) if option.name != "passes"]

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
