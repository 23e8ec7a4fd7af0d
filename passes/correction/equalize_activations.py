"""Equalization of activation ranges against weight ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qir.errors import PassError
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.passes.analysis.affine import Affine, Reject, Vector, channel_vector
from qir.passes.analysis.constants import array_of, frozen, is_standard, set_constant
from qir.passes.analysis.layers import layer_at, layer_producing
from qir.passes.analysis.linear_layer import PREACTIVATION, LinearLayer
from qir.passes.correction.equalize_weights import is_homogeneous, layer_of
from qir.passes.infrastructure.contract import Pass, PassContext


@dataclass(frozen=True)
class EqualizeActivations(Pass):
    """Move the ranges of activation channels into the weights that take them, without changing the network's outputs.

    For a value that only linear layers take, channel i is divided by s_i = a_i^alpha / w_i^(1 - alpha), a being the
    largest activation on the calibration data and w the largest weight, and the layers' input channel i multiplied by
    it (Xiao et al., 2023, "SmoothQuant", equation 4). The division is taken over by the layer, LayerNormalization or
    per-channel Mul that produces the value, seen through positively homogeneous functions; where nothing can take it,
    `insert` decides. alpha = 1 makes all activation channels equally wide, alpha = 0 all weight channels.

    `context.reports["equalize-activations"]` tells for every value that was left alone why.

    Attributes:
        alpha: how much of the activations' range goes to the weights, 0 to 1.
        insert: where nothing can take the division, insert a Mul; else leave the value alone.
    """

    name: ClassVar[str] = "equalize-activations"
    alpha: float = 0.5
    insert: bool = False

    def run(self, module: Module, context: PassContext) -> bool:
        """Equalize the main graph; needs `calibration_data`. Raises `PassError` for an alpha outside 0 to 1."""
        from qir.passes.calibration.activation_statistics import channel_magnitudes

        if not 0.0 <= self.alpha <= 1.0:
            raise PassError(f"equalize-activations: alpha is {self.alpha}; expected 0 to 1")
        left: dict[str, str] = {}
        context.reports[self.name] = left
        sites = _sites(module.graph, left)
        if not sites:
            return False
        wanted = [(value, layers[0].axis) for value, layers in sites.items()]
        magnitudes = channel_magnitudes(module, wanted, context.require("calibration_data"))
        changed = False
        for value, layers in sites.items():
            scale = self._scale(magnitudes[value], [layer_of(layer.node) for layer in layers])
            reason = self._equalize(value, layers, scale)
            if reason:
                left[value.name] = reason
            changed |= not reason
        return changed

    def _scale(self, activation: Vector, layers: list[LinearLayer]) -> Vector:
        weight = np.max([layer.input_magnitudes() for layer in layers], axis=0)
        alive = (activation > 0) & (weight > 0)
        scale: Vector = np.ones_like(activation)
        scale[alive] = activation[alive] ** self.alpha / weight[alive] ** (1.0 - self.alpha)
        return scale

    def _equalize(self, value: Value, layers: list[LinearLayer], scale: Vector) -> str:
        edits = [layer_of(layer.node).before(Affine(scale, np.zeros_like(scale))) for layer in layers]
        for edit in edits:
            if isinstance(edit, Reject):
                return edit.reason
        reason = divide(value, scale, layers[0].axis)
        if reason:
            if not self.insert:
                return reason
            _insert_division(value, scale, layers)
        for layer in layers:
            edit = layer_of(layer.node).before(Affine(scale, np.zeros_like(scale)))
            if isinstance(edit, Reject):
                raise PassError(edit.reason)
            edit.apply()
        return ""


def _sites(graph: Graph, left: dict[str, str]) -> dict[Value, list[LinearLayer]]:
    """Return values that only linear layers take as data, with these layers."""
    found: dict[Value, list[LinearLayer]] = {}
    for node in graph:
        layer = layer_at(node)
        value = node.input(0)
        if isinstance(layer, Reject) or value is None or value in found or value.name in left:
            continue
        layers = _takers(value)
        if isinstance(layers, Reject):
            left[value.name] = layers.reason
        else:
            found[value] = layers
    return found


def _takers(value: Value) -> list[LinearLayer] | Reject:
    layers = []
    for use in value.uses:
        layer = layer_at(use.node)
        if isinstance(layer, Reject) or use.index != 0:
            return Reject(f"it also goes to {use.node.op} {use.node.name!r}")
        layers.append(layer)
    shapes = {(layer.axis, layer.in_channels) for layer in layers}
    return layers if len(shapes) == 1 else Reject("its users see other channels")


def divide(value: Value, scale: Vector, axis: int) -> str:
    """Let the node that produces `value` divide its channels by `scale`; why it cannot, or an empty text.

    Args:
        value: every user of it must expect the division.
        scale: positive, float64 [channels].
        axis: channel axis of `value`, counted from the end.
    """
    node = value.producer
    if node is None:
        return "it is a graph input"
    if is_homogeneous(node, axis) and node.input(0) is not None:
        source = node.operands[0]
        if len(source.uses) != 1:
            return f"its source {source.name!r} is used more than once"
        return divide(source, scale, axis)
    inverse = Affine(1.0 / scale, np.zeros_like(scale))
    layer = layer_producing(value)
    if isinstance(layer, LinearLayer):
        edit = layer.after(inverse) if layer.axis == axis else Reject("its channels lie on another axis")
        if isinstance(edit, Reject):
            return edit.reason
        edit.apply()
        known = layer.node.meta.get(PREACTIVATION)
        if known is not None:
            layer.node.meta[PREACTIVATION] = (known[0] / scale, known[1] / scale)
        return ""
    return _divide_parameters(node, inverse.scale, axis)


def _divide_parameters(node: Node, factor: Vector, axis: int) -> str:
    """LayerNormalization over the channels, or Mul by one constant a channel with an optional Add after it."""
    if is_standard(node, "LayerNormalization") and axis == -1 and node.attribute("axis", -1) == -1:
        return _scale_operands(node, (1, 2), factor, axis)
    if is_standard(node, "Add"):
        return _divide_add(node, factor, axis)
    if is_standard(node, "Mul"):
        for index in (0, 1):
            if array_of(node.input(index)) is not None:
                return _scale_operands(node, (index,), factor, axis)
    return f"{node.op} {node.name!r} cannot take a division per channel"


def _divide_add(node: Node, factor: Vector, axis: int) -> str:
    for index in (0, 1):
        other = node.input(1 - index)
        if array_of(node.input(index)) is None or other is None:
            continue
        if len(other.uses) != 1:
            return f"its source {other.name!r} is used more than once"
        constant = array_of(node.input(index))
        if constant is None or channel_vector(constant, axis, len(factor)) is None:
            return "the constant added before it does not vary along the channels only"
        reason = divide(other, 1.0 / factor, axis)
        return reason or _scale_operands(node, (index,), factor, axis)
    return f"{node.op} {node.name!r} cannot take a division per channel"


def _scale_operands(node: Node, indices: tuple[int, ...], factor: Vector, axis: int) -> str:
    made = []
    for index in indices:
        value = node.input(index)
        if value is None:
            continue
        constant = array_of(value)
        vector = None if constant is None else channel_vector(constant, axis, len(factor))
        if constant is None or vector is None:
            return f"operand {index} of {node.op} {node.name!r} is not one constant a channel"
        scaled = (vector * factor).reshape(-1, *(1,) * (-axis - 1))
        made.append((index, scaled.astype(constant.dtype), value.name))
    for index, array, name in made:
        set_constant(node, index, array, name)
    return ""


def _insert_division(value: Value, scale: Vector, layers: list[LinearLayer]) -> None:
    graph = layers[0].node.scope
    shape = (len(scale), *(1,) * (-layers[0].axis - 1))
    weight = layers[0].weight
    constant = graph.add_constant(f"{value.name}.equalizer", frozen((1.0 / scale).reshape(shape).astype(weight.dtype)))
    first = min((layer.node for layer in layers), key=list(graph).index)
    node = Node("Mul", (value, constant), name=graph.clock.unique_name(f"{value.name}.equalize"))
    node.result.type = value.type
    graph.insert(node, before=first)
    for layer in layers:
        layer.node.set_input(0, node.result)
