"""What the integer reference does with a network, recorded step by step on one sample.

The network is followed in the form that the reference runs (QuantizeLinear, Clip, DequantizeLinear): what it holds as
codes, as sums that wait for a grid, or as floats decides what a step is, so that the record cannot differ from it.
"""

from __future__ import annotations

import numpy as np

from qir.backends.integer.reference import DEQUANTIZE, QUANTIZE, IntegerReference, State
from qir.backends.integer.values import Grid, Pending, integer_limits, rescaled
from qir.backends.integer.windows import Window, transposed_window
from qir.errors import QirError
from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.exporting.guide.offsets import in_order, offsets_of
from qir.passes.exporting.guide.traced import Kind, Trace, TracedOutput, TracedStep, TracedTensor
from qir.passes.infrastructure.contract import AnalysisCache
from qir.passes.parity.executors import code_forms
from qir.tensor import Array, Tensor
from qir.types import TensorType


def trace_network(module: Module, analyses: AnalysisCache) -> Trace:
    """Return the record of a network with calibrated fake-quant nodes, or of a file of QuantizeLinear nodes.

    Args:
        module: the network.
        analyses: what is known of it.

    Raises:
        QirError: a size is unknown, or no integers compute the network; the message says which.
    """
    form = next(code_forms(module, analyses), None) if module.graph.fake_quants() else module
    if form is None:
        raise QirError("no form of the network in 8 or 16 bits exists")
    return _Follower(form).run()


def _sample(module: Module) -> dict[str, Array]:
    feeds = {}
    for value in module.graph.inputs:
        if value.constant is not None:
            continue
        shape = value.shape
        sizes = [1 if not isinstance(d, int) and index == 0 else d for index, d in enumerate(shape or ())]
        if shape is None or not all(isinstance(size, int) for size in sizes):
            raise QirError(f"the sizes of input {value.name!r} are unknown: run freeze-inputs{{shapes=[…]}} first")
        assert isinstance(value.type, TensorType)  # noqa: S101 - its shape is known
        feeds[value.name] = Tensor.of(np.zeros([int(size or 0) for size in sizes]), dtype=value.type.dtype).numpy()
    return feeds


class _Follower:
    """Steps through the reference and names what it holds."""

    def __init__(self, module: Module) -> None:
        self.trace = Trace(module)
        self.state: State = IntegerReference(module).begin(_sample(module))
        self.held: dict[Value, TracedTensor | TracedStep] = {}

    def run(self) -> Trace:
        """Follow every node."""
        graph = self.trace.module.graph
        for value in graph.inputs:
            if value in self.state.variable:
                self.trace.inputs.append(self._tensor(value))
        for node in graph:
            if not node.is_return:
                self.state.step(node)
                if any(value in self.state.variable for value in node.results):
                    self._follow(node)
        for name, output in zip(graph.output_names, graph.outputs, strict=True):
            if output is not None and output in self.state.variable:
                self.trace.outputs[name] = self._read(output)
        return self.trace

    def _follow(self, node: Node) -> None:
        first = node.inputs[0] if node.inputs else None
        held = self.held.get(first) if first is not None else None
        result = self.state.values[node.results[0]]
        if node.op == QUANTIZE:
            self._quantize(node, held)
        elif node.op == DEQUANTIZE and isinstance(held, TracedTensor):
            self._dequantize(node, held)
        elif held is not None and self._passes_on(node, held, result):
            self.held[node.result] = held
        elif isinstance(result, Pending):
            self._begin(node)
        elif isinstance(result, Grid):
            self._move(node, result)
        else:
            self._island(node)

    def _quantize(self, node: Node, held: TracedTensor | TracedStep | None) -> None:
        """Add a result to the step whose sums wait, or a step of its own."""
        source, codes = self.state.values[node.operands[0]], np.asarray(self.state.values[node.result])
        scale = np.asarray(self.state.values[node.operands[1]], np.float32)
        zero = np.asarray(self.state.values[node.operands[2]] if len(node.operands) > 2 else 0).astype(np.int32)
        info = integer_limits(codes.dtype)
        limits = int(info.min), int(info.max)
        if isinstance(held, TracedTensor) and _same(source, scale, zero) and _within(held.limits, limits):
            if held.moved and held.name == node.operands[0].name:
                held.name = node.result.name
            self.held[node.result] = held
            return
        tensor = TracedTensor(node.result.name, codes.shape, "codes", (scale, zero), limits)
        if isinstance(source, Pending) and isinstance(held, TracedStep):
            step = held
        else:
            kind: Kind = "integer" if isinstance(source, Grid) else "quantize"
            step = TracedStep(node, kind, [held if isinstance(held, TracedTensor) else None])
            self.trace.steps.append(step)
            source = rescaled(source) if isinstance(source, Grid) else source
        pending = source if isinstance(source, Pending) else None
        step.outputs.append(TracedOutput(tensor, pending, _clamp(pending, scale, zero, limits)))
        self.held[node.result] = tensor

    def _dequantize(self, node: Node, held: TracedTensor) -> None:
        grid = self.state.values[node.result]
        if not isinstance(grid, Grid):
            self._island(node)
            return
        found = (np.asarray(grid.scale, np.float32), grid.zero_point)
        if held.grid is None:  # integers that floats were turned into
            held.element, held.grid = "codes", found
            info = integer_limits(np.asarray(self.state.values[node.operands[0]]).dtype)
            held.limits = int(info.min), int(info.max)
        if not all(
            np.array_equal(one.reshape(-1), other.reshape(-1)) for one, other in zip(held.grid, found, strict=True)
        ):
            raise QirError(f"node {node.name!r} reads codes on another grid than they were made on")
        self.held[node.result] = held

    def _passes_on(self, node: Node, held: TracedTensor | TracedStep, result: object) -> bool:
        """Return whether a node limits codes, or bounds sums that wait for a grid."""
        if isinstance(held, TracedTensor):
            return self._limits_codes(node, held)
        return isinstance(result, Pending)

    def _limits_codes(self, node: Node, held: TracedTensor) -> bool:
        """Narrow codes by a Clip, or pass a Cast of integers; whether the node is one of them."""
        result, source = self.state.values[node.result], self.state.values[node.operands[0]]
        if held.element != "codes" or not _all_integers(result, source) or node.op not in ("Clip", "Cast"):
            return False
        if node.op == "Clip":
            output = next((o for s in self.trace.steps for o in s.outputs if o.tensor is held), None)
            if output is None or len(node.operands[0].users) > 1:
                raise QirError(f"node {node.name!r} limits codes that others read unlimited")
            bounds = [self.state.values[value] for value in node.operands[1:]]
            low, high = (int(np.asarray(bound).reshape(-1)[0]) for bound in bounds)
            held.limits = max(low, held.limits[0]), min(high, held.limits[1])
            if output.clamp is not None:
                output.clamp = (int(np.clip(output.clamp[0], low, high)), int(np.clip(output.clamp[1], low, high)))
            held.name = node.result.name
        return True

    def _begin(self, node: Node) -> None:
        """Add a step whose sums wait for their grids."""
        bias = self._bias_index(node)
        operands = [None if index == bias else self._operand(value) for index, value in enumerate(node.inputs)]
        step = TracedStep(node, "integer", operands)
        step.window, step.bias = self._window(node), None if bias is None else self._bias(node.inputs[bias])
        self.trace.steps.append(step)
        self.held[node.result] = step

    def _move(self, node: Node, result: Grid) -> None:
        """Add a step that copies codes."""
        step = TracedStep(node, "move", [self._operand(value) for value in node.inputs])
        tensors = [operand for operand in step.inputs if isinstance(operand, TracedTensor)]
        grid = (np.asarray(result.scale, np.float32), result.zero_point)
        limits = min(t.limits[0] for t in tensors), max(t.limits[1] for t in tensors)
        tensor = TracedTensor(node.result.name, result.codes.shape, "codes", grid, limits, moved=tensors[0])
        step.window = self._window(node)
        if step.window is None and len(tensors) == 1 and len(step.inputs) - step.inputs.count(None) == 1:
            step.offsets, step.fill = offsets_of(self.state, node, result)
            if step.fill is None and in_order(step.offsets, tensors[0].shape):
                step.kind, step.offsets, tensor.view_of = "view", None, tensors[0]
        step.outputs.append(TracedOutput(tensor, clamp=limits))
        self.trace.steps.append(step)
        self.held[node.result] = tensor

    def _island(self, node: Node) -> None:
        """Add a step on floats, or on integers of other kinds."""
        inner = any(True for _ in node.subgraphs())
        operands = [None if value is None else self._float_operand(value) for value in node.inputs]
        step = TracedStep(node, "control-flow" if inner else "float", operands)
        for value in node.results:
            tensor = self._tensor(value)
            step.outputs.append(TracedOutput(tensor))
        self.trace.steps.append(step)

    def _float_operand(self, value: Value) -> TracedTensor | Value | None:
        return self._read(value) if value in self.held else None

    def _read(self, value: Value) -> TracedTensor:
        """Return the tensor that a float reader sees: sums that wait become a tensor of sums or of floats."""
        held = self.held[value]
        if isinstance(held, TracedTensor):
            return held
        pending = self.state.values[value]
        assert isinstance(pending, Pending)  # noqa: S101 - steps are held for these alone
        for output in held.outputs:
            if output.tensor.name == value.name:
                return output.tensor
        real = pending.real()
        tensor, (first, *rest) = TracedTensor(value.name, real.shape, "float32"), pending.terms()
        if not rest and np.all(first.count == 1) and (pending.low, pending.high) == (-np.inf, np.inf):
            scale = first.factor
            tensor.element, tensor.grid = "sums", (scale, np.zeros((), np.int32))
            tensor.limits = -(2**31), 2**31 - 1
        held.outputs.append(TracedOutput(tensor, clamp=tensor.limits if tensor.grid else None))
        return tensor

    def _operand(self, value: Value | None) -> TracedTensor | Value | None:
        if value is None:
            return None
        held = self.held.get(value)
        if held is not None:
            return self._read(value)
        found = self.state.values[value]
        if isinstance(found, Grid):
            self.trace.constants[value] = found
            return value
        return None

    def _tensor(self, value: Value) -> TracedTensor:
        array = self.state.values[value]
        plain = array if isinstance(array, np.ndarray) else array.real()
        tensor = TracedTensor(value.name, plain.shape, str(Tensor.of(plain).dtype))
        self.held[value] = tensor
        return tensor

    def _window(self, node: Node) -> Window | None:
        facts = op_of(node)
        data = self.state.values[node.operands[0]]
        if not isinstance(data, Grid):
            return None
        spatial = data.codes.shape[2:]
        if node.attribute("kernel_shape") is not None and facts.quantizable(node) is None:
            return Window.of(node, spatial, node.attribute("kernel_shape"))
        if facts.is_average:
            return Window.of(node, spatial, spatial)
        weight = self.state.values[node.operands[1]] if len(node.operands) > 1 else None
        if node.op == "Conv" and isinstance(weight, Grid):
            return Window.of(node, spatial, weight.codes.shape[2:])
        if node.op == "ConvTranspose" and isinstance(weight, Grid):
            return transposed_window(node, spatial, weight.codes.shape[2:])[0]
        return None

    def _bias_index(self, node: Node) -> int | None:
        operands = op_of(node).quantizable(node)
        index = None if operands is None else operands.bias
        return None if index is None or node.input(index) is None else index

    def _bias(self, value: Value | None) -> Array | None:
        found = None if value is None else self.state.values[value]
        return found.centred() if isinstance(found, Grid) else None


def _clamp(pending: Pending | None, scale: Array, zero: Array, limits: tuple[int, int]) -> tuple[int, int]:
    """Return the lowest and highest code, as `Pending.quantize` bounds them."""
    if pending is None:
        return limits
    step, offset = np.float32(scale.reshape(-1)[0]), int(zero.reshape(-1)[0])
    low = max(float(limits[0]), float(np.rint(np.float32(pending.low) / step)) + offset)
    high = min(float(limits[1]), float(np.rint(np.float32(pending.high) / step)) + offset)
    return int(min(low, high)), int(high)


def _same(source: object, scale: Array, zero: Array) -> bool:
    """Return whether codes lie on a grid already."""
    grid = source.per_tensor() if isinstance(source, Grid) and scale.size == 1 else None
    return grid is not None and grid == (np.float32(scale.reshape(-1)[0]), int(zero.reshape(-1)[0]))


def _within(inner: tuple[int, int], outer: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def _all_integers(*values: object) -> bool:
    return all(isinstance(v, np.ndarray) and (v.dtype.kind in "iu" or "int" in v.dtype.name) for v in values)
