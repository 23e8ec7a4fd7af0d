"""A module: a graph with what an ONNX model file holds around it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from qir.attributes import Attribute
from qir.clock import Clock
from qir.cloning import clone_graph
from qir.graph import Graph
from qir.support.collection import no_collection

if TYPE_CHECKING:
    import networkx as nx

FunctionKey = tuple[str, str, str]
"""Domain, name and overload of a model-local function."""

MAIN: FunctionKey = ("", "", "")
"""What stands for the main graph among functions."""


class Function:
    """A model-local function: a graph whose inputs have no types, and attributes with or without defaults."""

    __slots__ = (
        "attribute_names",
        "attributes",
        "doc_string",
        "domain",
        "graph",
        "metadata",
        "name",
        "opaque",
        "opsets",
        "overload",
    )

    def __init__(self, domain: str, name: str, graph: Graph, *, overload: str = "") -> None:
        self.domain = domain
        self.name = name
        self.overload = overload
        self.graph = graph
        self.attribute_names: tuple[str, ...] = ()
        self.attributes: dict[str, Attribute] = {}
        self.opsets: dict[str, int] = {}
        self.doc_string = ""
        self.metadata: dict[str, str] = {}
        self.opaque = b""

    @property
    def key(self) -> FunctionKey:
        """Domain, name and overload."""
        return self.domain, self.name, self.overload

    def clone(self) -> Function:
        """Copy the function; constants are shared."""
        made = Function(self.domain, self.name, clone_graph(self.graph), overload=self.overload)
        made.attribute_names = self.attribute_names
        made.attributes = dict(self.attributes)
        made.opsets = dict(self.opsets)
        made.doc_string = self.doc_string
        made.metadata = dict(self.metadata)
        made.opaque = self.opaque
        return made

    def __repr__(self) -> str:
        return f"Function({self.domain}.{self.name}, {self.graph})"


class Module:
    """A whole network: main graph, functions, operator sets and metadata.

    Attributes:
        graph: main graph.
        functions: model-local functions by (domain, name, overload).
        opsets: version of each operator set ("" = ONNX's own).
        ir_version: ONNX IR version, written on purpose.
        metadata: serialized key/value pairs of the model.
        meta: Python objects; never serialized.
        opaque: protobuf fields of the model that qir does not model, as bytes (so on functions, graphs, nodes,
            values and tensors).
    """

    def __init__(self, graph: Graph, *, opsets: dict[str, int] | None = None, ir_version: int = 10) -> None:
        self.graph = graph
        self.functions: dict[FunctionKey, Function] = {}
        self.opsets = dict(opsets or {"": 21})
        self.ir_version = ir_version
        self.producer_name = ""
        self.producer_version = ""
        self.domain = ""
        self.model_version = 0
        self.doc_string = ""
        self.metadata: dict[str, str] = {}
        self.meta: dict[str, Any] = {}
        self.opaque = b""

    def add_function(self, function: Function) -> None:
        """Add or replace a model-local function; its graph shares the module's clock."""
        self.functions[function.key] = function
        function.graph._share(self.clock)

    @property
    def clock(self) -> Clock:
        """Version counters and names in use."""
        return self.graph.clock

    @property
    def version(self) -> int:
        """Advances with every write except writes of `bits`."""
        return self.clock.version

    @property
    def policy_version(self) -> int:
        """Advances with every write of `bits` on a fake-quant node."""
        return self.clock.policy_version

    @property
    def graphs(self) -> tuple[Graph, ...]:
        """The main graph and the graphs of functions."""
        return (self.graph, *(function.graph for function in self.functions.values()))

    def call_graph(self) -> nx.MultiDiGraph[FunctionKey]:
        """Show who calls whom: an edge for each call, from the function it stands in, or `MAIN`, to the one called."""
        import networkx as nx

        calls: nx.MultiDiGraph[FunctionKey] = nx.MultiDiGraph()
        calls.add_nodes_from((MAIN, *self.functions))
        for key in tuple(calls):
            called = ((node.domain, node.op, node.overload) for node in self._graph_of(key).walk())
            calls.add_edges_from((key, other) for other in called if other in self.functions)
        nx.freeze(calls)
        return calls

    def recursive_function(self) -> FunctionKey | None:
        """Find a function that calls itself, directly or through others, which ONNX forbids; None without one."""
        if not self.functions:
            return None
        import networkx as nx

        calls = self.call_graph()
        rings = [ring for ring in nx.strongly_connected_components(calls) if len(ring) > 1]
        recursive = {*nx.nodes_with_selfloops(calls)}.union(*rings)
        return next((key for key in self.functions if key in recursive), None)

    def called_functions(self) -> set[FunctionKey]:
        """Find the functions that the main graph calls, directly or through others."""
        if not self.functions:
            return set()
        import networkx as nx

        return nx.descendants(self.call_graph(), MAIN)

    def inlined_length(self) -> int:
        """Count the nodes of the main graph once every call is replaced by its body; no function may call itself."""
        import networkx as nx

        calls, lengths = self.call_graph(), dict[FunctionKey, int]()
        for key in reversed(list(nx.topological_sort(calls))):
            own = sum(1 for _ in self._graph_of(key).walk())
            lengths[key] = own + sum(lengths[called] for _, called in calls.out_edges(key))
        return lengths[MAIN]

    def _graph_of(self, key: FunctionKey) -> Graph:
        return self.graph if key == MAIN else self.functions[key].graph

    @no_collection()
    def clone(self) -> Module:
        """Copy the module, with a clock of its own; constants are shared, they are never written into."""
        made = copy.copy(self)
        made.graph = clone_graph(self.graph)
        made.opsets = dict(self.opsets)
        made.metadata = dict(self.metadata)
        made.meta = dict(self.meta)
        made.functions = {}
        for function in self.functions.values():
            made.add_function(function.clone())
        return made

    def __repr__(self) -> str:
        return f"Module({self.graph}, opsets={self.opsets}, ir_version={self.ir_version})"

    def _repr_html_(self) -> str:
        from qir.views.drawing import to_html

        return to_html(self.graph)
