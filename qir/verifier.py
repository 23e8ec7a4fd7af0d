"""The verifier: a module that breaks an invariant of the IR raises `VerifyError`, which names the invariant.

Two halves. The structure (this file) is checked whole on every call, in one walk:

| invariant | what must hold |
| --- | --- |
| `node-list` | nodes are linked both ways, stand in the graph that lists them, and are as many as the graph counts |
| `owner` | a result knows its node and position; an input or constant knows its graph |
| `constant` | a constant of a graph holds a tensor, and the value's type is the tensor's |
| `use-list` | every operand is listed among its value's uses, and every use is an operand of a node of the module |
| `definition-dominates-use` | a value is defined before it is used, in the same graph or in an enclosing one |
| `unique-name` | values of a graph have names, no two the same; a captured value is not hidden by a nearer one |
| `subgraph-scope` | a subgraph knows the node that holds it and shares the module's clock |
| `output-names` | a graph has as many output names as outputs |
| `function` | functions are filed under their key and never call themselves |

The meaning of each node (`qir.node_rules`) is checked only where something changed since the last success.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NoReturn

from qir.errors import VerifyError
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.node_rules import Scope, check_node, check_operand_pairs
from qir.types import TensorType, UnknownType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qir.constraints import OperandRules


def verify(module: Module, rules: OperandRules | None = None) -> None:
    """Check every invariant of the IR.

    Args:
        module: what is checked; it is not changed.
        rules: with them, every quantizable node's (activation bits, weight bits) must be a legal pair.

    Raises:
        VerifyError: an invariant is broken; the message names the place, the rule, what was found and expected.
    """
    clock = module.clock
    settings = (module.ir_version, tuple(module.opsets.items()), tuple(module.functions))
    since, policy = -1, -1
    if clock.verified is not None and clock.verified[2] == settings:
        since, policy, _ = clock.verified
    _check_functions(module)
    for graph in module.graphs:
        _Structure(module).check(graph)
    for graph, function in ((module.graph, None), *((f.graph, f) for f in module.functions.values())):
        scope = Scope(module, function)
        for node in _changed(graph, since, bits_too=policy != clock.policy_version):
            check_node(node, scope)
    clock.verified = (clock.version, clock.policy_version, settings)
    if rules is not None:
        for node in module.graph.walk():
            check_operand_pairs(node, rules)


def _changed(graph: Graph, since: int, *, bits_too: bool) -> Iterator[Node]:
    """Yield nodes of a graph and its subgraphs, `return` nodes included, that changed after version `since`.

    With `bits_too` fake-quant nodes are among them: writes of bits leave no stamp.
    """
    for node in graph:
        if node.stamp > since or (bits_too and node.is_fake_quant):
            yield node
        if node._attributes:
            for inner in node.subgraphs():
                yield from _changed(inner, since, bits_too=bits_too)
    if graph.return_node.stamp > since:
        yield graph.return_node


def _fail(rule: str, where: object, found: str, expected: str) -> NoReturn:
    raise VerifyError(rule, str(where), found, expected)


class _Structure:
    """One walk over a graph and its subgraphs."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.visible: set[Value | None] = {None}
        self.names: list[dict[str, Value]] = []
        self.nodes: set[Node] = set()
        self.listed = 0
        self.operands = 0

    def check(self, graph: Graph) -> None:
        """Check a graph that no other encloses."""
        defined = self._check_graph(graph)
        if self.listed != self.operands:
            self._name_stale_use(graph)
        self.visible.difference_update(defined)

    def _check_graph(self, graph: Graph) -> list[Value]:
        if graph.clock is not self.module.clock:
            _fail(
                "subgraph-scope", graph, "a clock of its own", "the module's clock: attach graphs to a node or function"
            )
        names: dict[str, Value] = {}
        self.names.append(names)
        defined: list[Value] = []
        for value in chain(graph.inputs, graph.constants):
            self._check_graph_value(graph, value, names)
            defined.append(value)
        self.visible.update(defined)
        previous = None
        count = 0
        for node in graph:
            if node._previous is not previous:
                _fail("node-list", node, f"the node before it is {node._previous}", f"{previous}")
            previous = node
            count += 1
            self._check_operands(graph, node)
            self._check_results(node, names, defined)
        if count != len(graph) or graph._last is not previous:
            _fail(
                "node-list", graph, f"{count} nodes ending in {previous}", f"{len(graph)} nodes ending in {graph._last}"
            )
        if graph.return_node.graph is not graph:
            _fail("node-list", graph.return_node, "a return node of another graph", f"one that stands in {graph}")
        self._check_operands(graph, graph.return_node)
        if len(graph.output_names) != len(graph.outputs):
            _fail("output-names", graph, f"{len(graph.output_names)} output names", f"{len(graph.outputs)}")
        self.names.pop()
        return defined

    def _check_graph_value(self, graph: Graph, value: Value, names: dict[str, Value]) -> None:
        if value.owner is not graph or value.index != -1:
            _fail("owner", value, f"owner {value.owner}, index {value.index}", f"{graph} and index -1")
        if not value._name or names.setdefault(value._name, value) is not value:
            _fail("unique-name", value, f"the name {value.name!r}", f"a name that no other value of {graph} has")
        constant = value._constant
        if constant is None:
            if not value.is_input:
                _fail("constant", value, "no tensor", "every constant of a graph holds a tensor")
        elif value._type is not constant.type and not _describes(value._type, constant.type):
            _fail("constant", value, f"a tensor of type {constant.type}", f"{value._type}, the type of the value")
        self.listed += len(value._uses)

    def _check_operands(self, graph: Graph, node: Node) -> None:
        self.nodes.add(node)
        visible = self.visible
        for index, value in enumerate(node._inputs):
            if value is None:
                continue
            if value not in visible:
                self._name_dominance(graph, node, value)
            if (node, index) not in value._uses:
                _fail(
                    "use-list",
                    node,
                    f"operand {index} %{value.name} does not list this use",
                    "use lists and operands agree",
                )
            if not value._name:
                _fail("unique-name", node, f"operand {index} has no name", "only values that nothing uses are nameless")
            if self.names[-1].get(value._name) is not value:
                self._check_capture(node, value)
            self.operands += 1
        if node._attributes:
            for inner in node.subgraphs():
                if inner.parent is not node:
                    _fail("subgraph-scope", inner, f"parent {inner.parent}", f"the node that holds it, {node}")
                self.visible.difference_update(self._check_graph(inner))

    def _check_capture(self, node: Node, value: Value) -> None:
        for names in reversed(self.names):
            nearest = names.get(value.name)
            if nearest is value:
                return
            if nearest is not None:
                break
        _fail(
            "unique-name",
            node,
            f"%{value.name} is hidden by a nearer value of the same name",
            "names resolve to the nearest",
        )

    def _check_results(self, node: Node, names: dict[str, Value], defined: list[Value]) -> None:
        for index, value in enumerate(node.results):
            if value.owner is not node or value.index != index:
                _fail("owner", value, f"owner {value.owner}, index {value.index}", f"{node} and index {index}")
            if value._name and names.setdefault(value._name, value) is not value:
                _fail("unique-name", node, f"a second value {value.name!r}", "names are unique in a graph")
            self.listed += len(value._uses)
            self.visible.add(value)
            defined.append(value)

    def _name_dominance(self, graph: Graph, node: Node, value: Value) -> NoReturn:
        owner = value.owner
        if owner is None:
            found = f"%{value.name}, which was erased"
        elif owner is graph or (isinstance(owner, Node) and owner.graph is graph):
            found = f"%{value.name}, which is defined later by {owner}"
        else:
            found = f"%{value.name} of {owner}, which does not enclose this node"
        _fail("definition-dominates-use", node, found, "operands are defined before, in this graph or an enclosing one")

    def _name_stale_use(self, graph: Graph) -> NoReturn:
        for value in _all_values(graph):
            for node, index in value._uses:
                if node not in self.nodes or node.input(index) is not value:
                    where = f"operand {index} of {node}"
                    _fail(
                        "use-list",
                        value,
                        f"a use as {where}",
                        "only nodes of the module use its values: erase unused nodes",
                    )
        raise AssertionError("a use that no value lists")


def _all_values(graph: Graph) -> Iterator[Value]:
    yield from graph.values()
    for node in graph:
        for inner in node.subgraphs():
            yield from _all_values(inner)


def _describes(declared: object, actual: TensorType) -> bool:
    """Return whether a declared type fits a tensor: unknown, or equal where it says something."""
    if isinstance(declared, UnknownType):
        return True
    if not isinstance(declared, TensorType) or declared.element != actual.element:
        return False
    if declared.shape is None:
        return True
    shape = actual.shape or ()
    return len(declared.shape) == len(shape) and all(
        not isinstance(d, int) or d == a for d, a in zip(declared.shape, shape, strict=True)
    )


def _check_functions(module: Module) -> None:
    for key, function in module.functions.items():
        if key != function.key:
            _fail("function", function, f"filed under {key}", f"{function.key}")
    if (recursive := module.recursive_function()) is not None:
        function = module.functions[recursive]
        _fail("function", function, f"calls that lead back to {function.name}", "functions do not call themselves")
