"""The text form of a module: one generic syntax, one node a line, an exact round trip.

    qir 1
    module ir_version 10 opset "" 21
    graph "main" {
      input %x: tensor<[1,3]xfloat32>
      constant %w = dense<tensor<[3,2]xfloat32> [0.5, 1.0, 2.0, 0.0, -1.0, 3.0]>
      %y: tensor<[1,2]xfloat32> = MatMul(%x, %w) name "fc"
      return %y as "out"
    }

`none` is an operand that is left out; a type that is missing is unknown; the type of a fake-quant node's result
follows from its attributes and is not written. `%y: declared ~ type` is a type that inference found where the file
declares less (nothing before `~`: no type at all). Strings are JSON; bytes that are not UTF-8 are `x"hexadecimal"`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from qir.attributes import Attribute, AttributeKind
from qir.errors import QirError
from qir.graph import Graph, Node, Value
from qir.module import Function, Module
from qir.tensor import Tensor
from qir.text.values import annotations_text, bytes_text, float_text, name_text, tensor_text
from qir.types import UnknownType

_PLAIN_OP = re.compile(r"(?:[A-Za-z_][\w\-]*\.)*[A-Za-z_]\w*", re.ASCII)
_PLAIN_ATTRIBUTE = re.compile(r"[A-Za-z_]\w*", re.ASCII)


def print_module(module: Module, constants: Literal["inline", "hash"] = "inline") -> str:
    """Return the text of a module.

    Args:
        module: what is printed; it may break invariants.
        constants: `inline` writes all elements; `hash` writes the SHA-256 of tensors of more than 16 elements, to be
            read with `parse(text, constants=constants_of(module))`.

    Raises:
        QirError: `constants` is neither.
    """
    if constants not in {"inline", "hash"}:
        raise QirError(f"constants={constants!r}: expected 'inline' or 'hash'")
    return _Printer(inline=constants == "inline").module(module)


def constants_of(module: Module) -> dict[str, Tensor]:
    """Return every tensor of a module by its SHA-256, those in attributes and functions included."""
    return {tensor.digest(): tensor for graph in module.graphs for tensor in _tensors(graph)}


def _tensors(graph: Graph) -> Iterator[Tensor]:
    for value in (*graph.inputs, *graph.constants):
        if value.constant is not None:
            yield value.constant
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.kind is AttributeKind.TENSOR and not attribute.reference:
                yield attribute.value
            elif attribute.kind is AttributeKind.TENSORS and not attribute.reference:
                yield from attribute.value
        for inner in node.subgraphs():
            yield from _tensors(inner)


def op_text(node: Node) -> str:
    """`Op` or `domain.Op`, quoted as `"domain"."Op"` where they are not plain."""
    text = f"{node.domain}.{node.op}" if node.domain else node.op
    plain = _PLAIN_OP.fullmatch(text) and "." not in node.op
    return text if plain else f"{json.dumps(node.domain)}.{json.dumps(node.op)}"


class _Printer:
    def __init__(self, *, inline: bool) -> None:
        self.inline = inline
        self.singular: dict[AttributeKind, Callable[[Any, str], str]] = {
            AttributeKind.INT: lambda value, _: str(int(value)),
            AttributeKind.FLOAT: lambda value, _: float_text(float(value)),
            AttributeKind.STRING: lambda value, _: bytes_text(value),
            AttributeKind.TENSOR: lambda value, _: tensor_text(value, inline=inline),
            AttributeKind.GRAPH: self.graph,
            AttributeKind.TYPE: lambda value, _: f"type {value}",
            AttributeKind.SPARSE_TENSOR: lambda value, _: f'sparse x"{value.hex()}"',
        }

    def module(self, module: Module) -> str:
        opsets = "".join(f" opset {json.dumps(d)} {v}" for d, v in module.opsets.items())
        head = f"module ir_version {module.ir_version}{opsets}"
        for label in ("producer_name", "producer_version", "domain"):
            if text := getattr(module, label):
                head += f" {label} {json.dumps(text)}"
        if module.model_version:
            head += f" model_version {module.model_version}"
        parts = ["qir 1", head + annotations_text(module), self.graph(module.graph, "")]
        parts += [self.function(function) for function in module.functions.values()]
        return "\n".join(parts) + "\n"

    def function(self, function: Function) -> str:
        head = f"function {json.dumps(function.domain)} {json.dumps(function.name)}"
        if function.overload:
            head += f" overload {json.dumps(function.overload)}"
        head += "".join(f" opset {json.dumps(d)} {v}" for d, v in function.opsets.items())
        head += "".join(f" attribute {json.dumps(name)}" for name in function.attribute_names)
        if function.attributes:
            head += " defaults" + self.attributes(function.attributes, "")
        return f"{head}{annotations_text(function)}\n{self.graph(function.graph, '')}"

    def graph(self, graph: Graph, indent: str) -> str:
        inner = indent + "  "
        lines = [f"graph {json.dumps(graph.name)}{annotations_text(graph)} {{"]
        lines += [f"{inner}input {self.typed(v)}{self.default(v)}" for v in graph.inputs]
        lines += [f"{inner}constant {self.constant(v)}" for v in graph.constants]
        lines += [inner + self.node(node, inner) for node in graph]
        names = (*graph.output_names, *[None] * len(graph.outputs))
        outputs = ", ".join(map(self.output, graph.outputs, names))
        lines.append(f"{inner}return {outputs}".rstrip() + annotations_text(graph.return_node))
        lines.append(indent + "}")
        return "\n".join(lines)

    def typed(self, value: Value) -> str:
        producer = value.producer
        derived = producer is not None and producer.is_fake_quant
        text = name_text(value.name)
        if value.declared is not None:
            text += ": ~ " if isinstance(value.declared, UnknownType) else f": {value.declared} ~ "
            text += str(value._type)
        elif not derived and not isinstance(value._type, UnknownType):
            text += f": {value._type}"
        return text + annotations_text(value)

    def default(self, value: Value) -> str:
        tensor = value.constant
        return "" if tensor is None else f" = {tensor_text(tensor, inline=self.inline, implied_name=value.name)}"

    def constant(self, value: Value) -> str:
        if value.constant is not None and value.type == value.constant.type:
            return f"{name_text(value.name)}{annotations_text(value)}{self.default(value)}"
        typed = f"{name_text(value.name)}: {value.type}{annotations_text(value)}"
        return typed + self.default(value)

    def node(self, node: Node, indent: str) -> str:
        results = ", ".join([self.typed(value) for value in node.results]) or "()"
        operands = ", ".join(["none" if v is None else name_text(v.name) for v in node.inputs])
        text = f"{results} = {op_text(node)}({operands})"
        if node.attributes:
            text += self.attributes(node.attributes, indent)
        if node.name:
            text += f" name {json.dumps(node.name)}"
        if node.overload:
            text += f" overload {json.dumps(node.overload)}"
        return text + annotations_text(node)

    def output(self, value: Value | None, name: str | None) -> str:
        text = "none" if value is None else name_text(value.name)
        same = name is None or name == ("" if value is None else value.name)
        return text if same else f"{text} as {json.dumps(name)}"

    def attributes(self, attributes: Mapping[str, Attribute], indent: str) -> str:
        return f" {{{', '.join([self.attribute(n, a, indent) for n, a in attributes.items()])}}}"

    def attribute(self, name: str, attribute: Attribute, indent: str) -> str:
        key = name if _PLAIN_ATTRIBUTE.fullmatch(name) else json.dumps(name)
        doc = f" doc {json.dumps(attribute.doc_string)}" if attribute.doc_string else ""
        return f"{key} = {self.attribute_value(attribute, indent)}{doc}"

    def attribute_value(self, attribute: Attribute, indent: str) -> str:
        kind, value = attribute.kind, attribute.value
        if attribute.reference:
            return f"ref {kind.name} {json.dumps(attribute.reference)}"
        one = self.singular.get(kind)
        if one is not None:
            return one(value, indent)
        if kind not in PLURAL or not value:
            return f"empty {kind.name}"
        one = self.singular[PLURAL[kind]]
        return f"[{', '.join([one(item, indent) for item in value])}]"


PLURAL = {
    AttributeKind.INTS: AttributeKind.INT,
    AttributeKind.FLOATS: AttributeKind.FLOAT,
    AttributeKind.STRINGS: AttributeKind.STRING,
    AttributeKind.TENSORS: AttributeKind.TENSOR,
    AttributeKind.GRAPHS: AttributeKind.GRAPH,
    AttributeKind.TYPES: AttributeKind.TYPE,
    AttributeKind.SPARSE_TENSORS: AttributeKind.SPARSE_TENSOR,
}
"""Kinds that hold many values → the kind of one of them."""
