"""Building of short chains of nodes, named after what they are for."""

from __future__ import annotations

from dataclasses import dataclass

from qir.attributes import Attribute
from qir.graph import Graph, Node, Value
from qir.tensor import Array, Tensor
from qir.types import DType, TensorType, Type, tensor_type


@dataclass(frozen=True)
class Chain:
    """Nodes in front of a place in a graph.

    Attributes:
        graph: the graph.
        before: the node in front of which they stand.
        name: what they are for; names of nodes and values begin with it.
    """

    graph: Graph
    before: Node
    name: str

    def constant(self, label: str, array: Array, dtype: DType | None = None) -> Value:
        """Return a constant of this chain."""
        return self.graph.add_constant(f"{self.name}.{label}", Tensor.of(array, dtype=dtype))

    def shared(self, name: str, array: Array) -> Value:
        """Return a constant that all chains of the graph share under its full name."""
        for value in self.graph.constants:
            if value.name == name:
                return value
        return self.graph.add_constant(name, Tensor.of(array))

    def node(
        self,
        op: str,
        inputs: tuple[Value | None, ...],
        label: str,
        like: Type | tuple[int, ...],
        dtype: DType = DType.FLOAT32,
        result: str = "",
        **attributes: Attribute | int | str,
    ) -> Value:
        """Return the result of a new node.

        Args:
            op: op type.
            inputs: operands.
            label: what it computes; the node is called after it.
            like: its shape, or a type of the same shape.
            dtype: its element type.
            result: name of the value; by default the node's with `.value`.
            attributes: of the node.
        """
        name, clock = f"{self.name}.{label}", self.graph.clock
        result = result or f"{name}.value"
        if {name, result} & clock.names:  # a second chain for the same thing, as for two layers with one weight
            name, result = clock.unique_name(name), clock.unique_name(result)
        made = Node(op, inputs, (result,), name=name, attributes=attributes)
        self.graph.insert(made, before=self.before)
        made.result.type = tensor_type(dtype, like) if isinstance(like, tuple) else of_element(like, dtype)
        return made.result


def of_element(type: Type, dtype: DType) -> Type:  # noqa: A002
    """Return a type with another element type; unknown stays unknown."""
    return type.with_element(dtype) if isinstance(type, TensorType) else type
