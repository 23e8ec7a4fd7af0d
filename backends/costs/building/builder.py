"""Builds the cost table of a network: which nodes cost, at which quantizers' widths, and what lives when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qir.backends.costs.building.held import held_tensors, held_weights, is_integer
from qir.backends.costs.building.widths import FLOAT_BITS, Quantizers, is_free, is_held
from qir.backends.costs.layers.cost import Cost
from qir.backends.costs.layers.layer_shapes import (
    LayerProduct,
    elements_of,
    layer_names,
    layer_products,
)
from qir.backends.costs.layers.open_sizes import shape_text, taken_sizes, with_known_sizes
from qir.backends.costs.models.base import CostModel
from qir.backends.costs.tables.rows import CostRow, NetworkFacts
from qir.backends.costs.tables.table import CostTable
from qir.backends.costs.target import TargetLike, as_target
from qir.errors import TargetError
from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.ops.known_integers import known_integers


def cost_table(module: Module, target: TargetLike, *, batch: int = 1) -> CostTable:
    """Return the cost of every node of a module's main graph at every width.

    Without fake-quant nodes every layer's data and weight count as quantizers of their own, named after the value and
    `<node>.weight`, with the target's widths.

    Args:
        module: the network.
        target: the hardware: a target, the name of one, or its file.
        batch: size of an unknown first dimension of the inputs. Other open sizes are those of the samples that the
            network was calibrated with, where there were any.

    Raises:
        TargetError: there is no such target, a delay table misses a layer, or the network does not take these sizes.
    """
    if batch < 1:
        raise TargetError(f"cost table: batch {batch}; expected at least 1")
    model = as_target(target).cost_model()
    builder = _Builder(with_known_sizes(module, batch=batch), model, _missing_sizes(module, batch))
    model.prepare(*builder.names())
    rows = builder.rows()
    builder.note_floats(rows)
    builder.note_activations(rows)
    tensors, unsized = held_tensors(builder.steps, builder.last_use, builder.quantizers)
    facts = NetworkFacts(
        builder.predecessors,
        tensors,
        held_weights(builder.module.graph, builder.quantizers),
        tuple(builder.notes),
        unsized,
        taken_sizes(module, batch),
    )
    return CostTable(rows, builder.quantizers.widths, model.target.name, facts)


def _missing_sizes(module: Module, batch: int) -> str:
    """Return what makes open sizes known: the inputs' shapes, where they are open, and how they are given."""
    missing = {
        name: shape
        for name, shape in taken_sizes(module, batch).items()
        if not all(isinstance(size, int) for size in shape)
    }
    if not missing:
        return "its size follows from the values of tensors, or from an op that is not known: register the op"
    shell = " ".join(f"--shape {name}={shape_text(shape)}" for name, shape in missing.items())
    fixed = ",".join(f"{name}:{shape_text(shape, 'x')}" for name, shape in missing.items())
    return (
        f"its size is open: give the shape of {', '.join(missing)}: qir cost {shell}, calibrate with data, or run "
        f"freeze-inputs{{shapes=[{fixed}]}},infer-types"
    )


@dataclass
class _Builder:
    module: Module
    model: CostModel[Any]
    missing_sizes: str
    notes: list[str] = field(default_factory=list)
    predecessors: dict[int, frozenset[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.labels = layer_names(self.module.graph)
        self.quantizers = Quantizers(self.module, self.model, self.labels)
        self.computed: set[Value] = set()
        self._find_computed()
        self.stored: dict[Value, Value] = {}
        self.steps: dict[Value, int] = {}
        self.last_use: dict[Value, int] = {}
        self.count = 0

    def rows(self) -> list[CostRow]:
        """Cost terms of all nodes in order; fills `predecessors` and liveness on the way."""
        rows: list[CostRow] = []
        for value in self.module.graph.inputs:
            self.steps[value] = 0
        for node in self.module.graph:
            sources = [value for value in node.operands if not self._is_constant(value)]
            if not sources or (node.results and all(map(self._is_constant, node.results))):
                continue
            if is_free(node, self.model, self.labels[node]):
                for result in node.results:
                    self.stored[result] = self._root(sources[0])
                continue
            self._record(node, sources)
            rows += self._terms(node)
            self.count += 1
        for output in self.module.graph.outputs:
            if output is not None:
                self.last_use[self._root(output)] = self.count
        return rows

    def note_floats(self, rows: list[CostRow]) -> None:
        """Say which nodes stream tensors without a quantizer."""
        floats = [row for row in rows if row.activation is None and row.part != "product" and _moves(row)]
        names = list(dict.fromkeys(row.name for row in floats))
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            self.notes.append(f"tensors without a quantizer count {FLOAT_BITS} bits an element: {shown}")

    def note_activations(self, rows: list[CostRow]) -> None:
        """Say that activations after layers are charged, where the target does not say whether it fuses them."""
        target = self.model.target
        if "fused_ops" in target.model_fields_set:
            return
        charged = {row.op for row in rows if row.part != "product" and _moves(row)}
        ops = sorted({node.op for node in self.module.graph if node.op in charged and op_of(node).is_activation})
        if ops:
            self.notes.append(
                f"target {target.name!r} names no fused_ops: {', '.join(ops)} pass through the memory once more; give "
                '"fused_ops", or [] if that is so'
            )

    def names(self) -> tuple[list[str], list[str]]:
        """Return names of the layers of multiply-accumulates, in order, and of all other nodes."""
        layers = [node for node in self.module.graph if self._is_layer(node)]
        others = {self.labels[node] for node in self.module.graph if node.results} - {*map(self.labels.get, layers)}
        return [self.labels[node] for node in layers], sorted(others)

    def _is_layer(self, node: Node) -> bool:
        return op_of(node).is_expensive and not all(map(self._is_constant, node.operands))

    def _is_constant(self, value: Value) -> bool:
        """Return whether a value is a constant, computed from constants only, or follows from known sizes."""
        return value.is_constant if value.producer is None else value in self.computed

    def _find_computed(self) -> None:
        for node in self.module.graph:
            from_constants = bool(node.operands) and all(map(self._is_constant, node.operands))
            for result in node.results:
                if from_constants or is_held(result) or known_integers(result) is not None:
                    self.computed.add(result)

    def _root(self, value: Value) -> Value:
        return self.stored.get(value, value)

    def _record(self, node: Node, sources: list[Value]) -> None:
        roots = {self._root(value) for value in sources}
        self.predecessors[self.count] = frozenset(
            self.steps[root] for root in roots if root in self.steps and root.producer is not None
        )
        for root in roots:
            self.last_use[root] = self.count
        for result in node.results:
            self.steps[result] = self.count

    def _terms(self, node: Node) -> list[CostRow]:
        facts = op_of(node)
        support = self.model.target.ops.get(node.op)
        if support is not None and not support.supported:
            reason = f"target {self.model.target.name!r} cannot run {node.op}"
            self.notes.append(f"{self.labels[node]}: {reason}")
            return self._unknown(node, reason) if facts.is_expensive else [self._opaque(node, reason)]
        if facts.is_expensive:
            return self._layer(node)
        known = self._named(node)
        if known is not None:
            return [known]
        if facts.has_subgraphs:
            return [self._opaque(node, f"what runs inside of {node.op} is not costed (inline-branches)")]
        if not facts.is_known:
            return [self._opaque(node, f"the op {node.op} is not known: register it")]
        return self._streams(node)

    def _named(self, node: Node) -> CostRow | None:
        """Return the term of a node that the model knows by name."""
        quantizer = next((found for value in node.operands if (found := self.quantizers.of(value)) is not None), None)
        widths = (FLOAT_BITS,) if quantizer is None else self.quantizers.widths[quantizer]
        costs = [self.model.node_cost(self.labels[node], bits) for bits in widths]
        if None in costs:
            return None
        cells = tuple((cost,) for cost in costs)
        return CostRow(
            self.labels[node], node.op, node.name, quantizer, None, widths, (0,), cells, part="operand", step=self.count
        )

    def _opaque(self, node: Node, reason: str) -> CostRow:
        """Return the term of a node whose inside is not known.

        No width is known to change it, and it may hold products.
        """
        return self._without_cost(node, None, None, "product", reason)

    def _unknown(self, node: Node, reason: str) -> list[CostRow]:
        """Return terms of unknown cost at the quantizers of a node's operands and results."""
        if op_of(node).is_expensive:
            operands = [(node.input(data), node.input(weight)) for data, weight in _products(node)] or [(None, None)]
            return [
                self._without_cost(node, self.quantizers.of(data), self.quantizers.of(weight), "product", reason)
                for data, weight in operands
            ]
        read = {self.quantizers.of(value) for value in node.operands}
        written = {self.quantizers.of_result(value) for value in node.results}
        found: list[str | None] = [*sorted(name for name in read | written if name is not None)]
        return [self._without_cost(node, name, None, "operand", reason) for name in found or [None]]

    def _without_cost(self, node: Node, activation: str | None, weight: str | None, part: str, reason: str) -> CostRow:
        first, second = (
            (filler,) if quantizer is None else self.quantizers.widths[quantizer]
            for quantizer, filler in ((activation, FLOAT_BITS), (weight, 0))
        )
        costs = ((None,) * len(second),) * len(first)
        return CostRow(
            self.labels[node],
            node.op,
            node.name,
            activation,
            weight,
            first,
            second,
            costs,
            False,
            part,
            self.count,
            reason,
        )

    def _layer(self, node: Node) -> list[CostRow]:
        name, products = self.labels[node], layer_products(node, None)
        if not products:
            return self._unknown(node, self.missing_sizes)
        if not self.model.knows(name):
            return self._unknown(node, f"target {self.model.target.name!r} does not know this layer")
        rows = [self._product(node, name, product) for product in products]
        if len(products) > 1:
            self.notes.append(f"{name}: its recurrent weights are fetched at every time step")
        if any(row.activation is None or row.weight is None for row in rows):
            widest = max(self.model.target.operand_rules().legal_pairs(node.op))
            if widest != (FLOAT_BITS, FLOAT_BITS):
                self.notes.append(
                    f"{name}: a float operand, costed at the target's widest, {widest[0]}/{widest[1]} bits"
                )
        for result in (value for value in node.results if value.name):
            rows += self._written(node, result, name)
        return rows

    def _product(self, node: Node, name: str, product: LayerProduct) -> CostRow:
        """Return a product's cost at the widths of its operands; a state without a quantizer has its input's width."""
        rules = self.model.target.operand_rules()
        widest = max(rules.legal_pairs(node.op))
        data, weight = (
            None if index is None else self.quantizers.of(node.input(index)) for index in (product.data, product.weight)
        )
        if data is None and product.share < 1:
            data = self.quantizers.of(node.input(0))
        a_widths = (widest[0],) if data is None else self.quantizers.widths[data]
        w_widths = (widest[1],) if weight is None else self.quantizers.widths[weight]

        def cost(a: int, w: int) -> Cost | None:
            try:
                return self.model.named_cost(name, product, w, a) if rules.allows(a, w, node.op) else None
            except TargetError as error:
                raise TargetError(f"node {name!r}: {error}") from error

        costs = tuple(tuple(cost(a, w) for w in w_widths) for a in a_widths)
        return CostRow(
            name, node.op, node.name, data, weight, a_widths, w_widths, costs, part="product", step=self.count
        )

    def _written(self, node: Node, value: Value, name: str) -> list[CostRow]:
        """Return the term of writing a layer's result, where the model charges it."""
        elements = elements_of(value, None)
        if elements is None or not self.model.output_cost(1, 8).cycles:
            return []
        quantizer = self.quantizers.of_result(value)
        widths = (self.model.target.accumulator_bits,) if quantizer is None else self.quantizers.widths[quantizer]
        costs = tuple((self.model.output_cost(elements, bits),) for bits in widths)
        return [CostRow(name, node.op, node.name, quantizer, None, widths, (0,), costs, part="result", step=self.count)]

    def _streams(self, node: Node) -> list[CostRow]:
        """Element-wise, pooling and copying ops: what they read and write passes through the outermost memory.

        Copying ops read no more than they write: an embedding its rows, not the whole table.
        """
        read = [(value, self.quantizers.of(value), "operand") for value in dict.fromkeys(node.operands)]
        written = [(value, self.quantizers.of_result(value), "result") for value in node.results if value.name]
        if all(is_integer(value) for value in node.results):
            read = []
        most = elements_of(node.results[0], None) if op_of(node).is_movement else None
        rows = []
        for value, quantizer, part in (*read, *written):
            elements = elements_of(value, None)
            if elements is None:
                return self._unknown(node, self.missing_sizes)
            elements = elements if most is None or part == "result" else min(elements, most)
            widths = (FLOAT_BITS,) if quantizer is None else self.quantizers.widths[quantizer]
            costs = tuple((self.model.stream_cost(elements, bits),) for bits in widths)
            rows.append(
                CostRow(
                    self.labels[node],
                    node.op,
                    node.name,
                    quantizer,
                    None,
                    widths,
                    (0,),
                    costs,
                    part=part,
                    step=self.count,
                )
            )
        return rows


def _products(node: Node) -> list[tuple[int, int]]:
    """Return (data, weight) operands of a layer's products."""
    operands, kernel = op_of(node).quantizable(node), op_of(node).float_kernel(node)
    if kernel is not None and kernel.products:
        return list(kernel.products)
    return [] if operands is None else [(operands.data, operands.weight)]


def _moves(row: CostRow) -> bool:
    """Return whether the term charges traffic."""
    return any(cost is not None and cost.bytes_moved for line in row.costs for cost in line)
