"""AdaRound as a pass: weights are moved to the level that rounding learned for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from qir.errors import PassError
from qir.fake_quant import FakeQuant
from qir.granularity import PerBlock
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.quantized_layers import stored_weights
from qir.passes.calibration.output_error import has_rows, operand_axis
from qir.passes.data.samples import batches
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.tensor import Array, Tensor
from qir.tracing import quantizer_of

if TYPE_CHECKING:
    import torch

    from qir.backends.torch.module import TorchModule
    from qir.backends.training.adaptive_rounding import RoundingProtocol


@dataclass(frozen=True)
class AdaRound(Pass):
    """Learn for each weight whether it is rounded up or down (AdaRound, Nagel et al., 2020), at the module's bits.

    Layer after layer, a layer's rounding is learned so that its output, after the activation that follows it, comes
    near the float network's; its inputs are those of the quantized network whose earlier layers are rounded already.
    The weight constants are replaced by the levels chosen, so every later quantization gives the learned codes; ranges
    stay. Verified IR in, verified IR out; needs `calibration_data`, no labels. Run it after calibrate and after the
    choice of bits; correct-bias and correct-channels may follow. Layers that are left as they are (recurrent ones, no
    rows are known of their kind, a weight that two layers share, a width per channel, a scheme whose levels do not map
    to themselves) are in `context.reports["adaround"]` with the reason.

    Options:
        iterations: steps a layer (paper: 10,000).
        images: samples that rounding is learned on; all of them run through the network at once.
        learning_rate: of Adam.
    """

    name: ClassVar[str] = "adaround"
    iterations: int = 1000
    images: int = 256
    learning_rate: float = 0.01

    def run(self, module: Module, context: PassContext) -> bool:
        """Learn and write; raises `PassError` when the network has no quantized layers or more than one input."""
        import torch

        from qir.backends.torch.module import TorchModule
        from qir.backends.training.adaptive_rounding import RoundingProtocol

        layers = _layers(module.graph)
        left = {stored.quantizer.name: stored.reason for stored in stored_weights(module.graph)}
        left = {name: reason for name, reason in left.items() if name not in {layer.weight.name for layer in layers}}
        if not layers and not left:
            raise PassError("adaround: the network has no quantized layers: run insert-fake-quant and calibrate first")
        feed = next(iter(batches(module, context.require("calibration_data"), batch=self.images)))
        if len(feed) != 1:
            raise PassError(f"adaround takes networks with one input; this one has {', '.join(feed)}")
        left |= {layer.name: reason for layer in layers if (reason := _obstacle(layer))}
        chosen = [layer for layer in layers if not _obstacle(layer)]
        plan = RoundingProtocol(self.iterations, learning_rate=self.learning_rate, seed=context.seed)
        network, images = TorchModule(module), torch.from_numpy(next(iter(feed.values())))
        learner = _Learner(network, module, chosen, _wanted(network, chosen, images, plan.seed), plan, context)
        with torch.no_grad():
            network(images, hook=learner)
        for layer in chosen:
            layer.weight.source.constant = Tensor.of(learner.weights[layer.node])
            layer.weight.is_stale = False
        context.reports[self.name] = left
        return bool(chosen)


@dataclass(frozen=True, slots=True)
class _Layer:
    """A node that multiplies by a quantized weight, and the weight's quantizer."""

    node: Node
    weight: FakeQuant

    @property
    def name(self) -> str:
        """The layer's name: its weight quantizer's name without `.weight`."""
        return self.weight.name.removesuffix(".weight")

    @property
    def weight_tensor(self) -> Tensor | None:
        """The float weight, or None when the second operand is computed."""
        value = self.weight.source
        return value.constant if value.is_constant else None


def _layers(graph: Graph) -> list[_Layer]:
    """Return layers with quantized weights in order, with and without blocks of scales, whatever their data are."""
    found = []
    for node in graph:
        operands = op_of(node).quantizable(node)
        weight = None if operands is None else quantizer_of(node.input(operands.weight))
        if weight is not None:
            found.append(_Layer(node, weight))
    return found


def _wanted(network: TorchModule, layers: list[_Layer], images: torch.Tensor, seed: int) -> dict[Node, torch.Tensor]:
    """Return what the float network's layers give: some rows of each, [channels, rows]."""
    import torch

    from qir.backends.training.adaptive_rounding import drawn_outputs

    kernels = {layer.node: tuple(layer.weight.source.constant.shape[2:]) for layer in layers}  # type: ignore[union-attr]
    found: dict[Node, torch.Tensor] = {}

    def draw(node: Node, result: torch.Tensor) -> torch.Tensor:
        if node in kernels:
            found[node] = drawn_outputs(result, kernels[node], seed)
        return result

    with torch.no_grad(), network.quantizers_off():
        network(images, hook=draw)
    return found


def _obstacle(layer: _Layer) -> str | None:
    """Return why a layer cannot be rounded, or None."""
    bits, weight = layer.weight.bits, layer.weight_tensor
    if weight is None:
        return "its second operand is not a constant"
    if not isinstance(bits, int):
        return "it has a width per channel"
    if len(layer.weight.result.users) != 1 or layer.node.input(1) is not layer.weight.result:
        return "its weight is read by more than this layer"
    axis, producer = operand_axis(layer.node), _data(layer).producer
    if axis is None or not has_rows(layer.node, weight.numpy()) or not _has_axis(layer.weight, axis):
        return f"{layer.node.op} of this kind is not written as a matrix product"
    if producer is None or _data(layer) is not producer.result:
        return "what it reads is not the first result of a node"
    scheme, parameters = layer.weight.scheme(bits), layer.weight.grid()
    levels = scheme.grid(parameters)
    if not np.array_equal(scheme.fake_quantize(levels, parameters, 0), levels):
        return f"levels of scheme {scheme.name!r} do not map to themselves"
    return None


def _has_axis(weight: FakeQuant, axis: int) -> bool:
    """Return whether ranges lie along the output channels, along blocks, or serve the whole weight."""
    return isinstance(weight.granularity, PerBlock) or weight.granularity.axis in {None, axis}


def _data(layer: _Layer) -> Value:
    return layer.node.operand(0)


def codes_around(quantizer: FakeQuant, weight: Array) -> tuple[Array, Array]:
    """Return the levels below and above each weight at the quantizer's bits, equal outside of the grid.

    Float32, its shape.
    """
    grid, granularity = quantizer.grid(), quantizer.granularity
    levels = quantizer.scheme(grid.bits).grid(grid)
    values, axis = granularity.rows(weight)
    moved = values if len(levels) == 1 else np.moveaxis(values, axis or 0, 0)
    found = []
    for row, own in zip(moved.reshape(len(levels), -1), levels, strict=True):
        place = np.searchsorted(own, row, side="right")
        found.append(np.stack([own[np.maximum(place - 1, 0)], own[np.minimum(place, len(own) - 1)]]))
    sides = np.stack(found, axis=1).astype(np.float32).reshape(2, *moved.shape)
    if len(levels) > 1:
        sides = np.moveaxis(sides, 1, 1 + (axis or 0))
    return granularity.restored(sides[0], weight.shape), granularity.restored(sides[1], weight.shape)


@dataclass
class _Learner:
    """A hook of `TorchModule` that rounds each layer's weight when the layer is reached, and mends its result."""

    network: TorchModule
    module: Module
    layers: list[_Layer]
    wanted: dict[Node, torch.Tensor]
    plan: RoundingProtocol
    context: PassContext
    weights: dict[Node, Array] = field(default_factory=dict)
    _seen: dict[Value, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._by_node = {layer.node: layer for layer in self.layers}
        self._read = {value for layer in self.layers for value in (_data(layer), layer.weight.result)}

    def __call__(self, node: Node, result: Any) -> Any:
        if node.result in self._read:
            self._seen[node.result] = result
        layer = self._by_node.get(node)
        if layer is None:
            return result
        self.context.report(f"adaround: {layer.name}, layer {len(self.weights) + 1} of {len(self.layers)}")
        return self._round(layer, self._seen[_data(layer)], self._seen.pop(layer.weight.result), result)

    def _round(self, layer: _Layer, data: torch.Tensor, nearest: torch.Tensor, result: torch.Tensor) -> Any:
        import torch

        from qir.backends.torch.ops import lowering_of
        from qir.backends.training.adaptive_rounding import RoundingProblem, drawn_inputs, learn_rounding, output_rows

        axis = operand_axis(layer.node)
        tensor = layer.weight_tensor
        if axis is None or tensor is None:
            raise PassError(f"layer {layer.name!r}: is not a matrix product by a constant")
        weight = tensor.numpy()
        lowering = lowering_of(layer.node, self.module.opsets)

        def linear(matrix: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = lowering(layer.node, [data, matrix])  # type: ignore[assignment]
            return made

        shift = result - linear(nearest)
        kernel = tuple(weight.shape[2:])
        inputs = drawn_inputs(layer.node, data, kernel, self.plan.seed)
        wanted = self.wanted.pop(layer.node)
        groups = len(inputs)

        def grouped(array: Array) -> torch.Tensor:
            """Return [groups, outputs, inputs] of an array that has the weight's shape."""
            rows = np.array(np.moveaxis(array, axis, 0), order="C")
            return torch.from_numpy(rows.reshape(groups, len(rows) // groups, -1))

        lower, upper = codes_around(layer.weight, weight)
        problem = RoundingProblem(
            grouped(weight),
            grouped(lower),
            grouped(upper),
            inputs,
            wanted.reshape(groups, -1, wanted.shape[-1]),
            output_rows(shift, kernel).mean(0).reshape(groups, -1, 1),
            self._activation(layer),
        )
        with torch.enable_grad():
            rows = learn_rounding(problem, self.plan)
        shape = np.moveaxis(weight, axis, 0).shape
        made = np.ascontiguousarray(np.moveaxis(rows.numpy().reshape(shape), 0, axis))
        self.weights[layer.node] = made
        return linear(torch.from_numpy(made)) + shift

    def _activation(self, layer: _Layer) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return what runs for free after the layer, the identity where it is something else."""
        from qir.backends.torch.ops import lowering_of
        from qir.backends.torch.weights import torch_tensor

        users = layer.node.result.users
        user = users[0] if len(users) == 1 and not users[0].is_return else None
        if (
            user is None
            or not op_of(user).fuses_into_producer(user)
            or any(v.constant is None for v in user.operands[1:])
        ):
            return lambda x: x
        constants = [None if v is None or v.constant is None else torch_tensor(v.constant) for v in user.inputs[1:]]
        lowering = lowering_of(user, self.module.opsets)
        return lambda x: lowering(user, [x, *constants])  # type: ignore[return-value]
