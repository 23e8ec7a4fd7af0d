"""The integer reference: what an exported QCDQ network computes, defined in numpy on integers.

Every quantized layer is an exact integer sum, or on request what x86 CPUs without VNNI make of it
(`integer_reference_saturation`); its requantization is the float32 arithmetic of ONNX Runtime's fused kernels, so that
their codes are equal, or that of hardware without floats (`integer_reference_requantization`).
Nodes without a grid on their operands (Softmax at the border, unquantized layers) are computed on floats and named in
the result. The sums of products run in float32 or float64, whichever is proven to hold them
(`qir.backends.integer.sums`); a sum that leaves int32 is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from qir.backends.execution.evaluate import evaluate_constant, evaluate_control_flow, read_inside
from qir.backends.execution.executor import Run
from qir.backends.execution.node_sessions import NodeSessions
from qir.backends.integer.kernels import MOVES, Operand, kernel_of
from qir.backends.integer.operators import run_operator
from qir.backends.integer.requantization import REQUANTIZATIONS, Requantization
from qir.backends.integer.saturation import is_fused, turns_unsigned
from qir.backends.integer.values import Grid, Pending, integer_limits, on_grid, quantized
from qir.errors import DataError, QirError
from qir.graph import Node, Value
from qir.module import Module
from qir.tensor import Array

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True)
class IntegerRun(Run):
    """One run of the integer reference; its codes are every intermediate integer tensor that depends on the inputs.

    Attributes:
        integer_nodes: names of the nodes computed on codes.
        float_nodes: names of the nodes computed on floats.
    """

    integer_nodes: tuple[str, ...] = ()
    float_nodes: tuple[str, ...] = ()


class IntegerReference:
    """Executes an exported QCDQ network, as `qir.load` reads it.

    Args:
        module: network of QuantizeLinear, Clip, DequantizeLinear and ordinary ONNX operators.
        requantization: arithmetic from sums to codes: `float32` (ONNX Runtime's), `dyadic` or `power-of-two`.
        saturating: add products of unsigned and signed codes in pairs that clip to int16, as ONNX Runtime's kernels
            for x86 CPUs without VNNI do (`integer_reference_saturation`). Layers that its default session computes on
            floats, and ConvTranspose, which it never fuses, stay exact.

    Raises:
        QirError: the network still has fake-quant nodes, or no QuantizeLinear, or the arithmetic is unknown.
    """

    def __init__(self, module: Module, *, requantization: Requantization = "float32", saturating: bool = False) -> None:
        graph = module.graph
        if requantization not in REQUANTIZATIONS:
            raise QirError(
                f"requantization {requantization!r} is unknown; expected one of {', '.join(REQUANTIZATIONS)}"
            )
        if graph.fake_quants():
            raise QirError(
                "the network still has fake-quant nodes: export it first, the integer reference runs the file"
            )
        if not any(node.op == QUANTIZE for node in graph):
            raise QirError(
                "the network has no QuantizeLinear node: it is not a QCDQ export; quantize and export it first"
            )
        self._module = module
        self._requantization: Requantization = requantization
        self._saturating = saturating
        self._sessions = NodeSessions(module.opsets)

    def run(self, feed: Mapping[str, Array], /) -> IntegerRun:
        """Run one batch.

        Raises:
            DataError: an input is missing or holds NaN, or an accumulator leaves int32.
            QirError: requantization by powers of two, and a ratio of scales is none.
        """
        state = self.begin(feed)
        for node in self._module.graph:
            if not node.is_return:
                state.step(node)
        return state.finish()

    def begin(self, feeds: Mapping[str, Array]) -> State:
        """Return one batch before its first node, for callers that step through the nodes themselves.

        Raises:
            DataError: an input is missing or holds NaN.
        """
        return State(self._module, dict(feeds), self._requantization, self._saturating, self._sessions)

    def branch(self, values: MutableMapping[Value, Array | Grid | Pending], state: State) -> State:
        """Return a batch with values of its own, which goes on in this arithmetic from where another one stands."""
        kind, saturating = self._requantization, self._saturating
        return State(self._module, state.feeds, kind, saturating, state.sessions, values, variable=state.variable)


@dataclass
class State:
    """One batch on its way through the network: what every value holds so far."""

    module: Module
    feeds: dict[str, Array]
    requantization: Requantization
    saturating: bool
    sessions: NodeSessions
    values: MutableMapping[Value, Array | Grid | Pending] = field(default_factory=dict)
    codes: dict[str, Array] = field(default_factory=dict)
    variable: set[Value] = field(default_factory=set)
    integer_nodes: list[str] = field(default_factory=list)
    float_nodes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.values:  # a branch, which has its inputs
            return
        for value in self.module.graph.constants:
            if value.constant is not None:
                self.values[value] = value.constant.numpy()
        for value in self.module.graph.inputs:
            if value.name in self.feeds:
                array = np.asarray(self.feeds[value.name])
                if array.dtype.kind == "f" and np.isnan(array).any():
                    raise DataError(f"input {value.name!r} holds NaN: NaN has no code; clean the data first")
                self.values[value] = array
                self.variable.add(value)
            elif value not in self.values:
                raise DataError(f"input {value.name!r} is missing; given are {', '.join(self.feeds) or 'none'}")

    def step(self, node: Node) -> None:
        """Compute one node.

        Raises:
            QirError: its operands do not fit.
        """
        try:
            self._step(node)
        except (ValueError, IndexError, TypeError, KeyError) as error:
            raise QirError(f"node {node}: its operands do not fit: {error}; `qir opt` verifies the file") from error

    def _step(self, node: Node) -> None:
        operands = [None if value is None else self.values[value] for value in node.inputs]
        variable = any(value in self.variable for value in node.operands)
        if node.op == QUANTIZE:
            results: Sequence[Array | Grid | Pending] = [_quantize(node, operands, self.requantization)]
        elif node.op == DEQUANTIZE:
            results = [_dequantize(node, operands)]
            if self.saturating and isinstance(results[0], Grid) and turns_unsigned(node):
                results = [results[0].unsigned()]
        else:
            results = self._compute(node, operands, variable)
        for value, result in zip(node.results, results, strict=True):
            self.values[value] = result
            if variable:
                self.variable.add(value)
                if isinstance(result, np.ndarray) and _is_integer(result.dtype):
                    self.codes[value.name] = result

    def finish(self) -> IntegerRun:
        """Return the result after the last node."""
        graph = self.module.graph
        named = zip(graph.output_names, graph.outputs, strict=True)
        outputs = {name: _plain(self.values[value]) for name, value in named if value is not None}
        return IntegerRun(outputs, self.codes, tuple(self.integer_nodes), tuple(self.float_nodes))

    def _compute(self, node: Node, operands: list[Operand], variable: bool) -> Sequence[Array | Grid | Pending]:
        found: Operand = None
        if node.domain == "" and node.op in MOVES:
            found = self._move(node, operands)
        elif node.domain == "" and (kernel := kernel_of(node.op, self._saturates(node, operands))) is not None:
            found = kernel(node, operands)
        else:
            found = run_operator(node, operands, self.requantization, self.saturating)
        results: Sequence[Array | Grid | Pending] = [found] if found is not None else self._evaluate(node, operands)
        if variable:
            exact = found is not None or all(_is_integral(value) for value in (*operands, *results))
            (self.integer_nodes if exact else self.float_nodes).append(node.label)
        return results

    def _saturates(self, node: Node, operands: Sequence[Operand]) -> bool:
        return self.saturating and bool(operands) and isinstance(operands[0], Grid) and is_fused(node, operands[0])

    def _evaluate(self, node: Node, operands: list[Operand]) -> Sequence[Array]:
        if node.subgraphs():
            inner = (value for graph in node.subgraphs() for value in read_inside(graph))
            known = {value: _plain(self.values[value]) for value in (*node.operands, *inner) if value in self.values}
            return evaluate_control_flow(node, known, opsets=self.module.opsets)
        return self._run(node, [_optional(operand) for operand in operands])

    def _move(self, node: Node, operands: list[Operand]) -> Grid | None:
        grid, rest = operands[0], operands[1:]
        if not isinstance(grid, Grid) or grid.per_tensor() is None or len(node.results) > 1:
            return None
        return replace(grid, codes=self._run(node, [grid.codes, *map(_optional, rest)])[0])

    def _run(self, node: Node, operands: list[Array | None]) -> list[Array]:
        if any(value in self.variable for value in node.operands):
            return self.sessions.run(node, operands)
        return evaluate_constant(node, operands, opsets=self.module.opsets)


def _optional(operand: Operand) -> Array | None:
    return None if operand is None else _plain(operand)


def _plain(value: Array | Grid | Pending) -> Array:
    return value if isinstance(value, np.ndarray) else value.real()


def _parameters(node: Node, operands: Sequence[Operand], rank: int, length: int | None) -> tuple[Array, Array]:
    """Scale and zero point, shaped to broadcast against a tensor of `rank` dimensions."""
    scale = np.asarray(operands[1], np.float32)
    zero = np.zeros((), np.int32) if len(operands) < 3 or operands[2] is None else np.asarray(operands[2])
    zero = zero.astype(np.int32)
    if scale.ndim > 1 or node.attribute("block_size", 0):
        raise QirError(f"node {node.name!r}: blocks of scales are covered for constants only")
    if scale.ndim == 1 and scale.size > 1:
        axis = node.attribute("axis", 1) % rank
        shape = [1] * rank
        shape[axis] = -1
        if length is not None and scale.size != length:
            raise QirError(f"node {node.name!r}: {scale.size} scales for {length} channels")
        return scale.reshape(shape), zero.reshape(shape) if zero.size > 1 else zero.reshape(())
    return scale.reshape(()), zero.reshape(())


def _quantize(node: Node, operands: Sequence[Operand], requantization: Requantization) -> Array:
    value = operands[0]
    dtype = np.asarray(operands[2]).dtype if len(operands) > 2 and operands[2] is not None else np.dtype(np.uint8)
    rank = value.codes.ndim if isinstance(value, Grid) else value.ndim if isinstance(value, np.ndarray) else 0
    scale, zero = _parameters(node, operands, max(rank, 1), None)
    plain = isinstance(value, Pending) or (isinstance(value, Grid) and value.per_tensor() is not None)
    if plain and scale.size == 1 and isinstance(value, Grid | Pending):
        step, code = np.float32(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])
        return on_grid(value, step, code, dtype, requantization, node.label)
    if value is None:
        raise QirError(f"node {node.label!r}: operand 0 of QuantizeLinear is missing; give it a value")
    return np.asarray(quantized(_plain(value), scale, zero, dtype), dtype)


def _dequantize(node: Node, operands: Sequence[Operand]) -> Grid | Array:
    codes = np.asarray(operands[0])
    if node.attribute("block_size", 0):
        return _dequantize_blocks(node, codes, operands)
    axis = node.attribute("axis", 1)
    length = codes.shape[axis] if codes.ndim and -codes.ndim <= axis < codes.ndim else None
    scale, zero = _parameters(node, operands, max(codes.ndim, 1), length)
    limits = integer_limits(codes.dtype)
    return Grid(codes.astype(np.int32), scale, zero, int(limits.bits), limits.min < 0)


def _dequantize_blocks(node: Node, codes: Array, operands: Sequence[Operand]) -> Array:
    """Real numbers: a product with blocks of scales has no one scale, and is computed in float."""
    axis, block = node.attribute("axis", 1) % codes.ndim, node.attribute("block_size")
    places = np.arange(codes.shape[axis]) // block
    scale = np.take(np.asarray(operands[1], np.float32), places, axis)
    zero = 0 if len(operands) < 3 or operands[2] is None else np.take(np.asarray(operands[2], np.int32), places, axis)
    return np.asarray((codes.astype(np.int32) - zero).astype(np.float32) * scale, np.float32)


def _is_integral(value: Operand) -> bool:
    return value is None or (isinstance(value, np.ndarray) and _is_integer(value.dtype))


def _is_integer(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "iu" or dtype.name in ("int2", "uint2", "int4", "uint4")
