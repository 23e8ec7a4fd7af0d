"""An int8 network as TensorFlow Lite holds it: tensors with their grids, operators, and the bytes of the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qir.backends.vela.flatbuffer import OPTIONS, Table, serialize
from qir.tensor import Array

OPERATORS = {
    "ADD": 0,
    "AVERAGE_POOL_2D": 1,
    "CONCATENATION": 2,
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 4,
    "FULLY_CONNECTED": 9,
    "LOGISTIC": 14,
    "MAX_POOL_2D": 17,
    "MUL": 18,
    "RELU": 19,
    "RELU6": 21,
    "RESHAPE": 22,
    "SOFTMAX": 25,
    "TANH": 28,
    "PAD": 34,
    "TRANSPOSE": 39,
    "MEAN": 40,
    "SUB": 41,
    "PADV2": 60,
    "RESIZE_NEAREST_NEIGHBOR": 97,
    "QUANTIZE": 114,
    "HARD_SWISH": 117,
}
"""Members of the enumeration `BuiltinOperator`."""

ACTIVATIONS = {"NONE": 0, "RELU": 1, "RELU6": 3}
"""Members of the enumeration `ActivationFunctionType`."""

SAME, VALID = 0, 1
"""Members of the enumeration `Padding`."""

_TYPES = {np.dtype(np.int8): 9, np.dtype(np.int32): 2}
_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "RESHAPE": 1}
"""Versions of the operators whose int8 form is not version 2."""


@dataclass(frozen=True)
class TfliteGrid:
    """The int8 grid of a tensor: value = (code - zero_point) x scale.

    Attributes:
        scale: one, or one per channel along `axis`.
        zero_point: of all channels.
        axis: of the channels.
    """

    scale: tuple[float, ...]
    zero_point: int = 0
    axis: int = 0


@dataclass
class Tflite:
    """A network under construction: one subgraph, tensors in the layout [images, rows, columns, channels].

    Attributes:
        tensors, operators, buffers: tables in order; buffer 0 is empty.
        grids: grid of each tensor, None for plain integers.
        shapes: shape of each tensor.
        inputs, outputs: indices of tensors.
    """

    tensors: list[Table] = field(default_factory=list)
    operators: list[Table] = field(default_factory=list)
    buffers: list[Table] = field(default_factory=lambda: [Table("Buffer")])
    grids: list[TfliteGrid | None] = field(default_factory=list)
    shapes: list[tuple[int, ...]] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    _codes: dict[str, int] = field(default_factory=dict)

    def activation(self, name: str, shape: tuple[int, ...], grid: TfliteGrid) -> int:
        """Return a tensor that is computed, int8: its index."""
        return self._tensor(name, shape, np.dtype(np.int8), grid, 0)

    def constant(self, name: str, array: Array, grid: TfliteGrid | None = None) -> int:
        """Return a constant, int8 or int32: its index."""
        data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        self.buffers.append(Table("Buffer", {"data": data}))
        return self._tensor(name, array.shape, array.dtype, grid, len(self.buffers) - 1)

    def operator(self, name: str, inputs: list[int], outputs: list[int], options: str = "", **settings: Any) -> None:
        """Append an operator.

        Args:
            name: key of `OPERATORS`.
            inputs: indices of tensors.
            outputs: indices of tensors.
            options: kind of its table of options, if it has one.
            **settings: fields of that table.
        """
        fields: dict[str, Any] = {
            "opcode_index": self._codes.setdefault(name, len(self._codes)),
            "inputs": inputs,
            "outputs": outputs,
        }
        if options:
            fields |= {"builtin_options_type": OPTIONS[options], "builtin_options": Table(options, settings)}
        self.operators.append(Table("Operator", fields))

    def to_bytes(self) -> bytes:
        """Return the file.

        Raises:
            MissingExtraError: the package `flatbuffers` is not installed.
        """
        codes = [
            Table(
                "OperatorCode",
                {
                    "deprecated_builtin_code": OPERATORS[name],
                    "version": _VERSIONS.get(name, 2),
                    "builtin_code": OPERATORS[name],
                },
            )
            for name in self._codes
        ]
        subgraph = Table(
            "SubGraph",
            {
                "tensors": self.tensors,
                "inputs": self.inputs,
                "outputs": self.outputs,
                "operators": self.operators,
                "name": "main",
            },
        )
        model = {"version": 3, "operator_codes": codes, "subgraphs": [subgraph], "description": "qir"}
        return serialize(Table("Model", model | {"buffers": self.buffers}))

    def _tensor(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], grid: TfliteGrid | None, buffer: int
    ) -> int:
        fields: dict[str, Any] = {"shape": list(shape), "type": _TYPES[dtype], "buffer": buffer, "name": name}
        if grid is not None:
            zeros = [grid.zero_point] * len(grid.scale)
            fields["quantization"] = Table(
                "QuantizationParameters",
                {"scale": list(grid.scale), "zero_point": zeros, "quantized_dimension": grid.axis},
            )
        self.tensors.append(Table("Tensor", fields))
        self.grids.append(grid)
        self.shapes.append(tuple(shape))
        return len(self.tensors) - 1
