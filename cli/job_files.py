"""A command as a file: one TOML that reproduces a run, written next to what the run made.

Keys are the long options of a verb without their dashes, and the names of its arguments; paths are relative to the
file.
"""

from __future__ import annotations

import json
import os
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from qir.cli.answers import running
from qir.cli.networks import name_of
from qir.errors import QirError
from qir.support.atomic_write import atomic_write
from qir.support.nearest import nearest

VERB = "verb"
"""Key of the command's name."""

SUFFIX = ".job.toml"

EXPECTED = "expected a TOML file (`qir init` writes one)"

_NOT_KEPT = {"json", "quiet", "verbose", "help"}
"""Options that say how a command talks, not what it does."""


def command_of(verb: str) -> Any:
    """Return the command of a verb.

    Raises:
        QirError: there is none of this name.
    """
    from qir.cli.main import make_app

    known = typer.main.get_command(make_app()).commands  # type: ignore[attr-defined]
    if verb not in known:
        raise QirError(f"verb {verb!r} is unknown: {nearest(verb, known)}")
    return known[verb]


def read_job(path: Path) -> tuple[str, list[str]]:
    """Return the verb of a job's file, and its arguments as a shell would give them.

    Raises:
        QirError: the file cannot be read, or holds a verb or a key that does not exist.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise QirError(f"job {path}: cannot be read: it nests too deeply; {EXPECTED}") from error
    except (OSError, ValueError) as error:  # not UTF-8, not TOML, or an integer of thousands of digits
        raise QirError(f"job {path}: cannot be read: {error}; {EXPECTED}") from error
    verb = found.pop(VERB, None)
    if not isinstance(verb, str):
        raise QirError(
            f'job {path}: key {VERB!r} is missing: expected the name of a command, such as {VERB} = "quantize"'
        )
    parameters = {key_of(parameter): parameter for parameter in command_of(verb).params}
    unknown = sorted(set(found) - set(parameters))
    if unknown:
        raise QirError(f"job {path}: unknown key {unknown[0]!r}: {nearest(unknown[0], parameters)}")
    words = [word for key, value in found.items() for word in _words(parameters[key], key, value)]
    return verb, words


def _words(parameter: Any, key: str, value: Any) -> Iterator[str]:
    """Yield what a shell would say of one key."""
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str | int | float) for each in values):
        raise QirError(f"job: key {key!r}: expected text, a number, true or false, or a list of them; found {value!r}")
    for each in values:
        if parameter.param_type_name == "argument":
            yield str(each)
        elif isinstance(each, bool):
            names = parameter.opts if each else parameter.secondary_opts
            yield from names[:1]
        else:
            yield from (_long(parameter.opts), str(each))


def key_of(parameter: Any) -> str:
    """Return what a parameter is called in a file."""
    return _long(parameter.opts).lstrip("-")


def _long(names: Sequence[str]) -> str:
    return next((name for name in names if name.startswith("--")), names[0])


def this_job(folder: Path) -> dict[str, Any]:
    """Return the command that runs now, as a file in a folder would hold it.

    What was given, and nothing that was not.
    """
    context = running.get()
    if context is None:
        return {}
    given: dict[str, Any] = {VERB: context.info_name}
    for parameter in context.command.params:
        key, value = key_of(parameter), context.params.get(parameter.name or "")
        source = context.get_parameter_source(parameter.name or "")
        if key in _NOT_KEPT or source is None or source.name != "COMMANDLINE" or value is None:
            continue
        given[key] = _relative(value, folder)
    return given


def _relative(value: Any, folder: Path) -> Any:
    """Return a value as text or number; a path as it is seen from a folder."""
    if isinstance(value, list | tuple):
        return [_relative(each, folder) for each in value]
    if isinstance(value, Path) and (name := name_of(value)) is not None:
        return name
    if isinstance(value, Path) or (isinstance(value, str) and value and Path(value).exists()):
        try:
            return Path(os.path.relpath(value, folder)).as_posix() if Path(value).exists() else str(value)
        except ValueError:  # another drive
            return str(Path(value).absolute())
    return value if isinstance(value, bool | int | float | str) else str(value)


def save_job(model: Path) -> Path:
    """Write the command that runs now next to the model that it made; gives the path of the file.

    Raises:
        QirError: the file cannot be written.
    """
    folder = model.parent
    path = folder / f"{model.name.removesuffix('.onnx').removesuffix('.quant')}{SUFFIX}"
    job = this_job(folder) | {"output": model.name}
    with atomic_write(path, QirError) as file:
        file.write_text(f"# What made {model.name}. Again: qir run {path.name}\n{_toml(job)}", encoding="utf-8")
    return path


def template(verb: str) -> str:
    """Return a commented file with every key of a verb, those that are needed first."""
    lines = [f"# A job: qir run FILE. Paths are relative to this file; every key is an option of `qir {verb}`.", ""]
    lines += [f"{VERB} = {_text(verb)}", ""]
    parameters = [each for each in command_of(verb).params if key_of(each) not in _NOT_KEPT]
    for parameter in sorted(parameters, key=lambda each: not each.required):
        told = " ".join((getattr(parameter, "help", None) or "").split())
        lines += [f"# {line}" for line in textwrap.wrap(told, 98)]
        lines += [f"{'' if parameter.required else '# '}{key_of(parameter)} = {_example(parameter)}", ""]
    return "\n".join(lines)


_EXAMPLES = {"model": "model.onnx", "data": "photos/", "target": "my-npu.json", "budget": ["latency=0.5x"]}
"""What a template shows of keys without a default."""


def _example(parameter: Any) -> str:
    key, default = key_of(parameter), parameter.default
    if callable(default) or default is None or (isinstance(default, str) and not default) or default == []:
        default = _EXAMPLES.get(key, "")
    return toml_value(default if isinstance(default, bool | int | float | str | list) else str(default))


def _toml(job: Mapping[str, Any]) -> str:
    return "".join(f"{key} = {toml_value(value)}\n" for key, value in job.items())


def toml_value(value: Any) -> str:
    """Return text, a number, true or false, or a list of them, as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    return str(value) if isinstance(value, int | float) else _text(str(value))


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
