"""A network on its way to its int8 form in TensorFlow Lite: activations move from [N, C, H, W] to [N, H, W, C]."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qir.backends.costs.layers.layer_shapes import layer_names
from qir.backends.vela.grids import UNKNOWN_RANGE, affine_grid, quantizer_grid, real_values, symmetric_codes
from qir.backends.vela.tflite import Tflite, TfliteGrid
from qir.errors import TargetError
from qir.fake_quant import FakeQuant
from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.ops.definition import sizes_of
from qir.tensor import Array

Lowering = Callable[["Network", Node], None]
LOWERINGS: dict[str, Lowering] = {}
"""Op → function that appends its TensorFlow Lite form."""

CHANNELS_LAST = (0, 2, 3, 1)
CHANNELS_FIRST = (0, 3, 1, 2)
_SIX = 6.0
_LOWEST = {"Relu": 0.0}


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    """Enter a function as the lowering of ops."""

    def enter(function: Lowering) -> Lowering:
        LOWERINGS.update(dict.fromkeys(names, function))
        return function

    return enter


class Network:
    """A network on its way; `qir.backends.vela.operators` enters the lowerings of ops.

    Attributes:
        made: what is written so far.
        names: of the nodes, as cost tables have them.
        at: index of the tensor of each activation.
    """

    def __init__(self, module: Module) -> None:
        self.made = Tflite()
        self.at: dict[Value, int] = {}
        self._done: set[Node] = set()
        graph = module.graph
        self.names = layer_names(graph)
        for value in graph.inputs:
            if not value.is_constant:
                self.at[value] = self.made.activation(value.name, self.shape(value), self._grid(value, UNKNOWN_RANGE))
        self.made.inputs = list(self.at.values())
        for node in graph:
            if node not in self._done and any(value in self.at for value in node.operands):
                self._lower(node)
        self.made.outputs = [self.at[value] for value in graph.outputs if value is not None]

    def _lower(self, node: Node) -> None:
        if node.is_fake_quant:
            self.at[node.result] = self.on_grid(self.tensor(node, 0), quantizer_grid(FakeQuant(node)), node.name)
        elif node.op in LOWERINGS and not node.domain:
            LOWERINGS[node.op](self, node)
        else:
            raise TargetError(
                f"node {node.label!r}: op {node.op} has no int8 TensorFlow Lite form here; expected "
                f"{', '.join(sorted(LOWERINGS))} (fold BatchNormalization and constants first)"
            )

    def shape(self, value: Value) -> tuple[int, ...]:
        """Return sizes of an activation, channels last, batch 1.

        Raises:
            TargetError: a dimension is unknown; asks for it.
        """
        sizes = sizes_of(value, batch=1)
        if sizes is None:
            raise TargetError(f"value {value.name!r}: its shape is not known: give the shapes of the inputs (--shape)")
        return tuple(sizes[axis] for axis in CHANNELS_LAST) if len(sizes) == 4 else sizes

    def tensor(self, node: Node, index: int) -> int:
        """Return the tensor of an activation operand.

        Raises:
            TargetError: the operand is missing or constant.
        """
        value = node.input(index)
        if value is None or value not in self.at:
            raise TargetError(f"node {node.label!r}: operand {index} is not an activation; {node.op} needs one there")
        return self.at[value]

    def operand(self, node: Node, index: int) -> int:
        """Return the tensor of an operand, a constant put on an 8-bit grid."""
        value = node.input(index)
        array = real_values(value)
        if array is None or value is None:
            return self.tensor(node, index)
        rank = len(self.shape(node.result))
        if rank == 4:
            array = array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(CHANNELS_LAST)
        codes, scale = symmetric_codes(array)
        return self.made.constant(value.name, codes, TfliteGrid(scale))

    def result(self, node: Node, grid: TfliteGrid | None = None, *, value: Value | None = None, name: str = "") -> int:
        """Return a new tensor for a node's result, named after its layer.

        Args:
            node: the node.
            grid: of the result; by default that of its quantizer, or of an unknown range.
            value: the result of an activation that runs with the node, in place of the node's own.
            name: by default the layer's.
        """
        found = node.result if value is None else value
        unknown = UNKNOWN_RANGE if value is None or value is node.result else (0.0, _SIX)
        tensor = self.made.activation(
            name or self.names[node], self.shape(found), self._grid(found, unknown) if grid is None else grid
        )
        self.at[found] = tensor
        return tensor

    def with_activation(self, node: Node) -> tuple[str, Value]:
        """Return the activation that runs with a node, when it is the result's only user, and the value after both."""
        value = node.result
        user = value.users[0] if len(value.users) == 1 else None
        kind = None if user is None or user.is_return else activation_of(user)
        if user is None or kind is None:
            return "NONE", value
        self._done.add(user)
        return kind, user.result

    def on_grid(self, tensor: int, grid: TfliteGrid, name: str) -> int:
        """Return the tensor itself when it lies on a grid, else one after a QUANTIZE."""
        if self.made.grids[tensor] == grid:
            return tensor
        moved = self.made.activation(name, self.made.shapes[tensor], grid)
        self.made.operator("QUANTIZE", [tensor], [moved], "QuantizeOptions")
        return moved

    def name_of(self, tensor: int) -> str:
        """Return the name of a tensor. What is made of it on the way is named after it.

        A compiler may compute it in place.
        """
        return str(self.made.tensors[tensor].fields["name"])

    def transposed(self, tensor: int, order: Sequence[int], result: int | None = None) -> int:
        """Return the tensor after a TRANSPOSE."""
        shape = tuple(self.made.shapes[tensor][axis] for axis in order)
        name = f"{self.name_of(tensor)}.transposed"
        moved = self.made.activation(name, shape, self.grid_of(tensor)) if result is None else result
        permutation = self.integers(name, list(order))
        self.made.operator("TRANSPOSE", [tensor, permutation], [moved], "TransposeOptions")
        return moved

    def padded(self, tensor: int, widths: Array, fill: int | None = None) -> int:
        """Return the tensor after a PAD with zeros, or a PADV2 with a code: `widths` int32 [rank, 2]."""
        name = f"{self.name_of(tensor)}.padded"
        shape = tuple(int(size + around) for size, around in zip(self.made.shapes[tensor], widths.sum(1), strict=True))
        grid = self.grid_of(tensor)
        moved = self.made.activation(name, shape, grid)
        inputs = [tensor, self.made.constant(f"{name}.widths", widths)]
        if fill is None or fill == grid.zero_point:
            self.made.operator("PAD", inputs, [moved], "PadOptions")
        else:
            value = self.made.constant(f"{name}.fill", np.array([fill], np.int8), grid)
            self.made.operator("PADV2", [*inputs, value], [moved], "PadV2Options")
        return moved

    def integers(self, name: str, numbers: Sequence[int]) -> int:
        """Return a constant of int32."""
        return self.made.constant(f"{name}.sizes", np.array(numbers, np.int32))

    def grid_of(self, tensor: int) -> TfliteGrid:
        """Return the grid of an activation's tensor."""
        grid = self.made.grids[tensor]
        if grid is None:
            raise TargetError(f"tensor {tensor} holds integers; an activation was expected")
        return grid

    @staticmethod
    def _grid(value: Value, unknown: tuple[float, float]) -> TfliteGrid:
        quantizer = next((FakeQuant(user) for user in value.users if user.is_fake_quant), None)
        return affine_grid(*unknown) if quantizer is None else quantizer_grid(quantizer)


def clip_range(node: Node) -> tuple[float, float]:
    """Return bounds of a Relu (0 to infinity) or Clip."""
    found = []
    for index, name, default in ((1, "min", _LOWEST.get(node.op, -np.inf)), (2, "max", np.inf)):
        array = real_values(node.input(index))
        found.append(float(array.reshape(-1)[0]) if array is not None else float(node.attribute(name, default)))
    return found[0], found[1]


def activation_of(node: Node) -> str | None:
    """Return the TensorFlow Lite activation that a Relu or Clip is, None for other ops and bounds."""
    if not op_of(node).is_activation:
        return None
    return {(0.0, np.inf): "RELU", (0.0, _SIX): "RELU6"}.get(clip_range(node))
