"""Which quantizer's width a value has, and which nodes cost nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qir.backends.costs.layers.layer_shapes import WEIGHT_SUFFIX
from qir.backends.costs.models.base import CostModel
from qir.constants import is_standard
from qir.fake_quant import quantizers
from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.tracing import grid_origin

FLOAT_BITS = 32


class Quantizers:
    """Which quantizer's width a value has: fake-quant nodes, or stand-ins in a network without any."""

    def __init__(self, module: Module, model: CostModel[Any], names: Mapping[Node, str]) -> None:
        graph = module.graph
        self.free: Callable[[Node], bool] = lambda node: is_free(node, model, names[node])
        self.widths = {name: quantizer.widths for name, quantizer in quantizers(graph).items()}
        self.stand_ins: dict[Value, str] = {}
        if self.widths:
            return
        for node in graph:
            for index, suffix in multiplied(node):
                value = node.input(index)
                if value is None:
                    continue
                origin = grid_origin(value)
                constant = is_held(origin)
                name = f"{names[node]}{suffix}" if constant else origin.name
                self.stand_ins.setdefault(origin, name)
                self.widths.setdefault(
                    name, model.target.weight_widths if constant and suffix else model.target.activation_widths
                )

    def of(self, value: Value | None) -> str | None:
        """Return the quantizer on whose grid a value lies."""
        if value is None:
            return None
        origin = grid_origin(value)
        if origin.producer is not None and origin.producer.is_fake_quant:
            return origin.producer.name
        return self.stand_ins.get(origin)

    def of_result(self, value: Value) -> str | None:
        """Return the quantizer on whose grid a result lies, or that puts it there after ops that run for free."""
        found = self.of(value)
        if found is not None:
            return found
        for user in value.users:
            if user.is_fake_quant:
                return user.name
            if not user.is_return and user.results and self.free(user):
                found = self.of_result(user.result)
                if found is not None:
                    return found
        return None


def is_free(node: Node, model: CostModel[Any], name: str) -> bool:
    """Return whether a node costs nothing: views, fake-quant nodes, and what the target fuses into the producer.

    What a model knows by name is not fused.
    """
    if node.is_fake_quant or op_of(node).is_view:
        return True
    source = node.input(0)
    if node.op not in model.target.fused_ops or source is None or source.producer is None:
        return False
    return model.node_cost(name, FLOAT_BITS) is None


def multiplied(node: Node) -> list[tuple[int, str]]:
    """Return operands that a layer multiplies, its data first, and what the names of their quantizers end with."""
    operands, kernel = op_of(node).quantizable(node), op_of(node).float_kernel(node)
    if operands is not None:
        return [(operands.data, ""), (operands.weight, WEIGHT_SUFFIX)]
    if kernel is None or not kernel.products:
        return []
    return [(kernel.products[0][0], ""), *((index, f".{suffix}") for index, (suffix, _) in kernel.weights.items())]


def is_held(value: Value) -> bool:
    """Tell whether the file holds a value: a constant, or the result of a `Constant` node."""
    return value.is_constant or (value.producer is not None and is_standard(value.producer, "Constant"))
