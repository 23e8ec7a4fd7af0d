"""Errors of qir: a message says what went wrong, where (node, value, file), what was expected and what to do."""


class QirError(Exception):
    """Base of every error that qir raises on purpose; the shell prints it and exits with code 2."""


class ModelFileError(QirError):
    """A model file is missing, truncated, no ONNX, or points outside its folder."""


class TypeVerifyError(QirError):
    """A type breaks one of its numbered constraints."""


class ParseError(QirError):
    """Text is not qir text: the message holds line, column and what was expected."""


class VerifyError(QirError):
    """A graph breaks an invariant of the IR.

    Attributes:
        rule: name of the invariant, for example `definition-dominates-use`.
        where: the node, value or graph that breaks it.
    """

    def __init__(self, rule: str, where: str, found: str, expected: str) -> None:
        super().__init__(f"{where}: {rule}: found {found}; expected {expected}")
        self.rule = rule
        self.where = where
        self.found = found
        self.expected = expected


class PassError(QirError):
    """A pass failed: the message names it, the passes before it, and where a reproducer was written."""


class TargetError(QirError):
    """A target or cost model is invalid, or does not cover what was asked."""


class DataError(QirError):
    """Calibration, training or evaluation data do not fit the network."""


class ExportError(QirError):
    """A network cannot be exported in the profile that was asked for, or the written file broke its promise."""


class SearchError(QirError):
    """A search problem, solver, store or result is invalid."""


class InfeasibleError(SearchError):
    """No policy meets the budget.

    Attributes:
        budget: name of the budget.
        smallest: the smallest cost that any policy reaches, in the budget's unit.
    """

    def __init__(
        self, budget: str, maximum: float, smallest: float, reference: float | None = None, *, fixed: bool = False
    ) -> None:
        allowed, reachable = (
            f"{cost:g}" if not reference else f"{cost:g} ({cost / reference:.4g}x)" for cost in (maximum, smallest)
        )
        said = f"no policy costs at most {allowed}; the smallest reachable is {reachable}: raise the budget"
        if fixed:
            said = (
                f"no decision changes it: every policy costs {reachable}, and {allowed} is allowed: limit another cost"
            )
        super().__init__(f"budget {budget!r}: {said}")
        self.budget = budget
        self.smallest = smallest


TORCH_ON_CPU = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
"""What PyTorch's own page tells to type for a machine without a GPU."""


class MissingExtraError(QirError):
    """A part of qir needs a package that is not installed."""

    def __init__(self, package: str, extra: str, *, what: str = "this", instead: str = "") -> None:
        how = f"`pip install 'qir[{extra}]'`"
        if package == "torch":
            how = f"`{TORCH_ON_CPU}` (for the CPU alone, without CUDA's gigabytes), or {how}"
        otherwise = f"; or {instead}" if instead else ""
        super().__init__(f"{what} needs the package {package!r}: install it with {how}{otherwise}")
