"""Options that several verbs share, one by one and in groups, and how their text becomes values."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from qir.backends.execution.saturation import WeightStorage
from qir.cli.networks import network
from qir.errors import QirError
from qir.support.atomic_write import make_folder

if TYPE_CHECKING:
    from qir.search.problem.parts import Budget

Model = Annotated[Path, network("ONNX file of the float network")]
OptionalTarget = Annotated[
    str | None,
    typer.Option("--target", "-t", help="Hardware: a shipped name (`qir targets`) or a JSON file (`qir target new`)."),
]
Data = Annotated[
    Path,
    typer.Option(
        "--data",
        "-d",
        help="Samples: .npy, .npz by input name, a folder of images (or of class folders) or WAV files, lines of ids "
        "(.txt); `distilled` makes them from BatchNorm statistics.",
        show_default=False,
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Quantized model; guide and weights lie next to it.")]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        "-b",
        help="The most that may be spent, `latency=0.35x` (of 8 bits), `latency=120000` (cycles) or `latency=1.5ms`; "
        "also energy, bops, size (bits of weights) and average-bits; may be repeated.",
    ),
]
InputWidths = Annotated[str, typer.Option(help="Widths of the network's inputs: `8`, or `all` to decide them too.")]
ReduceRange = Annotated[
    bool,
    typer.Option(
        "--reduce-range",
        help="For x86 CPUs without VNNI: weights of 7 bits next to 8-bit activations, whose products fit int16.",
    ),
]
Weights = Annotated[
    WeightStorage | None,
    typer.Option(
        "--weights",
        help="How 8-bit weight codes are stored; auto: int8 where x86 CPUs without VNNI are exact, else uint8.",
    ),
]
AllowMismatches = Annotated[
    bool,
    typer.Option(
        "--allow-mismatches",
        help="Write the file too when its codes differ from the integer reference; guide and metadata say so.",
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of every random choice.", min=0)]
Profile = Annotated[
    str | None,
    typer.Option("--profile", help="Export profile; the target's by default (`qir profiles`)."),
]
Store = Annotated[
    str | None,
    typer.Option(help="SQLite file, or SQLAlchemy URL, that keeps what was measured; a restart resumes."),
]
Time = Annotated[
    str | None,
    typer.Option(
        "--time",
        help="Time in which measuring and search end with the best so far: `90s`, `5m`, `1h`; Ctrl-C does so at once.",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        help="Bytes that the process may take in all, `2GB` or `800MiB`; half of what is free by default. Results do "
        "not depend on it.",
    ),
]
Save = Annotated[Path | None, typer.Option(help="JSON file for decisions, figures and provenance.")]
Page = Annotated[Path | None, typer.Option(help="HTML page of the result.")]


@dataclass(frozen=True)
class JobOptions:
    """What every verb that decides bits and writes a file can be told."""

    target: OptionalTarget = None
    output: Output = Path("model.quant.onnx")
    budget: Budgets = None
    input_widths: InputWidths = "8"
    profile: Profile = None
    store: Store = None
    time: Time = None
    memory: Memory = None
    seed: Seed = 0
    reduce_range: ReduceRange = False
    weights: Weights = None
    allow_mismatches: AllowMismatches = False
    save: Save = None
    report: Page = None

    def of_job(self) -> dict[str, Any]:
        """Return the keywords of `qir.search.Job`.

        Raises:
            QirError: a budget is not of the form name=limit, or a time of the form 5m.
        """
        return {
            "target": self.target,
            "budgets": parse_budgets(self.budget),
            "input_widths": self.input_widths,
            "reduce_range": self.reduce_range,
            "seed": self.seed,
            "store": self.store,
            "time_limit": parse_time(self.time),
        }

    def of_file(self) -> dict[str, Any]:
        """Return the keywords of `qir.search.Job.export`."""
        return {"profile": self.profile, "weights": self.weights, "allow_mismatches": self.allow_mismatches}

    def make_folders(self, *more: Path | None) -> None:
        """Make the folders of all files that will be written, so that a wrong path fails before the work."""
        for path in (self.output, self.save, self.report, *more):
            if path is not None:
                make_folder(path)


def _say_version(asked: bool) -> None:
    if asked:
        import qir

        typer.echo(f"qir {qir.__version__}")
        raise typer.Exit


_VERSION = typer.Option("--version", help="Print the version.", callback=_say_version, is_eager=True)


def common(version: Annotated[bool, _VERSION] = False) -> None:
    """Take the options of `qir` itself, before its verb."""
    del version


def with_groups(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Return a verb whose parameters of a dataclass (`JobOptions`, `ImageOptions`) are one option for each field."""
    own = inspect.signature(verb, eval_str=True)
    groups: dict[str, Any] = {
        name: found.annotation for name, found in own.parameters.items() if is_dataclass(found.annotation)
    }
    members = {name: [field.name for field in fields(group)] for name, group in groups.items()}
    options = [
        option for found in own.parameters.values() for option in _members(groups.get(found.name)) or (_by_name(found),)
    ]

    @wraps(verb)
    def command(**given: Any) -> Any:
        grouped = {
            name: group(**{member: given.pop(member) for member in members[name]}) for name, group in groups.items()
        }
        return verb(**given, **grouped)

    command.__signature__ = own.replace(parameters=options)  # type: ignore[attr-defined]
    command.__annotations__ = {option.name: option.annotation for option in options}
    return command


def _members(group: Any) -> list[inspect.Parameter]:
    """Return one parameter for each field of a group; none without a group."""
    if group is None:
        return []
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, annotation=hints[field.name], default=field.default
        )
        for field in fields(group)
    ]


def _by_name(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def parse_budgets(texts: list[str] | None) -> dict[str, Budget]:
    """Return budgets from `name=limit` texts.

    Raises:
        QirError: a text has another form, names no cost, or one cost twice, or its limit is not above 0.
    """
    from qir.search.network.problem import read_budgets

    budgets: dict[str, Budget | str] = {}
    for text in texts or []:
        name, found, limit = text.partition("=")
        if not found or not name:
            raise QirError(f"budget {text!r}: expected name=limit, for example latency=0.35x")
        if name in budgets:
            raise QirError(f"budget {text!r}: {name} is limited twice, also to {budgets[name]}; give one limit")
        budgets[name] = limit
    return read_budgets(budgets)


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_time(text: str | None) -> float | None:
    """Return seconds from a text such as `90s`, `5m` or `1h`; None from None.

    Raises:
        QirError: the text has another form, or is not more than 0.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+\.?\d*)([smh]?)", text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not seconds:
        raise QirError(f"time {text!r}: expected more than 0 seconds, minutes or hours, for example 90s, 5m or 1h")
    return seconds
