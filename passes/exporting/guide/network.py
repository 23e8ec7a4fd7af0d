"""From the record of the integer reference to the guide's tensors, constants and steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qir.attributes import Attribute
from qir.backends.integer.requantization import Requantization
from qir.backends.integer.values import Grid
from qir.errors import QirError
from qir.fake_quant import FakeQuant, quantizers
from qir.graph import Node, Value
from qir.guide_network import (
    ConstantGuide,
    CostGuide,
    GatherGuide,
    GridGuide,
    NetworkTensor,
    OutputGuide,
    PackedTensor,
    PortGuide,
    StepGuide,
    WindowGuide,
)
from qir.module import Module
from qir.passes.analysis.arithmetic.network import ArithmeticAnalysis, NetworkArithmetic
from qir.passes.exporting.guide.deciding import decide
from qir.passes.exporting.guide.multipliers import multiplier, rounding
from qir.passes.exporting.guide.trace import trace_network
from qir.passes.exporting.guide.traced import Trace, TracedOutput, TracedStep, TracedTensor
from qir.passes.exporting.guide.weights_file import WeightsFile
from qir.passes.exporting.memory_plan import Buffer, Plan, execution_order, plan_memory
from qir.passes.infrastructure.contract import AnalysisCache
from qir.tensor import Array, Tensor


@dataclass
class NetworkGuide:
    """What the guide says of a network.

    Attributes:
        tensors, constants, steps, inputs, outputs: entries of the guide.
        buffers: tensors in memory, and `plan` their offsets; None where nothing is known.
        unknown: why the network cannot be followed; empty where it is.
    """

    tensors: list[NetworkTensor] = field(default_factory=list)
    constants: list[ConstantGuide] = field(default_factory=list)
    steps: list[StepGuide] = field(default_factory=list)
    inputs: list[PortGuide] = field(default_factory=list)
    outputs: list[PortGuide] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=list)
    plan: Plan | None = None
    unknown: str = ""


def describe_network(
    module: Module,
    weights: WeightsFile,
    packed: Callable[[FakeQuant], tuple[Any, PackedTensor | None]],
    *,
    kind: Requantization,
    layers: dict[str, str],
    costs: Callable[[Node], CostGuide | None],
    analyses: AnalysisCache,
    storage_widths: Sequence[int] = (),
) -> NetworkGuide:
    """Return the entries of a network with calibrated fake-quant nodes.

    Args:
        module: the network.
        weights: file that takes what is long.
        packed: grid of a weight's quantizer, and where its codes lie.
        kind: arithmetic from sums to codes.
        layers: names of the layers by node.
        costs: of a node.
        analyses: what is known of the network.
        storage_widths: widths that memory stores; a width in between takes the next larger one.
    """
    by_name = {node.name: costs(node) for node in execution_order(module.graph)}
    try:
        trace = trace_network(module, analyses)
    except QirError as error:
        return NetworkGuide(steps=_plain_steps(module, by_name, layers), unknown=str(error))
    arithmetic = analyses.get(ArithmeticAnalysis(), module)
    return _Describer(module, arithmetic, trace, weights, packed, kind, layers, by_name, storage_widths).run()


def _plain_steps(module: Module, costs: dict[str, CostGuide | None], layers: dict[str, str]) -> list[StepGuide]:
    return [
        StepGuide(
            name=node.label,
            op=node.op,
            kind="unknown",
            layer=layers.get(node.name, ""),
            inputs=["" if value is None else value.name for value in node.inputs],
            outputs=[OutputGuide(tensor=value.name, multiplier=None, clamp=None) for value in node.results],
            attributes=attributes_of(node),
            cost=costs.get(node.name),
        )
        for node in execution_order(module.graph)
    ]


def attributes_of(node: Node) -> dict[str, Any]:
    """Return attributes as JSON has them; subgraphs by name alone."""
    return {name: _plain(attribute) for name, attribute in sorted(node.attributes.items())}


def _plain(attribute: Attribute) -> Any:
    value = attribute.python()
    if isinstance(value, Tensor):
        return value.numpy().tolist()
    if isinstance(value, tuple):
        return list(value)
    return value if isinstance(value, str | int | float | bool) else str(getattr(value, "name", ""))


@dataclass
class _Describer:
    module: Module
    arithmetic: NetworkArithmetic
    trace: Trace
    weights: WeightsFile
    packed: Callable[[FakeQuant], tuple[Any, PackedTensor | None]]
    kind: Requantization
    layers: dict[str, str]
    costs: dict[str, CostGuide | None]
    storage_widths: Sequence[int]

    def run(self) -> NetworkGuide:
        """Return every entry, in order."""
        self.quantizers = quantizers(self.module.graph)
        written = [output.tensor for step in self.trace.steps for output in step.outputs]
        tensors = [*self.trace.inputs, *written]
        self._unique_names(tensors)
        buffers = self._buffers()
        plan = plan_memory(list(buffers.values()))
        offsets = dict(zip(buffers, plan.offsets, strict=True))
        return NetworkGuide(
            [self._tensor(tensor, offsets.get(tensor.storage)) for tensor in tensors],
            [self._constant(value, grid) for value, grid in self.trace.constants.items()],
            [self._step(step) for step in self.trace.steps],
            [self._input(tensor) for tensor in self.trace.inputs],
            [self._output(name, tensor) for name, tensor in self.trace.outputs.items()],
            list(buffers.values()),
            plan,
        )

    def _unique_names(self, tensors: list[TracedTensor]) -> None:
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise AssertionError("two tensors of a network have one name")

    def _origin(self, tensor: TracedTensor) -> FakeQuant | None:
        """Return the quantizer that a tensor's name tells, or that of the codes it holds copies of."""
        if tensor.moved is not None:
            return self._origin(tensor.moved)
        stem = tensor.name.removesuffix(".codes").removesuffix(".clipped")
        return self.quantizers.get(stem)

    def _bits(self, tensor: TracedTensor) -> int:
        if tensor.element == "sums":
            return 32
        if tensor.element != "codes":
            return 8 * np.dtype(tensor.element).itemsize if tensor.element != "string" else 0
        low, high = tensor.limits
        return max((high - low).bit_length(), 1)

    def _buffers(self) -> dict[TracedTensor, Buffer]:
        """Return tensors that have to be kept in memory, from the step that writes them to the last that reads them."""
        steps = self.trace.steps
        lives = {tensor: [0, 0] for tensor in self.trace.inputs}
        for index, step in enumerate(steps):
            for operand in step.inputs:
                if isinstance(operand, TracedTensor):
                    lives[operand.storage][1] = index
            for output in step.outputs:
                if output.tensor.view_of is None:
                    lives[output.tensor] = [index, index]
        for tensor in self.trace.outputs.values():
            lives[tensor.storage][1] = max(len(steps) - 1, 0)
        for tensor in self.trace.inputs:  # floats that are only quantized stay with the caller
            if all(step.kind == "quantize" for step in steps if tensor in step.inputs):
                del lives[tensor]
        return {tensor: self._buffer(tensor, *life) for tensor, life in lives.items()}

    def _buffer(self, tensor: TracedTensor, first: int, last: int) -> Buffer:
        origin, bits = self._origin(tensor), self._bits(tensor)
        stored = next((width for width in sorted(self.storage_widths) if width >= bits), bits)
        elements = int(np.prod(tensor.shape))
        name = "" if origin is None else origin.name
        return Buffer(tensor.name, name, bits, elements, -(-elements * stored // 8), first, last)

    def _tensor(self, tensor: TracedTensor, offset: int | None) -> NetworkTensor:
        origin = self._origin(tensor.storage)
        return NetworkTensor(
            name=tensor.name,
            shape=list(tensor.shape),
            element=tensor.element,
            quantizer="" if origin is None else origin.name,
            bits=self._bits(tensor),
            grid=self._grid(tensor),
            view_of="" if tensor.view_of is None else tensor.storage.name,
            offset=offset,
        )

    def _grid(self, tensor: TracedTensor) -> GridGuide | None:
        if tensor.grid is None:
            return None
        scale, zero = tensor.grid
        rank = len(tensor.shape)
        return GridGuide(
            scale=self.weights.numbers(scale),
            zero_point=self.weights.numbers(zero),
            axis=_axis(scale, rank),
            low_code=tensor.limits[0],
            high_code=tensor.limits[1],
        )

    def _constant(self, value: Value, grid: Grid) -> ConstantGuide:
        centred = np.asarray(grid.codes - grid.zero_point)
        found = self._stored(value, centred)
        if found is None:
            low, high = int(centred.min(initial=0)), int(centred.max(initial=0))
            place = self.weights.packed(centred, max((high - low).bit_length(), 1), low)
            found = {"packed": place, "low_code": low, "code_step": 1, "table": None, "zero_point": [0]}
        return ConstantGuide(
            name=self._name(value),
            shape=list(centred.shape),
            scale=self.weights.numbers(grid.scale),
            axis=_axis(grid.scale if grid.scale.size > 1 else grid.zero_point, centred.ndim),
            **found,
        )

    def _stored(self, value: Value, centred: Array) -> dict[str, Any] | None:
        """Return where the codes of a weight's quantizer lie that give these integers."""
        quantizer = self.quantizers.get(value.name.removesuffix(".dequantized"))
        codes = None if quantizer is None else self.arithmetic.quantizer(quantizer).codes
        if quantizer is None or codes is None:
            return None
        if not np.array_equal(codes.centred(quantizer.granularity.axis), centred):
            return None
        grid, packed = self.packed(quantizer)
        if packed is None:
            return None
        entries = {"packed": packed, "low_code": grid.low_code, "code_step": grid.code_step, "table": grid.table}
        return entries | {"zero_point": self.weights.numbers(codes.zero_point)}

    def _step(self, step: TracedStep) -> StepGuide:
        name = step.node.label
        return StepGuide(
            name=name,
            op=step.node.op,
            kind=step.kind,
            layer=self.layers.get(name, ""),
            inputs=[self._name(operand) for operand in step.inputs],
            outputs=[self._result(step, output) for output in step.outputs],
            attributes=attributes_of(step.node),
            window=_window(step),
            gather=None
            if step.offsets is None
            else GatherGuide(offsets=[self.weights.numbers(line) for line in step.offsets], fill=step.fill),
            bias=None if step.bias is None else self.weights.numbers(step.bias),
            bias_shape=_bias_shape(step),
            rounding=rounding(step, self.kind),
            cost=self.costs.get(name),
        )

    def _name(self, operand: TracedTensor | Value | None) -> str:
        if operand is None:
            return ""
        if isinstance(operand, TracedTensor):
            return operand.name
        node = self.quantizers.get(operand.name.removesuffix(".dequantized"))
        return operand.name if node is None else node.name

    def _result(self, step: TracedStep, output: TracedOutput) -> OutputGuide:
        found = None
        if output.pending is not None:
            found = multiplier(step, output, output.pending, self.weights, self._differs(step, output))
        return OutputGuide(tensor=output.tensor.name, multiplier=found, clamp=output.clamp)

    def _differs(self, step: TracedStep, output: TracedOutput) -> int | None:
        """Return at how many of all integers the dyadic codes are not those of float32; None where it is undecided."""
        found = None if self.kind == "float32" else decide(self.trace, step, output).differences.get("dyadic")
        return None if found is None else found.count

    def _input(self, tensor: TracedTensor) -> PortGuide:
        codes = [
            o.tensor.name for s in self.trace.steps if tensor in s.inputs and s.kind == "quantize" for o in s.outputs
        ]
        return PortGuide(
            name=tensor.name, tensor=tensor.name, shape=list(tensor.shape), element=tensor.element, codes=codes
        )

    def _output(self, name: str, tensor: TracedTensor) -> PortGuide:
        coded = tensor.element in ("codes", "sums")
        return PortGuide(
            name=name,
            tensor=tensor.name,
            shape=list(tensor.shape),
            element="float32" if coded else tensor.element,
            codes=[tensor.name] if coded else [],
        )


def _axis(scale: Array, rank: int) -> int | None:
    """Return the axis along which scales differ; shapes broadcast against the tensor."""
    if scale.size <= 1:
        return None
    return rank - scale.ndim + int(np.argmax(scale.shape))


def _bias_shape(step: TracedStep) -> list[int]:
    """Return the shape in which a bias broadcasts against the sums: axis 1 of images, the last axis of rows.

    Empty without one.
    """
    if step.bias is None:
        return []
    return [step.bias.size, *(1,) * (0 if step.window is None else len(step.window.kernel))]


def _window(step: TracedStep) -> WindowGuide | None:
    found = step.window
    if found is None:
        return None
    beyond = found.beyond or (0,) * len(found.end)
    return WindowGuide(
        kernel=list(found.kernel),
        strides=list(found.strides),
        dilations=list(found.dilations),
        begin=list(found.begin),
        end=[end + more for end, more in zip(found.end, beyond, strict=True)],
    )
