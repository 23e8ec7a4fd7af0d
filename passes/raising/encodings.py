"""AIMET encodings next to a float network, put back as fake-quant nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from qir.constants import require_array
from qir.errors import ModelFileError, QirError
from qir.graph import Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.affine import Reject
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.raising.grids import CodeGrid, QuantizerSpec, spec_of
from qir.passes.raising.state import RaiseState, weight_spec, written_policy
from qir.quantizers import kernels
from qir.rewriting.engine import Rewriter
from qir.support.json_text import parse_json, typed
from qir.tensor import Array

VERSION = "1.0.0"


class Encoding(TypedDict):
    """The grid of one value, one scale and offset a channel."""

    name: str
    bw: Annotated[int, Field(ge=1, le=32)]
    is_sym: bool
    scale: list[Annotated[float, Field(ge=2.0**-149, lt=2.0**128)]]
    offset: list[Annotated[int, Field(ge=-(2**32), le=2**32)]]


class Encodings(TypedDict):
    """What is read of an encodings file."""

    param_encodings: list[Encoding]
    activation_encodings: list[Encoding]


@dataclass(frozen=True)
class ApplyEncodings(Pass):
    """Put the quantizers of an AIMET encodings file (version 1.0.0) on a float network.

    Verified IR in, verified IR out; the network computes what the encodings say.

    Attributes:
        file: path of the encodings file.
    """

    name: ClassVar[str] = "apply-encodings"
    file: str = ""

    def run(self, module: Module, context: PassContext) -> bool:
        """Insert; raises `QirError` for a file that cannot be read and for values that the network lacks."""
        del context
        return bool(apply_encodings(module, read_encodings(self.file)))


def read_encodings(path: str | Path) -> Encodings:
    """Return the content of an encodings file of version 1.0.0.

    Raises:
        ModelFileError: the file is missing, no JSON, of another version, or an entry is not a grid.
    """
    try:
        found = parse_json(Path(path).read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.get("version") != VERSION:
            raise ModelFileError(f"{path}: encodings of version {VERSION} are expected: convert the file")
        read: Encodings = typed(Encodings, found)
    except (OSError, ValueError) as error:
        raise ModelFileError(f"{path}: cannot be read as encodings: {error}") from error
    return read


def apply_encodings_next_to(module: Module, path: Path) -> bool:
    """Put the quantizers of `<name>.encodings` on a float network without quantizers, where that lies next to it.

    Args:
        module: the network, changed in place.
        path: its file, `<name>.onnx` or `<name>.quant.onnx`.

    Returns:
        Whether there was such a file.

    Raises:
        QirError: as `read_encodings` and `apply_encodings`.
    """
    neighbour = path.with_name(path.name.removesuffix(".onnx").removesuffix(".quant") + ".encodings")
    if module.graph.fake_quants() or module.metadata.get("qir.profile") != "encodings" or not neighbour.is_file():
        return False
    apply_encodings(module, read_encodings(neighbour))
    return True


def apply_encodings(module: Module, encodings: Mapping[str, Any]) -> list[str]:
    """Put a fake-quant node on every value that encodings name.

    Args:
        module: the float network, changed in place.
        encodings: content of the file (`read_encodings`).

    Returns:
        Names of the quantizers made.

    Raises:
        QirError: a value does not exist, or an entry is not a grid of whole bits.
    """
    graph = module.graph
    values = {value.name: value for value in graph.values()}
    rewriter = Rewriter("apply-encodings")
    state, policy = RaiseState(graph.clock, ()), written_policy(module)
    for entry in [*encodings["param_encodings"], *encodings["activation_encodings"]]:
        value = values.get(entry["name"])
        if value is None:
            raise QirError(f"encodings: the network has no value {entry['name']!r}")
        name = value.name if value.name.endswith("weight") or not value.is_constant else f"{value.name}.weight"
        spec = _spec(value, entry, policy.get(name, 0))
        made = state.quantizer(value, spec, name)
        uses = value.uses
        maker = value.producer
        rewriter.insert(made, before=next(iter(graph)) if maker is None else None, after=maker)
        rewriter.redirect([use for use in uses if use.node is not made], made.result)
    return state.made


def _spec(value: Value, entry: Encoding, least: int) -> QuantizerSpec:
    bits, scale = entry["bw"], np.asarray(entry["scale"], np.float32)
    offset = np.asarray(entry["offset"], np.int64)
    if offset.size != scale.size:
        raise QirError(f"encodings of {value.name!r}: {scale.size} scales but {offset.size} offsets")
    signed = entry["is_sym"]
    lowest = -(2 ** (bits - 1)) if signed else 0
    axis = _axis(value, scale.size) if scale.size > 1 else None
    if value.is_constant:
        return _weight_spec(value, scale, axis, signed, least)
    grid = CodeGrid(scale, lowest - offset, axis, lowest, lowest + 2**bits - 1)
    spec = spec_of(grid)
    if isinstance(spec, Reject):
        raise QirError(f"encodings of {value.name!r}: {spec.reason}")
    return spec


def _weight_spec(value: Value, scale: Array, axis: int | None, symmetric: bool, least: int) -> QuantizerSpec:
    """Return the narrowest grid, `least` bits or wider, that holds a weight's codes; -1 and +1 alone are one bit."""
    weight = require_array(value)
    shape = kernels.channel_shape(weight.shape, scale.size, axis)
    codes = np.rint(weight / scale.reshape(shape)).astype(np.int64)
    zero = np.zeros(scale.size, np.int64)
    if not symmetric:  # the smallest code of a channel becomes the lowest one
        rows = np.moveaxis(codes, axis, 0).reshape(scale.size, -1) if axis is not None else codes.reshape(1, -1)
        low, high = rows.min(axis=1, initial=0), rows.max(axis=1, initial=0)
        half = 1 << (max(int((high - low).max()).bit_length(), least, 2) - 1)
        zero = -low - half
        codes, least = codes + zero.reshape(shape), half.bit_length()
    spec = weight_spec(CodeGrid(scale, zero, axis, -(2**15), 2**15 - 1), codes, least)
    if isinstance(spec, Reject):
        raise QirError(f"encodings of {value.name!r}: {spec.reason}")
    return spec


def _axis(value: Value, channels: int) -> int:
    """Return the channel axis of a weight, by the layer that reads it; else its first axis of that length."""
    for user in value.users:
        operands = op_of(user).quantizable(user)
        if operands is not None and user.input(operands.weight) is value and operands.weight_axis is not None:
            return int(operands.weight_axis)
    shape = () if value.constant is None else value.constant.shape
    return shape.index(channels) if channels in shape else 0
