"""Targets: hardware described in a versioned JSON file."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from qir.backends.costs.hardware import Hardware
from qir.backends.costs.layers.validation import Strict, validated
from qir.backends.costs.models import COST_MODELS
from qir.backends.execution.saturation import WeightStorage
from qir.backends.integer.requantization import Requantization
from qir.errors import TargetError
from qir.registry import Registry
from qir.support.atomic_write import atomic_write
from qir.support.json_text import parse_json

if TYPE_CHECKING:
    from qir.backends.costs.models.base import CostModel


class ExportSpec(Strict):
    """How networks leave for a target.

    Attributes:
        profile: name of the export profile.
        requantization: how a sum becomes a code: with `float32` multipliers (ONNX Runtime), `dyadic` ones (int32
            mantissa and shift), or `power-of-two` (shifts alone; the scales must be powers of two).
        weights: how 8-bit weight codes are stored: `auto` (int8 where no sum can saturate on x86 CPUs without VNNI,
            else uint8 with zero point 128), `int8`, or `uint8` wherever there is a kernel for it.
    """

    profile: str = "qcdq"
    requantization: Requantization = "float32"
    weights: WeightStorage = "auto"


class QuantizeSpec(Strict):
    """Which tensors are quantized for a target, and which keep a width (pass `insert-fake-quant`).

    Attributes:
        first_last: width, in bits, of the operands of the first and the last layer; absent = they are decisions.
        keep: rules `pattern:width`: quantizers whose name holds the regular expression, or the operands of an
            operator, keep a width; later rules win. Rules that match nothing in a network are passed over.
        exclude: regular expressions of operators (whole) and of node names (anywhere) that stay float.
        ops: operators besides the layers whose operands and results are quantized; absent = additions, concatenations
            and average pooling.
        block: weights have one range for so many elements along the axis that is summed over; 0 = no blocks.
    """

    first_last: int | None = Field(default=None, ge=1, le=32)
    keep: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    ops: tuple[str, ...] | None = None
    block: int = Field(default=0, ge=0)


class RefereeSpec(Strict):
    """A compiler whose cycles are shown next to the cost model's, and what it compiles for.

    Attributes:
        compiler: name of the referee.
        accelerator: for example `ethos-u55-128`.
        system_config: clock and memories, as the compiler's configuration file names them.
        memory_mode: which memory holds what, as the same file names it.
    """

    compiler: Literal["vela"]
    accelerator: str = Field(min_length=1)
    system_config: str = Field(min_length=1)
    memory_mode: str = Field(min_length=1)


class Target(Hardware):
    """Hardware that a network is quantized for: what cost models see of it (`Hardware`), and how networks get there.

    Attributes:
        format: kind of file, always `qir.target`.
        version: version of this file's format.
        illustrative: the numbers are made up to look like a kind of hardware; no such chip was measured.
        sources: where each number comes from: key → reference.
        clock_hz: cycles a second; absent = unknown, costs are then in cycles only.
        quantize: which tensors are quantized, and which keep a width.
        export: export profile.
        referee: a compiler that knows this hardware.
    """

    format: Literal["qir.target"] = "qir.target"
    version: Literal[1] = 1
    illustrative: bool = False
    sources: dict[str, str] = Field(default_factory=dict)
    clock_hz: float | None = Field(default=None, gt=0)
    quantize: QuantizeSpec = QuantizeSpec()
    export: ExportSpec = ExportSpec()
    referee: RefereeSpec | None = None

    def cost_model(self) -> CostModel[Any]:
        """Return the cost model of this target.

        Raises:
            TargetError: the kind of model is unknown, or its parameters are invalid.
        """
        return COST_MODELS[self.cost.kind](self)

    def to_json(self) -> str:
        """Return the text of the target's file."""
        return self.model_dump_json(indent=2, exclude_defaults=True)

    def save(self, path: str | Path) -> None:
        """Write the target's file, atomically.

        Raises:
            TargetError: the file cannot be written.
        """
        with atomic_write(path, TargetError) as file:
            file.write_text(self.to_json() + "\n", encoding="utf-8")


TargetLike = Target | str | Path
"""What public functions take as a target: the object, the name of one, or the path of its file."""

NO_TARGET = "bits"
"""Name of the target that stands for none: costs are bits, not cycles."""


def shipped_targets() -> list[str]:
    """Return names of the targets that come with qir."""
    return sorted(_shipped())


def _shipped() -> dict[str, Traversable]:
    """Find the files of the shipped targets by name, in the folder and in those inside it."""
    top = resources.files("qir.backends.targets")
    folders = [top, *(entry for entry in top.iterdir() if entry.is_dir())]
    files = (file for folder in folders for file in folder.iterdir())
    return {file.name.removesuffix(".json"): file for file in files if file.name.endswith(".json")}


def target_names() -> list[str]:
    """Return names of the shipped targets and of those that other packages declare as entry points `qir.targets`."""
    return sorted(TARGETS)


def target_schema() -> dict[str, Any]:
    """Return the JSON Schema of target files; `cost.parameters` are those of the model that `cost.kind` names."""
    made = Target.model_json_schema()
    cases = []
    for kind in COST_MODELS:
        parameters = COST_MODELS[kind].parameters_type.model_json_schema(ref_template="#/$defs/{model}")
        made["$defs"] |= parameters.pop("$defs", {}) | {parameters["title"]: parameters}
        then = {"properties": {"parameters": {"$ref": f"#/$defs/{parameters['title']}"}}}
        cases.append({"if": {"properties": {"kind": {"const": kind}}}, "then": then})
    made["$defs"]["CostSpec"]["allOf"] = cases
    return made


def load_target(name_or_path: str | Path) -> Target:
    """Read a target.

    Args:
        name_or_path: the name of a shipped target, of one declared as entry point `qir.targets` (a function without
            arguments that returns a `Target`), or the path of a JSON file.

    Raises:
        TargetError: there is no such target or file, or the file is invalid; names the key and the nearest valid one.
    """
    text = str(name_or_path)
    if text.endswith(".json") or os.sep in text:
        return _parse(_read(Path(name_or_path)), text, Path(name_or_path).parent)
    found = TARGETS[text]()
    if not isinstance(found, Target):
        raise TargetError(f"target {text!r}: its entry point gives {found!r}; expected a Target")
    return found


def as_target(target: TargetLike | None) -> Target:
    """Return a target as it is, or the one with this name or file (`load_target`); None costs bits, not cycles.

    Raises:
        TargetError: there is no such target or file, or the file is invalid.
    """
    return target if isinstance(target, Target) else load_target(NO_TARGET if target is None else target)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"target file {path}: cannot be read ({error}); expected a JSON file") from error


def _parse(text: str, where: str, folder: Path | None = None) -> Target:
    """Read a target; a file that its cost model names lies next to it."""
    try:
        data = parse_json(text)
    except ValueError as error:
        raise TargetError(f"target {where}: no valid JSON: {error}") from error
    target = validated(Target, data, f"target {where}")
    file = target.cost.parameters.get("file")
    if folder is not None and isinstance(file, str):
        parameters = target.cost.parameters | {"file": str(_inside(folder, file, where))}
        target = target.model_copy(update={"cost": target.cost.model_copy(update={"parameters": parameters})})
    try:
        target.cost_model()
    except TargetError as error:
        raise TargetError(f"target {where}: {error}") from error
    return target


def _inside(folder: Path, file: str, where: str) -> Path:
    """Return the path of a file that a target names: it lies in the target's folder, or in one below it."""
    path = folder / file
    try:
        is_inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):
        is_inside = False
    if not is_inside:
        raise TargetError(f"target {where}: its file {file!r} lies outside the target's folder: copy it there")
    return path


def _shipped_target(name: str) -> Target:
    return _parse(_shipped()[name].read_text(encoding="utf-8"), name)


TARGETS: Registry[Callable[[], Target]] = Registry(
    "target",
    "qir.targets",
    {name: partial(_shipped_target, name) for name in shipped_targets()},
    accepts=callable,
    expected="a function without arguments that returns a Target",
    error=TargetError,
)
"""Name of a target → what makes it."""
