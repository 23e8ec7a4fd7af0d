"""Types of values: tensors of plain or quantized elements, and ONNX's sequence and optional types passed through.

Types are immutable, validate themselves on construction (numbered constraints, `TypeVerifyError`), print with
`str()` and read back with `qir.text.types.parse_type`. The constraints on quantized types follow StableHLO's quantized
types; the life cycle planned → calibrated → uniform or table follows MLIR's quant dialect.
"""

from __future__ import annotations

import enum
import json
import math
import re
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import NoReturn

from qir.errors import TypeVerifyError

Dim = int | str | None
"""A dimension: a known size, a symbol, or unknown."""

_LARGEST = 2**63 - 1


class DType(enum.Enum):
    """Element types of ONNX (`TensorProto.DataType`): name, ONNX code, bits of one element."""

    UNDEFINED = ("undefined", 0, 0)
    FLOAT32 = ("float32", 1, 32)
    UINT8 = ("uint8", 2, 8)
    INT8 = ("int8", 3, 8)
    UINT16 = ("uint16", 4, 16)
    INT16 = ("int16", 5, 16)
    INT32 = ("int32", 6, 32)
    INT64 = ("int64", 7, 64)
    STRING = ("string", 8, 0)
    BOOL = ("bool", 9, 8)
    FLOAT16 = ("float16", 10, 16)
    FLOAT64 = ("float64", 11, 64)
    UINT32 = ("uint32", 12, 32)
    UINT64 = ("uint64", 13, 64)
    COMPLEX64 = ("complex64", 14, 64)
    COMPLEX128 = ("complex128", 15, 128)
    BFLOAT16 = ("bfloat16", 16, 16)
    FLOAT8E4M3FN = ("float8e4m3fn", 17, 8)
    FLOAT8E4M3FNUZ = ("float8e4m3fnuz", 18, 8)
    FLOAT8E5M2 = ("float8e5m2", 19, 8)
    FLOAT8E5M2FNUZ = ("float8e5m2fnuz", 20, 8)
    UINT4 = ("uint4", 21, 4)
    INT4 = ("int4", 22, 4)
    FLOAT4E2M1 = ("float4e2m1", 23, 4)
    FLOAT8E8M0 = ("float8e8m0", 24, 8)
    UINT2 = ("uint2", 25, 2)
    INT2 = ("int2", 26, 2)

    def __init__(self, label: str, onnx_code: int, bits: int) -> None:
        self.label = label
        self.onnx_code = onnx_code
        self.bits = bits

    def __str__(self) -> str:
        return self.label

    @property
    def is_float(self) -> bool:
        """Whether elements are floating-point numbers."""
        return self.label.startswith(("float", "bfloat"))

    @staticmethod
    def from_onnx(code: int) -> DType:
        """Return the element type of an ONNX `TensorProto.DataType` code; `TypeVerifyError` for an unknown code."""
        found = _BY_CODE.get(code)
        if found is None:
            raise TypeVerifyError(f"element type code {code} is unknown; known are 0 to {max(_BY_CODE)}")
        return found

    @staticmethod
    def from_label(label: str) -> DType:
        """Return the element type with this name; `TypeVerifyError` for an unknown name."""
        found = _BY_LABEL.get(label)
        if found is None:
            raise TypeVerifyError(f"element type {label!r} is unknown; expected one of {', '.join(_BY_LABEL)}")
        return found


_BY_CODE = {dtype.onnx_code: dtype for dtype in DType}
_BY_LABEL = {dtype.label: dtype for dtype in DType}


def _fail(constraint: str, message: str) -> NoReturn:
    raise TypeVerifyError(f"{constraint}: {message}")


@dataclass(frozen=True, slots=True)
class QuantType:
    """Every element of the tensor lies on this grid.

    A type with only `bits` is planned; with `low` and `high` (the real range per channel) calibrated; with `scale`
    and `zero_point` uniform; with `levels` (the real values of the codes per channel) a table.

    Constraints: Q1 bits are 1 to 32, or per channel 0 to 32 (0 = pruned) with an axis; Q2 axis is not negative;
    Q3 block is positive and has an axis; Q4 as many lows as highs, finite, low <= high; Q5 scales are finite and
    positive; Q6 as many zero points as scales; Q7 zero points lie inside the range of codes; Q8 without an axis there
    is one scale; Q9 levels are finite and rising, at most 2^bits; Q10 a type is uniform or a table, not both.
    """

    bits: int | tuple[int, ...]
    signed: bool = True
    narrow: bool = False
    scheme: str = "uniform"
    axis: int | None = None
    block: int | None = None
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    zero_point: tuple[int, ...] | None = None
    levels: tuple[tuple[float, ...], ...] | None = None

    def __post_init__(self) -> None:
        self._check_bits()
        self._check_range()
        self._check_scale()
        self._check_levels()

    def _check_bits(self) -> None:
        if isinstance(self.bits, tuple):
            if self.axis is None or not self.bits or not all(0 <= b <= 32 for b in self.bits):
                _fail("Q1", f"per-channel bits are 0 to 32 and need an axis; found {self.bits}, axis {self.axis}")
        elif not 1 <= self.bits <= 32:
            _fail("Q1", f"bits are 1 to 32; found {self.bits}")
        if self.axis is not None and self.axis < 0:
            _fail("Q2", f"axis is not negative; found {self.axis}")
        if self.block is not None and (self.block < 1 or self.axis is None):
            _fail("Q3", f"block is positive and needs an axis; found {self.block}, axis {self.axis}")

    def _check_range(self) -> None:
        low, high = self.low or (), self.high or ()
        if len(low) != len(high) or not all(
            math.isfinite(a) and math.isfinite(b) and a <= b for a, b in zip(low, high, strict=True)
        ):
            _fail("Q4", f"ranges are finite with low <= high, one pair a channel; found {low} and {high}")

    def _check_scale(self) -> None:
        if self.scale is None:
            if self.zero_point is not None:
                _fail("Q6", "zero points need scales")
            return
        if not all(math.isfinite(s) and s > 0 for s in self.scale):
            _fail("Q5", f"scales are finite and positive; found {self.scale[:4]}")
        if self.zero_point is None or len(self.zero_point) != len(self.scale):
            _fail("Q6", f"as many zero points as scales; found {len(self.zero_point or ())} and {len(self.scale)}")
        widest = max(self.bits) if isinstance(self.bits, tuple) else self.bits
        low, high = code_range(max(widest, 1), signed=self.signed, narrow=self.narrow)
        if not all(low <= z <= high for z in self.zero_point):
            _fail("Q7", f"zero points lie in [{low}, {high}]; found {self.zero_point[:4]}")
        if self.axis is None and len(self.scale) != 1:
            _fail("Q8", f"a type without an axis has one scale; found {len(self.scale)}")

    def _check_levels(self) -> None:
        if self.levels is None:
            return
        if self.scale is not None:
            _fail("Q10", "a type has scales or levels, not both")
        widest = max(self.bits) if isinstance(self.bits, tuple) else self.bits
        for row in self.levels:
            rising = all(a < b for a, b in pairwise(row))
            if not row or len(row) > 2**widest or not rising or not all(map(math.isfinite, row)):
                _fail("Q9", f"levels are finite, rising and at most 2^bits; found {row[:8]} at {widest} bits")

    @property
    def state(self) -> str:
        """`planned`, `calibrated`, `uniform` or `table`."""
        if self.levels is not None:
            return "table"
        if self.scale is not None:
            return "uniform"
        return "planned" if self.low is None else "calibrated"

    def __str__(self) -> str:
        bits = "[" + ",".join(map(str, self.bits)) + "]" if isinstance(self.bits, tuple) else str(self.bits)
        parts = [f"{'s' if self.signed else 'u'}{bits}", _scheme_text(self.scheme)]
        if self.narrow:
            parts.append("narrow")
        parts += [f"{k}={v}" for k, v in (("axis", self.axis), ("block", self.block)) if v is not None]
        for name in ("low", "high", "scale", "zero_point"):
            values = getattr(self, name)
            if values is not None:
                parts.append(f"{name}=[{','.join(map(repr, values))}]")
        if self.levels is not None:
            parts.append("levels=[" + ";".join(",".join(map(repr, row)) for row in self.levels) + "]")
        return f"quant<{' '.join(parts)}>"


def code_range(bits: int, *, signed: bool, narrow: bool = False) -> tuple[int, int]:
    """Return the smallest and largest integer code of a width; one signed bit has the codes -1 and +1."""
    if not signed:
        return 0, 2**bits - 1
    if bits == 1:
        return -1, 1
    top = int(2 ** (bits - 1) - 1)
    return (-top if narrow else -top - 1), top


@dataclass(frozen=True, slots=True)
class TensorType:
    """A tensor: element type and shape (None = unknown rank).

    Constraints: T1 known dimensions are not negative; T2 a quantized axis lies inside a known rank; T3 there are as
    many scales (ranges, levels, per-channel bits) as the axis is long (or one a block).
    """

    element: DType | QuantType
    shape: tuple[Dim, ...] | None = None

    def __post_init__(self) -> None:
        if self.shape is None:
            return
        if any(isinstance(d, int) and d < 0 for d in self.shape):
            _fail("T1", f"dimensions are not negative; found {self.shape}")
        if any(isinstance(d, int) and d > _LARGEST for d in self.shape):
            _fail("T1", f"dimensions are at most {_LARGEST}, as ONNX's files hold them; found {self.shape}")
        if isinstance(self.element, QuantType) and self.element.axis is not None:
            self._check_axis(self.element, self.element.axis)

    def _check_axis(self, element: QuantType, axis: int) -> None:
        shape = self.shape or ()
        if axis >= len(shape):
            _fail("T2", f"axis {axis} lies outside rank {len(shape)}")
        length = shape[axis]
        if not isinstance(length, int) or element.block is not None:
            return
        per_channel = element.bits if isinstance(element.bits, tuple) else None
        for name, values in (
            ("scales", element.scale),
            ("ranges", element.low),
            ("levels", element.levels),
            ("bits", per_channel),
        ):
            if values is not None and len(values) not in {1, length}:
                _fail("T3", f"{len(values)} {name} on axis {axis} of length {length}")

    @property
    def dtype(self) -> DType:
        """The plain element type: what the tensor holds when it is executed in float (float32 when quantized)."""
        return DType.FLOAT32 if isinstance(self.element, QuantType) else self.element

    @property
    def quant(self) -> QuantType | None:
        """The quantized element type, or None."""
        return self.element if isinstance(self.element, QuantType) else None

    @property
    def rank(self) -> int | None:
        """Number of dimensions, or None when unknown."""
        return None if self.shape is None else len(self.shape)

    def static_shape(self) -> tuple[int, ...] | None:
        """Return the shape when every dimension is known, else None."""
        if self.shape is None:
            return None
        known = tuple(d for d in self.shape if isinstance(d, int))
        return known if len(known) == len(self.shape) else None

    def with_element(self, element: DType | QuantType) -> TensorType:
        """Return the same shape with another element type."""
        return TensorType(element, self.shape)

    def __str__(self) -> str:
        if self.shape is None:
            return f"tensor<*x{self.element}>"
        return f"tensor<[{','.join(map(_dim_text, self.shape))}]x{self.element}>"


def _dim_text(dim: Dim) -> str:
    if dim is None:
        return "?"
    return str(dim) if isinstance(dim, int) else json.dumps(dim)


def _scheme_text(scheme: str) -> str:
    plain = re.fullmatch(r"[A-Za-z_][\w.\-]*", scheme, re.ASCII) and scheme != "narrow"
    return scheme if plain else json.dumps(scheme)


@dataclass(frozen=True, slots=True)
class UnknownType:
    """The type of a value about which nothing is known."""

    def __str__(self) -> str:
        return "unknown"


@dataclass(frozen=True, slots=True)
class SequenceType:
    """ONNX's sequence of values of one type."""

    element: Type

    def __str__(self) -> str:
        return f"sequence<{self.element}>"


@dataclass(frozen=True, slots=True)
class OptionalType:
    """ONNX's optional value."""

    element: Type

    def __str__(self) -> str:
        return f"optional<{self.element}>"


@dataclass(frozen=True, slots=True)
class OpaqueType:
    """A type that qir does not model (sparse tensor, map, opaque), kept as the bytes of its `TypeProto`."""

    raw: bytes = field(repr=False)

    def __str__(self) -> str:
        return f"opaque<{self.raw.hex()}>"


Type = TensorType | UnknownType | SequenceType | OptionalType | OpaqueType


@lru_cache(maxsize=4096)
def tensor_type(element: DType | QuantType, shape: tuple[Dim, ...] | None) -> TensorType:
    """Return a shared `TensorType`: equal types are one object, which keeps large graphs small."""
    return TensorType(element, shape)
