"""The network as the guide describes it: tensors, constants and steps, enough to run it on integers alone.

Every array of more than a few numbers may lie in the weights file (`StoredArray`) instead of the JSON text.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from pydantic import Field

from qir.support.record import Record

StepKind: TypeAlias = Literal["integer", "move", "view", "quantize", "float", "control-flow", "unknown"]


class StoredArray(Record):
    """A list of numbers that lies in the weights file: little-endian, no padding between elements."""

    file: str
    offset: int
    length: int = Field(description="in bytes")
    dtype: Literal["int32", "int64", "float32"]
    crc32: int


Integers: TypeAlias = list[int] | StoredArray
Reals: TypeAlias = list[float] | StoredArray


class PackedTensor(Record):
    """Where integer codes lie in the weights file.

    Codes are stored as `code - low_code` (divided by the code step; indices where the tensor has a table or levels),
    `bits` bits each, first element in the lowest bits of the first byte, without padding between elements; the last
    byte is filled with zeros. Elements are in C order. Equal contents are stored once.
    """

    file: str
    offset: int
    length: int = Field(description="in bytes")
    bits: int
    shape: list[int]
    order: Literal["C"] = "C"
    crc32: int
    sha256: str = Field(description="of the `length` bytes: the content's name")


class MultiplierGuide(Record):
    """From integers to codes: code = round(sum over operands of integers * multiplier) + zero_point, clamped.

    There is one line an operand (one of the sums for layers, one of the product for Mul). multiplier ≈ mantissa /
    2^shift; a mean divides by `count` as well. Lines, shift and count broadcast against the result in the shapes given.
    """

    float32: list[Reals] | None = Field(
        description="scales multiplied and divided in float32; null where `rounding` divides values by a scale instead"
    )
    mantissa: list[Integers] = Field(description="below 2^31; 0 where no sum reaches half a code")
    shift: Integers = Field(description="0 to 62, common to the operands")
    exponent: list[Integers] | None = Field(description="multiplier = 2^exponent, where all are powers of two")
    shape: list[int] = Field(description="shape of a line and of `shift`")
    count: Integers = Field(description="what a mean divides by: one number, or one a place; [1] elsewhere")
    count_shape: list[int] = Field(description="shape of `count`")
    float32_differs: int | None = Field(
        default=None,
        description="integers, of all that the step's sums can be over all channels, at which mantissa and shift give "
        "another code than float32; null where the network requantizes in float32, or where it is not decided",
    )


class GridGuide(Record):
    """The grid of a tensor of codes: value = (code - zero_point) * scale, codes in [low_code, high_code]."""

    scale: Reals = Field(description="float32; one, or one a channel along `axis`")
    zero_point: Integers
    axis: int | None
    low_code: int
    high_code: int


class NetworkTensor(Record):
    """A tensor that a step writes or the caller gives, for one sample (an unknown first dimension is 1)."""

    name: str
    shape: list[int]
    element: str = Field(description="`codes`, `sums` (integers before requantization), or an ONNX element type")
    quantizer: str = Field(description="the quantizer whose grid it lies on; empty for others")
    bits: int = Field(description="width of an element in storage")
    grid: GridGuide | None = Field(description="null for elements without codes")
    view_of: str = Field(description="the tensor whose memory it shares, element by element in C order; else empty")
    offset: int | None = Field(description="byte in the arena of `memory`; null where the caller holds it")


class ConstantGuide(Record):
    """An integer operand that is a constant: a weight.

    integer = code - zero_point with code = table[stored] or stored * code_step + low_code; value = integer * scale.
    """

    name: str
    shape: list[int]
    scale: Reals
    zero_point: Integers
    axis: int | None = Field(description="of the channels that scales and zero points belong to")
    packed: PackedTensor
    low_code: int
    code_step: int
    table: list[int] | None


class WindowGuide(Record):
    """A sliding window, one entry a spatial dimension; `auto_pad` and `ceil_mode` are resolved."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    begin: list[int] = Field(description="zeros (codes of the zero point) before; nothing for MaxPool")
    end: list[int] = Field(description="and after, with what ceil_mode reaches past the image")


class GatherGuide(Record):
    """A move of elements: flat output element [i, j, ...] = flat input element offsets[0][i] + offsets[1][j] + ….

    Offsets below 0 mark places outside of the input: an element with one is the code `fill`.
    """

    offsets: list[Integers] = Field(description="one list an axis of the output")
    fill: int | None


class OutputGuide(Record):
    """A result of a step, and how the step's integers become it."""

    tensor: str
    multiplier: MultiplierGuide | None = Field(description="null where codes or sums are passed on as they are")
    clamp: tuple[int, int] | None = Field(
        description="lowest and highest code, activations (Relu, Clip) that fused included; null for floats"
    )


class CostGuide(Record):
    """What a node costs on the target."""

    cycles: float
    bound_by: str
    energy_pj: dict[str, float] = Field(description="picojoules of each part: core and memories")
    bytes_moved: dict[str, float] = Field(description="bytes read from and written to each memory")
    bit_operations: float


class StepGuide(Record):
    """One node of the network in execution order, with the activations and quantizers that fuse into it.

    `integer` steps compute integers from codes less their zero points and turn them into codes; `move` steps copy
    codes as `gather` says (Concat: along its axis; MaxPool: the largest of the window); `view` steps read the same
    memory in another shape; `quantize` steps make codes of floats; `float` and `control-flow` steps are islands that
    no integers describe; `unknown` ones are those of a network that cannot be followed (`network_unknown`).
    """

    name: str
    op: str
    kind: StepKind
    layer: str = Field(description="name of its entry in `layers`, empty for others")
    inputs: list[str] = Field(description="tensors and constants in the order of the operator; empty = left out")
    outputs: list[OutputGuide] = Field(description="several where one result is read through several quantizers")
    attributes: dict[str, Any]
    window: WindowGuide | None = None
    gather: GatherGuide | None = None
    bias: Integers | None = Field(default=None, description="added to the sums, one integer an output channel")
    bias_shape: list[int] = Field(default=[], description="shape in which the bias broadcasts against the sums")
    rounding: str = Field(default="", description="how integers become codes, in one line")
    cost: CostGuide | None = None


class PortGuide(Record):
    """An input or an output of the network."""

    name: str
    tensor: str = Field(description="what holds it; outputs that are codes are dequantized with its grid")
    shape: list[int]
    element: str = Field(description="ONNX element type of the network's own input or output")
    codes: list[str] = Field(description="tensors of codes that an input is quantized to, or the codes of an output")
