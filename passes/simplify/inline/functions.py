"""The body of a model-local function, in place of every call."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from qir.attributes import Attribute
from qir.errors import PassError
from qir.graph import Graph, Node
from qir.module import Function, FunctionKey, Module
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.simplify.infer_types import InferTypes
from qir.passes.simplify.inline.inlining import inline


@dataclass(frozen=True)
class InlineFunctions(Pass):
    """Replace every call of a model-local function by the function's nodes, and drop functions that nothing calls.

    Attributes that refer to the function's parameters get the call's values, or the defaults. Calls of functions whose
    operator sets have other versions than the module's stay: `upgrade-opset` makes them equal. Verified IR in, verified
    IR out.

    Attributes:
        largest: nodes that may be made; a few functions that call each other can stand for 2^30.
    """

    name: ClassVar[str] = "inline-functions"
    largest: int = 1 << 17

    def run(self, module: Module, context: PassContext) -> bool:
        """Inline; True when a call was replaced.

        Raises:
            PassError: a function calls itself, or the network would become too large.
        """
        if (recursive := module.recursive_function()) is not None:
            raise PassError(f"inline-functions: {recursive} calls itself; ONNX forbids that")
        if module.functions and (length := module.inlined_length()) > self.largest:
            raise PassError(
                f"inline-functions: functions call each other: {_count(length)} nodes would be made, expected at most "
                f"{self.largest:,}: give inline-functions{{largest=…}} for networks that are meant to be so large"
            )
        if not _inline_all(module):
            return False
        called = module.called_functions()
        module.functions = {key: function for key, function in module.functions.items() if key in called}
        context.run(InferTypes(), module)
        return True


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**15 else "10^15 or more"


def _inline_all(module: Module) -> bool:
    """Replace calls, then those in what took their place; True when there was one."""
    work = deque(node for node in module.graph.walk() if _key(node) in module.functions)
    changed = False
    while work:
        node = work.popleft()
        if not _fits(module, _key(node)):
            continue
        made = _inline(module, node, module.functions[_key(node)])
        work.extend(inner for inner in _walk(made) if _key(inner) in module.functions)
        changed = True
    return changed


def _walk(nodes: Iterable[Node]) -> Iterator[Node]:
    """Yield the nodes and those of their subgraphs."""
    for node in nodes:
        yield node
        for graph in node.subgraphs():
            yield from graph.walk()


def _key(node: Node) -> FunctionKey:
    return node.domain, node.op, node.overload


def _fits(module: Module, key: FunctionKey) -> bool:
    """Return whether a key is that of a function that the module's operator sets can hold."""
    function = module.functions.get(key)
    return function is not None and all(module.opsets.get(d, v) == v for d, v in function.opsets.items())


def _inline(module: Module, node: Node, function: Function) -> list[Node]:
    module.opsets.update(function.opsets)
    inputs = function.graph.inputs
    operands = (*node.inputs, *(None,) * (len(inputs) - len(node.inputs)))
    attributes = {**function.attributes, **node.attributes}
    nodes = inline(node, function.graph, dict(zip(inputs, operands, strict=True)))
    for made in nodes:
        made.name = f"{node.name}.{made.name or made.op}" if node.name else made.name
        _bind(made, attributes)
    return nodes


def _bind(node: Node, attributes: Mapping[str, Attribute]) -> None:
    """Give attributes that refer to parameters of the function their values; those without a value are left out."""
    for name, attribute in list(node.attributes.items()):
        if attribute.reference:
            given = attributes.get(attribute.reference)
            node.set_attribute(name, None if given is None else replace(given, reference=""))
    for graph in node.subgraphs():
        _bind_all(graph, attributes)


def _bind_all(graph: Graph, attributes: Mapping[str, Attribute]) -> None:
    for node in graph:
        _bind(node, attributes)
