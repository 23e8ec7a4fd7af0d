"""What an entry of the op registry answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from qir.errors import QirError
from qir.graph import Node, Value
from qir.ops.example import Example
from qir.ops.layer_shape import LayerShape
from qir.types import QuantType, TensorType

Flow = Callable[[Node, tuple[TensorType | None, ...], TensorType], QuantType | None]
"""(node, operand types, inferred float type of result 0) → the grid on which that result lies, or None."""


@dataclass(frozen=True, slots=True)
class Operands:
    """Where a quantizable node's operands are.

    Attributes:
        data: index of the data operand.
        weight: index of the weight operand (for a product of two activations: the second one).
        bias: index of the bias operand, None when the op has none.
        weight_axis: axis of the weight that is the output channel, None when a channel is not a single index.
    """

    data: int
    weight: int
    bias: int | None
    weight_axis: int | None


@dataclass(frozen=True, slots=True)
class FloatKernel:
    """What can be put on grids around a node that computes in float: weights are stored as codes and read back.

    Attributes:
        weights: operands that hold weights → their names in quantizers and the axis of their output channels.
        data: operands that are activations → their names in quantizers.
        products: (data operand, weight operand) that are multiplied with each other.
    """

    weights: Mapping[int, tuple[str, int | None]]
    data: Mapping[int, str]
    products: tuple[tuple[int, int], ...]


def _never(_: Node) -> None:
    return None


def _no_shape(_: Node, __: int | None) -> LayerShape | None:
    return None


@dataclass(frozen=True, eq=False)
class OpDef:
    """Answers about one op; the defaults are those of an op about which nothing is known.

    Attributes:
        name: op type.
        domain: operator domain, "" is ONNX's own.
        since_version: first version of the operator set that defines the op this way.
        operands: node → where a quantizable node's operands are, None = never quantized.
        kernel: node → what is quantized around a node that computes in float (LSTM, embeddings), None = nothing.
        trained: indices of the operands that training changes when they are constants.
        keeps: node → index of the operand whose grid result 0 always keeps, or None.
        flow: for ops that keep a grid under conditions; by default the grid of `keeps` passes when it has one scale.
        shape: (node, size of an unknown batch) → the multiply-accumulates, None when they are unknown.
        is_known: the registry holds an entry; an unknown op's cost is unknown, not zero.
        is_expensive: computes multiply-accumulates (Conv, Gemm, LSTM, …).
        is_elementwise: every element of the result depends on the elements at the same place only.
        is_join: needs its operands on comparable grids (Add, Concat).
        is_average: averages its operand, so that its result leaves the grid (AveragePool, ReduceMean).
        is_activation: runs for free after the layer that feeds it (Relu, Clip).
        is_movement: copies elements, computes nothing (Reshape, Slice, …).
        is_view: moves no data: only the shape changes (Reshape, Flatten, …).
        is_random: two runs differ.
        is_enlarging: the result may be much larger than the operands, by numbers in them (Expand, Range, …).
        is_quantize, is_dequantize: turns real numbers into codes, codes into real numbers.
        has_subgraphs: control flow.
        rank_from: index of the operand that lists the sizes of result 0.
        keeps_type: result 0 has the type of operand 0; for ops that ONNX has no schema of.
        examples: nodes that the tests run through every executor.
    """

    name: str
    domain: str = ""
    since_version: int = 1
    operands: Callable[[Node], Operands | None] = _never
    kernel: Callable[[Node], FloatKernel | None] = _never
    trained: tuple[int, ...] = ()
    keeps: Callable[[Node], int | None] = _never
    flow: Flow | None = None
    shape: Callable[[Node, int | None], LayerShape | None] = _no_shape
    is_known: bool = True
    is_expensive: bool = False
    is_elementwise: bool = False
    is_join: bool = False
    is_average: bool = False
    is_activation: bool = False
    is_movement: bool = False
    is_view: bool = False
    is_random: bool = False
    is_enlarging: bool = False
    is_quantize: bool = False
    is_dequantize: bool = False
    has_subgraphs: bool = False
    rank_from: int | None = None
    keeps_type: bool = False
    examples: tuple[Example, ...] = field(default=(), repr=False)

    def quantizable(self, node: Node) -> Operands | None:
        """Return the operands to quantize, None when the op is never quantized."""
        return self.operands(node)

    def float_kernel(self, node: Node) -> FloatKernel | None:
        """Return what is put on grids around a node that computes in float, None when nothing is."""
        return self.kernel(node)

    def grid_operand(self, node: Node) -> int | None:
        """Return the index of the operand whose grid the result keeps whatever the grid is, or None."""
        return self.keeps(node)

    @property
    def can_keep_grid(self) -> bool:
        """Whether there are nodes of this op whose result keeps an operand's grid."""
        return self.keeps is not _never

    def fuses_into_producer(self, node: Node) -> bool:
        """Return whether the op runs for free after the node that feeds it (Relu, Clip)."""
        return self.is_activation and node.input(0) is not None

    def layer_shape(self, node: Node, *, batch: int | None = None) -> LayerShape | None:
        """Return the multiply-accumulates of a node.

        Args:
            node: a node of this op.
            batch: size taken for a leading dimension that is unknown or a symbol.

        Returns:
            None when the op has none, or when a dimension is not known.

        Raises:
            QirError: the attributes do not fit the operands (`qir.verify` says how).
        """
        try:
            return self.shape(node, batch)
        except (TypeError, ZeroDivisionError, IndexError) as error:
            raise QirError(f"node {node}: its attributes do not fit its operands; verify the network") from error

    def macs(self, node: Node, *, batch: int | None = None) -> int | None:
        """Return number of multiply-accumulates; 0 for ops that compute none, None for unknown ops and dimensions."""
        if not self.is_known or self.has_subgraphs:
            return None
        if not self.is_expensive:
            return 0
        found = self.layer_shape(node, batch=batch)
        return None if found is None else found.macs

    @cached_property
    def schema(self) -> Any:
        """ONNX's `OpSchema` (arity, attributes, type constraints), or None for an op that ONNX does not define."""
        from qir.ops.schemas import schema_at

        return schema_at(self.domain, self.name, self.since_version)


def ops(names: str, **facts: Any) -> tuple[OpDef, ...]:
    """Return entries that share their facts: names divided by spaces; `examples` maps name → examples."""
    examples: Mapping[str, tuple[Example, ...]] = facts.pop("examples", {})
    return tuple(OpDef(name, examples=examples.get(name, ()), **facts) for name in names.split())


def tensor_of(value: Value | None) -> TensorType | None:
    """Return the type of a value when it is a tensor."""
    return value.type if value is not None and isinstance(value.type, TensorType) else None


def rank_of(value: Value | None) -> int | None:
    """Return the rank of a value, None when unknown."""
    found = tensor_of(value)
    return None if found is None else found.rank


def sizes_of(value: Value | None, batch: int | None = None) -> tuple[int, ...] | None:
    """Return the shape of a value when every dimension is known; an unknown leading one is taken as `batch`."""
    found = tensor_of(value)
    if found is None or found.shape is None:
        return None
    shape = found.shape
    if batch is not None and shape and not isinstance(shape[0], int):
        shape = (batch, *shape[1:])
    known = tuple(size for size in shape if isinstance(size, int))
    return known if len(known) == len(shape) else None


def first(_: Node) -> int:
    """Return the first operand: for `keeps`."""
    return 0
