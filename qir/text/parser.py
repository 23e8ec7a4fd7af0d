"""From text to a module: recursive descent over what `qir.text.printer` prints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from qir.attributes import Attribute, AttributeKind
from qir.errors import ParseError, QirError
from qir.graph import Graph, Node, Value
from qir.module import Function, Module
from qir.support.collection import no_collection
from qir.tensor import Tensor
from qir.text.cursor import Cursor
from qir.text.printer import PLURAL
from qir.text.types import read_type
from qir.text.values import NUMBER, read_annotations, read_bytes, read_name, read_number, read_tensor
from qir.types import UnknownType

_OP = re.compile(r"(?:[A-Za-z_][\w\-]*\.)*[A-Za-z_]\w*", re.ASCII)
_KEY = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_KIND = re.compile(r"[A-Z_]+")
_INTS = re.compile(r"\[-?\d+(?:, -?\d+)*\]")
_MANY = {one: many for many, one in PLURAL.items()}
_DEEPEST = 64


@no_collection()
def parse(text: str, constants: Mapping[str, Tensor] | None = None) -> Module:
    """Read the module that a text writes.

    Args:
        text: what `print_module` wrote.
        constants: tensors by SHA-256, for text with hashes; see `qir.text.printer.constants_of`.

    Raises:
        ParseError: the text is wrong (the message holds line and column), or a hash is not in `constants`.
    """
    cursor = Cursor(text)
    try:
        return _Parser(cursor, {} if constants is None else constants).module()
    except ParseError:
        raise
    except (QirError, ValueError, OverflowError) as error:
        line = text.count("\n", 0, cursor.at) + 1
        raise ParseError(f"line {line}: {error}") from error
    except RecursionError:
        line = text.count("\n", 0, cursor.at) + 1
        raise ParseError(f"line {line}: graphs or types nest too deeply") from None


class _Scope:
    """Values by name: those of a graph, then those of the graphs around it."""

    __slots__ = ("depth", "parent", "values")

    def __init__(self, parent: _Scope | None) -> None:
        self.values: dict[str, Value] = {}
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1

    def find(self, name: str) -> Value | None:
        scope: _Scope | None = self
        while scope is not None:
            found = scope.values.get(name)
            if found is not None:
                return found
            scope = scope.parent
        return None


class _Parser:
    def __init__(self, cursor: Cursor, constants: Mapping[str, Tensor]) -> None:
        self.cursor = cursor
        self.constants = constants

    def module(self) -> Module:
        cursor = self.cursor
        cursor.expect("qir")
        version = cursor.integer()
        if version != 1:
            raise ParseError(f"text of version {version}; this version of qir reads version 1")
        cursor.expect("module")
        cursor.expect("ir_version")
        ir_version = cursor.integer()
        opsets = self.opsets()
        fields = {
            name: cursor.string()
            for name in ("producer_name", "producer_version", "domain")
            if cursor.accept_word(name)
        }
        model_version = cursor.integer() if cursor.accept_word("model_version") else 0
        head = Module(Graph())
        read_annotations(cursor, head)
        module = Module(self.graph(None), ir_version=ir_version)
        module.opsets = opsets
        for name, value in fields.items():
            setattr(module, name, value)
        module.model_version = model_version
        module.doc_string, module.metadata, module.opaque = head.doc_string, head.metadata, head.opaque
        while cursor.accept_word("function"):
            module.add_function(self.function())
        if cursor.peek():
            cursor.fail("a function or the end of the text")
        return module

    def opsets(self) -> dict[str, int]:
        found: dict[str, int] = {}
        while self.cursor.accept_word("opset"):
            domain = self.cursor.string()
            found[domain] = self.cursor.integer()
        return found

    def function(self) -> Function:
        cursor = self.cursor
        domain, name = cursor.string(), cursor.string()
        made = Function(domain, name, Graph(), overload=cursor.string() if cursor.accept_word("overload") else "")
        made.opsets = self.opsets()
        names = []
        while cursor.accept_word("attribute"):
            names.append(cursor.string())
        made.attribute_names = tuple(names)
        if cursor.accept_word("defaults"):
            made.attributes = self.attributes(_Scope(None))
        read_annotations(cursor, made)
        made.graph = self.graph(None)
        return made

    def graph(self, outer: _Scope | None) -> Graph:
        cursor = self.cursor
        scope = _Scope(outer)
        if scope.depth > _DEEPEST:
            cursor.fail(f"graphs that nest at most {_DEEPEST} deep")
        if not cursor.accept_word("graph"):
            cursor.fail("a graph")
        graph = Graph(cursor.string())
        read_annotations(cursor, graph)
        cursor.expect("{")
        inputs = []
        while cursor.accept_word("input"):
            inputs.append(self.input(scope))
        graph.add_inputs(inputs)
        while cursor.accept_word("constant"):
            self.constant(graph, scope)
        while cursor.peek() in {"%", "("}:
            graph.insert(self.node(scope))
        if not cursor.accept_word("return"):
            cursor.fail("a node or the return line")
        self.outputs(graph, scope)
        cursor.expect("}")
        return graph

    def input(self, scope: _Scope) -> Value:
        value = self.result(scope)
        if self.cursor.accept("="):
            value.constant = read_tensor(self.cursor, self.constants, value.name)
        return value

    def constant(self, graph: Graph, scope: _Scope) -> None:
        value = Value(read_name(self.cursor))
        declared = read_type(self.cursor) if self.cursor.accept(":") else None
        read_annotations(self.cursor, value)
        tensor = read_tensor(self.cursor, self.constants, value.name) if self.cursor.accept("=") else None
        graph.add_constant(value, tensor)
        if declared is not None:
            value.type = declared
        self.define(scope, value)

    def result(self, scope: _Scope) -> Value:
        """Return a value that is defined: its name, type and annotations."""
        cursor = self.cursor
        name = read_name(cursor)
        value = Value(name)
        if cursor.accept(":"):
            declared = UnknownType() if cursor.peek() == "~" else read_type(cursor)
            inferred = cursor.accept("~")
            value.type = read_type(cursor) if inferred else declared
            value.declared = declared if inferred else None
        read_annotations(cursor, value)
        self.define(scope, value)
        return value

    def define(self, scope: _Scope, value: Value) -> None:
        if value.name:
            if value.name in scope.values:
                self.cursor.fail(f"a name other than {value.name!r}, which is taken")
            scope.values[value.name] = value

    def node(self, scope: _Scope) -> Node:
        cursor = self.cursor
        results: list[Value] = []
        inner = _Scope(scope)  # the results are not visible to the node's own operands
        inner.depth = scope.depth
        if not cursor.accept("()"):
            results.append(self.result(inner))
            while cursor.accept(","):
                results.append(self.result(inner))
        cursor.expect("=")
        domain, op = self.op()
        operands = self.operands(scope)
        attributes = self.attributes(scope) if cursor.peek() == "{" else None
        node = Node(op, operands, results, domain=domain, attributes=attributes)
        if cursor.accept_word("name"):
            node.name = cursor.string()
        if cursor.accept_word("overload"):
            node.overload = cursor.string()
        read_annotations(cursor, node)
        for value in results:
            self.define(scope, value)
        return node

    def op(self) -> tuple[str, str]:
        cursor = self.cursor
        if cursor.peek() == '"':
            domain = cursor.string()
            cursor.expect(".")
            return domain, cursor.string()
        domain, _, op = cursor.need(_OP, "an operator").rpartition(".")
        return domain, op

    def operands(self, scope: _Scope) -> list[Value | None]:
        cursor = self.cursor
        cursor.expect("(")
        found: list[Value | None] = []
        while not cursor.accept(")"):
            if found:
                cursor.expect(",")
            found.append(self.operand(scope))
        return found

    def operand(self, scope: _Scope) -> Value | None:
        cursor = self.cursor
        if cursor.accept_word("none"):
            return None
        at = cursor.at
        name = read_name(cursor)
        value = scope.find(name)
        if value is None:
            cursor.at = at
            cursor.fail(f"a value that is defined before; {name!r} is not")
        return value

    def outputs(self, graph: Graph, scope: _Scope) -> None:
        cursor = self.cursor
        values: list[Value | None] = []
        names: list[str] = []
        while cursor.peek() == "%" or cursor.text.startswith("none", cursor.at):
            value = self.operand(scope)
            values.append(value)
            named = cursor.accept_word("as")
            names.append(cursor.string() if named else "" if value is None else value.name)
            if not cursor.accept(","):
                break
        graph.set_outputs(values, names)
        read_annotations(cursor, graph.return_node)

    def attributes(self, scope: _Scope) -> dict[str, Attribute]:
        cursor = self.cursor
        cursor.expect("{")
        found: dict[str, Attribute] = {}
        while not cursor.accept("}"):
            if found:
                cursor.expect(",")
            name = cursor.string() if cursor.peek() == '"' else cursor.need(_KEY, "the name of an attribute")
            cursor.expect("=")
            found[name] = self.attribute(scope)
        return found

    def attribute(self, scope: _Scope) -> Attribute:
        cursor = self.cursor
        reference = ""
        value: Any = None
        if cursor.accept_word("ref"):
            kind = self.kind()
            reference = cursor.string()
        elif cursor.accept_word("empty"):
            kind = self.kind()
            value = () if kind in PLURAL else None
        elif cursor.peek() == "[":
            kind, value = self.list(scope)
        else:
            kind, value = self.one(scope)
        doc = cursor.string() if cursor.accept_word("doc") else ""
        return Attribute(kind, value, doc, reference)

    def kind(self) -> AttributeKind:
        name = self.cursor.need(_KIND, "a kind of attribute")
        if name not in AttributeKind.__members__:
            raise ParseError(
                f"{name} is not a kind of attribute; expected one of {', '.join(AttributeKind.__members__)}"
            )
        return AttributeKind[name]

    def list(self, scope: _Scope) -> tuple[AttributeKind, tuple[Any, ...]]:
        cursor = self.cursor
        if ints := cursor.match(_INTS):
            return AttributeKind.INTS, tuple(map(int, ints[1:-1].split(",")))
        cursor.expect("[")
        items = [self.one(scope)]
        while cursor.accept(","):
            items.append(self.one(scope))
        cursor.expect("]")
        kinds = {kind for kind, _ in items}
        if len(kinds) > 1:
            cursor.fail("a list of values of one kind")
        return _MANY[kinds.pop()], tuple(value for _, value in items)

    def one(self, scope: _Scope) -> tuple[AttributeKind, Any]:
        cursor = self.cursor
        start = cursor.peek()
        if start == '"' or cursor.text.startswith('x"', cursor.at):
            return AttributeKind.STRING, read_bytes(cursor)
        if (number := cursor.match(NUMBER)) is not None:
            found = read_number(number)
            return (AttributeKind.INT if isinstance(found, int) else AttributeKind.FLOAT), found
        if cursor.text.startswith("dense<", cursor.at):
            return AttributeKind.TENSOR, read_tensor(cursor, self.constants)
        if cursor.accept_word("type"):
            return AttributeKind.TYPE, read_type(cursor)
        if cursor.accept_word("sparse"):
            return AttributeKind.SPARSE_TENSOR, read_bytes(cursor)
        return AttributeKind.GRAPH, self.graph(scope)
