"""Insertion of fake-quant nodes, in three placements.

`deployable` (default): a quantizer on the data and weight operand of every expensive node, hoisted to the op that
computes the value so that kernels fuse; on both operands and the result of Add and Concat; on operands of average
pooling; and on the output of the last expensive node at 8 bits (no decision). Every quantizer of the exported file is
there before calibration.
`qag`: AutoQNN's quantizing-vertex insertion (Gong et al., 2022, Algorithm 1): one on every edge into an expensive
vertex.
`outputs`: on the weight and the output of each layer, and on the network's inputs (Wang et al., 2024, section 3.3.2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from qir.errors import QirError
from qir.fake_quant import make_fake_quant
from qir.graph import Graph, Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.manager import Pass, PassContext
from qir.passes.propagate_constraints import FIXED
from qir.tracing import grid_origin
from qir.types import TensorType

PLACEMENTS = ("deployable", "qag", "outputs")


@dataclass(frozen=True)
class InsertFakeQuant(Pass):
    """Insert fake-quant nodes; the network computes the same until they are calibrated.

    Options:
        placement: `deployable`, `qag` or `outputs`.
        weight_widths, activation_widths: candidate widths, `2|4|8`; by default the target's, without target 1 to 8.
        per_channel: weights have one range per output channel.
        first_last: width that the first and last layer are kept at, 0 = they are decisions like the others.
        input_widths: widths of quantizers on the network's inputs, `8` by default; `all` makes them decisions.
        exclude: regular expression of node names that stay float.
        keep: rules `pattern:width` that pin quantizers (no decisions then); the pattern is a regular expression
            found in the quantizer's name, or an operator whose data and weight are pinned. Later rules win.
    """

    name: ClassVar[str] = "insert-fake-quant"
    placement: str = "deployable"
    weight_widths: str = ""
    activation_widths: str = ""
    per_channel: bool = True
    first_last: int = 0
    input_widths: str = "8"
    exclude: str = ""
    keep: tuple[str, ...] = ()

    def run(self, module: Module, context: PassContext) -> bool:
        """Insert the quantizers; raises `QirError` when nothing can be quantized or an option is wrong."""
        if self.placement not in PLACEMENTS:
            raise QirError(
                f"insert-fake-quant: placement {self.placement!r} is unknown; expected one of {', '.join(PLACEMENTS)}"
            )
        rules = None if context.target is None else context.target.operand_rules()
        weights = _widths(self.weight_widths, rules.weight_widths if rules else range(1, 9))
        activations = _widths(self.activation_widths, rules.activation_widths if rules else range(1, 9))
        inserter = _Inserter(module.graph, self, weights, activations)
        inserter.run()
        return True


def _widths(text: str, default: Iterable[int]) -> tuple[int, ...]:
    if not text:
        return tuple(sorted(default))
    try:
        widths = tuple(sorted(int(part) for part in text.split("|")))
    except ValueError:
        raise QirError(
            f"insert-fake-quant: widths {text!r} are not numbers divided by '|', for example 2|4|8"
        ) from None
    if any(not 1 <= width <= 32 for width in widths):
        raise QirError(f"insert-fake-quant: widths {text!r} are not between 1 and 32")
    return widths


@dataclass
class _Inserter:
    graph: Graph
    options: InsertFakeQuant
    weight_widths: tuple[int, ...]
    activation_widths: tuple[int, ...]
    quantized: dict[Value, Node] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)

    def run(self) -> None:
        exclude = re.compile(self.options.exclude) if self.options.exclude else None
        nodes = [
            node
            for node in self.graph.nodes
            if op_of(node).quantizable(node) is not None and not (exclude and exclude.search(node.name))
        ]
        if not nodes:
            raise QirError("the network has no quantizable layers (Conv, Gemm, MatMul, …) left after exclusions")
        for node in nodes:
            self._weight(node)
        for node in self.graph.nodes:
            if node in nodes:
                self._operands(node)
            elif self.options.placement == "deployable" and not (exclude and exclude.search(node.name)):
                self._arithmetic(node)
        if self.options.placement != "qag":
            for node in _last(self.graph, nodes):
                self._result(node, fixed="the output of the network's last layer stays at 8 bits")
        if self.options.first_last:
            width, reason = self.options.first_last, f"first and last layer are kept at {self.options.first_last} bits"
            for node in (nodes[0], nodes[-1]):
                for quantizer in _operand_quantizers(node):
                    _pin(quantizer, width, reason)
        for rule in self.options.keep:
            self._keep(rule, nodes)

    def _operands(self, node: Node) -> None:
        operands = op_of(node).quantizable(node)
        assert operands is not None  # noqa: S101 - filtered by the caller
        self._activation(node, operands.data, f"{label(node)}.input")
        weight = node.input(operands.weight)
        if weight is not None and not _is_weight(weight):
            self._activation(node, operands.weight, f"{label(node)}.input{operands.weight}")
        if self.options.placement == "outputs":
            self._result(node)

    def _arithmetic(self, node: Node) -> None:
        """Add and Concat: operands and result; average pooling: its operand, so that what computes it fuses."""
        op = op_of(node)
        if not (op.is_join or op.is_average):
            return
        data = [i for i, v in enumerate(node.inputs) if v is not None and not _is_weight(v)]
        if not _is_float(node.result) or (op.is_join and len(data) < 2):
            return
        for index in data[: 1 if op.is_average else None]:
            self._activation(node, index, f"{label(node)}.input{index}" if op.is_join else f"{label(node)}.input")
        if op.is_join:
            self._result(node)

    def _weight(self, node: Node) -> None:
        operands = op_of(node).quantizable(node)
        assert operands is not None  # noqa: S101 - filtered by the caller
        weight = node.input(operands.weight)
        if weight is None or not _is_weight(weight):
            return
        if weight not in self.quantized:
            axis = operands.weight_axis if self.options.per_channel else None
            made = make_fake_quant(
                weight,
                name=self._unique(f"{label(node)}.weight"),
                bits=self.weight_widths[-1],
                widths=self.weight_widths,
                signed=True,
                narrow=True,
                axis=axis,
            )
            self.quantized[weight] = self.graph.insert(made, before=node)
        node.set_input(operands.weight, self.quantized[weight].result)

    def _activation(self, node: Node, index: int, name: str) -> None:
        value = node.inputs[index]
        if value is None:
            return
        origin = grid_origin(value)
        if origin.producer is not None and origin.producer.is_fake_quant:
            return
        widths = self.activation_widths
        if origin.is_input and self.options.input_widths != "all":
            widths = _widths(self.options.input_widths, ())
        self._quantize(origin, name, widths)

    def _result(self, node: Node, fixed: str = "") -> None:
        value = node.result
        while len(value.users) == 1 and op_of(user := value.users[0]).fuses_into_producer(user):
            value = user.result
        if value not in self.quantized and not any(user.is_fake_quant for user in value.users):
            made = self._quantize(value, f"{label(node)}.output", (8,) if fixed else self.activation_widths)
            if fixed:
                made.metadata[FIXED] = fixed

    def _quantize(self, value: Value, name: str, widths: tuple[int, ...]) -> Node:
        users = value.uses
        made = make_fake_quant(value, name=self._unique(name), bits=widths[-1], widths=widths, signed=False)
        producer = value.producer
        self.graph.insert(made, after=producer) if producer is not None else self.graph.insert(
            made, before=self.graph._first
        )
        for use in users:
            use.node.set_input(use.index, made.result)
        self.quantized[made.result] = self.quantized[value] = made
        return made

    def _keep(self, rule: str, nodes: list[Node]) -> None:
        pattern, width = _rule(rule)
        found = [node for node in self.graph.fake_quants() if pattern.search(node.name)]
        found += [q for node in nodes if pattern.fullmatch(node.op) for q in _operand_quantizers(node)]
        if not found:
            names = ", ".join(node.name for node in self.graph.fake_quants())
            raise QirError(f"insert-fake-quant: rule {rule!r} matches no operator and no quantizer; these are {names}")
        for node in found:
            _pin(node, width, f"the rule {rule!r} keeps it at {width} bits")

    def _unique(self, base: str) -> str:
        name, count = base, 1
        while name in self.names:
            count += 1
            name = f"{base}.{count}"
        self.names.add(name)
        return name


def _rule(text: str) -> tuple[re.Pattern[str], int]:
    pattern, divided, width = text.rpartition(":")
    try:
        if divided and pattern and 1 <= int(width) <= 32:
            return re.compile(pattern), int(width)
    except (ValueError, re.error):
        pass
    raise QirError(f"insert-fake-quant: rule {text!r}; expected pattern:width, for example fc.*:8, width from 1 to 32")


def _operand_quantizers(node: Node) -> list[Node]:
    operands = op_of(node).quantizable(node)
    assert operands is not None  # noqa: S101 - callers pass layers
    values = [node.input(index) for index in (operands.data, operands.weight)]
    found = [None if value is None else grid_origin(value).producer for value in values]
    return [made for made in found if made is not None and made.is_fake_quant]


def _pin(quantizer: Node, width: int, reason: str) -> None:
    quantizer.set_attribute("widths", (width,))
    quantizer.set_attribute("bits", width)
    quantizer.metadata[FIXED] = reason


def label(node: Node) -> str:
    """What a layer is called in names of quantizers: its weight's name without `.weight`, else the node's name."""
    operands = op_of(node).quantizable(node)
    weight = None if operands is None else node.input(operands.weight)
    if weight is not None:
        while weight.producer is not None and weight.producer.is_fake_quant and weight.producer.input(0) is not None:
            weight = weight.producer.inputs[0]
            assert weight is not None  # noqa: S101 - checked in the condition
        if weight.is_constant and weight.name.endswith(".weight"):
            return weight.name.removesuffix(".weight")
    return node.name or node.result.name


def _is_float(value: Value) -> bool:
    return not isinstance(value.type, TensorType) or value.type.dtype.is_float


def _is_weight(value: Value) -> bool:
    producer = value.producer
    return value.is_constant or (producer is not None and producer.is_fake_quant and _is_weight(producer.operands[0]))


def _last(graph: Graph, nodes: list[Node]) -> list[Node]:
    """Expensive nodes from which an output is reached without passing another expensive node."""
    expensive, reached, found = set(nodes), set(graph.return_node.operands), []
    for node in reversed(graph):
        if not any(value in reached for value in node.results):
            continue
        if node in expensive:
            found.append(node)
        else:
            reached.update(node.operands)
    return found[::-1]
