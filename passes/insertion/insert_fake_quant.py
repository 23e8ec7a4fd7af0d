"""Insertion of fake-quant nodes, in three placements.

`deployable` (default): a quantizer on the data and weight operand of every expensive node, hoisted to the op that
computes the value so that kernels fuse; on both operands and the result of Add and Concat; on operands of average
pooling; and on the output of the last expensive node at 8 bits (no decision). Every quantizer of the exported file is
there before calibration.
`qag`: AutoQNN's quantizing-vertex insertion (Gong et al., 2022, Algorithm 1): one on every edge into an expensive
vertex.
`outputs`: on the weight and the output of each layer, and on the network's inputs (Wang et al., 2024, section 3.3.2).

In all of them the weights, inputs and initial states of recurrent layers and the matrices of embeddings have quantizers
too: their kernels compute in float, with weights that are stored as codes.

Weights alone have quantizers where activations stay float (`activation_widths=float`, or a target that computes on
float activations only): then the placement says nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from qir.backends.costs.layers.layer_shapes import WEIGHT_SUFFIX
from qir.backends.costs.target import NO_TARGET
from qir.errors import QirError
from qir.fake_quant import FakeQuant, make_fake_quant
from qir.granularity import granularity_of
from qir.graph import Graph, Node, Use, Value
from qir.module import Module
from qir.ops import op_of
from qir.passes.analysis.constants import is_standard
from qir.passes.analysis.quantized_operands import (
    is_float,
    is_layer,
    is_weight,
    operand_quantizers,
    quantizer_stem,
    weight_operands,
)
from qir.passes.constraints.propagate_constraints import FIXED, FLOAT_BITS
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.insertion.already_quantized import refuse_quantized
from qir.passes.insertion.left_float import left_float
from qir.passes.insertion.quantizer_rules import QuantizerRules, pin, widths_of
from qir.passes.simplify.name_nodes import name_nodes
from qir.passes.simplify.widen_floats import OTHER_FLOATS
from qir.rewriting.engine import Rewriter
from qir.tracing import grid_origin
from qir.types import TensorType
from qir.views.networkx import to_networkx

if TYPE_CHECKING:
    from qir.backends.costs.target import Target

PLACEMENTS = ("deployable", "qag", "outputs")

FLOAT = "float"
"""What `activation_widths` says where activations have no quantizers."""

_PARTS = ("quantize", "clip", "dequantize")
"""What an exported file calls the nodes of a quantizer, after its name."""


@dataclass(frozen=True)
class InsertFakeQuant(Pass):
    """Insert fake-quant nodes; the network computes the same until they are calibrated.

    What a target's file asks for under `quantize` holds too: widths of first and last layer, rules, exclusions,
    operators that are quantized besides the layers. Layers inside subgraphs and the states of
    recurrent ones stay float; `context.reports["insert-fake-quant"]` says of every layer that does why.

    Options:
        placement: `deployable`, `qag` or `outputs`.
        weight_widths, activation_widths: candidate widths, `2|4|8`; by default the target's, without target 1 to 8.
            `float` for activations leaves them without quantizers.
        weight_scheme, activation_scheme: quantizing schemes; `uniform` is symmetric for weights and affine for
            activations, `uniform-asymmetric` is affine for both.
        per_channel: weights have one range per output channel.
        block: weights have one range for so many elements along the axis that is summed over (ONNX's `block_size`),
            where it is longer; by default the target's, without one 0 = no blocks.
        first_last: width that the first and last layer are kept at, 0 = they are decisions like the others.
        input_widths: widths of quantizers on the network's inputs, `8` by default; `all` makes them decisions.
        output_widths: widths of the last layer's result in `deployable` and `outputs`, likewise.
        exclude: regular expression of operators (whole) and of node names (anywhere) that stay float.
        keep: rules `pattern:width` that pin quantizers (no decisions then); the pattern is a regular expression
            found in the quantizer's name, or an operator whose data and weight are pinned. Later rules win.
        ops: operators besides the layers whose operands and results are quantized in `deployable`; by default the
            target's, without any Add, Sum, Concat and average pooling.
    """

    name: ClassVar[str] = "insert-fake-quant"
    placement: str = "deployable"
    weight_widths: str = ""
    activation_widths: str = ""
    weight_scheme: str = "uniform"
    activation_scheme: str = "uniform"
    per_channel: bool = True
    block: int = 0
    first_last: int = 0
    input_widths: str = "8"
    output_widths: str = "8"
    exclude: str = ""
    keep: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()

    def run(self, module: Module, context: PassContext) -> bool:
        """Insert the quantizers; raises `QirError` when nothing can be quantized or an option is wrong."""
        if self.placement not in PLACEMENTS:
            raise QirError(
                f"insert-fake-quant: placement {self.placement!r} is unknown; expected one of {', '.join(PLACEMENTS)}"
            )
        if self.block < 0:
            raise QirError(f"insert-fake-quant: block {self.block}; expected the size of a block, or 0")
        operands = None if context.target is None else context.target.operand_rules()
        weights = _candidates(
            self.weight_widths, operands.weight_widths if operands else range(1, 9), self.weight_scheme
        )
        activations = (
            ()
            if self._float_activations(context.target)
            else _candidates(
                self.activation_widths, operands.activation_widths if operands else range(1, 9), self.activation_scheme
            )
        )
        rules = QuantizerRules.of(
            context.target,
            first_last=self.first_last,
            keep=self.keep,
            exclude=self.exclude,
            ops=self.ops,
            block=self.block,
        )
        refuse_quantized(module)
        name_nodes(module)
        context.reports[self.name] = left_float(module.graph, rules, weights_alone=not activations)
        _Inserter(module.graph, self, rules, weights, activations).run()
        return True

    def _float_activations(self, target: Target | None) -> bool:
        """Return whether activations have no quantizers: the option says so, or the target has none but float ones.

        Raises:
            QirError: the target computes on no float activations.
        """
        if self.activation_widths not in {"", FLOAT}:
            return False
        none = target is None or target.name == NO_TARGET
        widths = () if target is None else target.activation_widths
        if not none and self.activation_widths == FLOAT and FLOAT_BITS not in widths:
            raise QirError(
                f"insert-fake-quant: activation_widths=float; the target's activations have {list(widths)} bits: take "
                f"a target with {FLOAT_BITS} among them (cpu-matmul-nbits), or quantize them"
            )
        return self.activation_widths == FLOAT or set(widths) == {FLOAT_BITS}


def _candidates(text: str, default: Iterable[int], scheme: str) -> tuple[int, ...]:
    """Return the widths asked for; by default those that the scheme has: a target's 32 bits are floats."""
    from qir.quantizers import get_scheme

    known = get_scheme(scheme).widths
    found = widths_of(text, [width for width in default if width in known])
    unknown = sorted(set(found) - set(known))
    if unknown or not found:
        raise QirError(
            f"insert-fake-quant: scheme {scheme!r} has the widths {list(known)}; it was asked for "
            f"{unknown or sorted(default)}"
        )
    return found


@dataclass
class _Inserter:
    """A walk over the layers, in the graph's order: a placement asks what stands around all of them, not around one."""

    graph: Graph
    options: InsertFakeQuant
    rules: QuantizerRules
    weight_widths: tuple[int, ...]
    activation_widths: tuple[int, ...]
    quantized: dict[Value, Node] = field(default_factory=dict)
    names: set[str] = field(init=False)
    last: tuple[Node, ...] = ()
    rewriter: Rewriter = field(default_factory=lambda: Rewriter(InsertFakeQuant.name))

    def __post_init__(self) -> None:
        self.names = {node.name for node in self.graph.walk()}

    def run(self) -> None:
        layers = [node for node in self.graph.nodes if is_layer(node) and not self.rules.excludes(node)]
        if not layers:
            inside = sum(map(is_layer, self.graph.walk()))
            hint = (
                f"; {inside} stand inside If, Loop or Scan, where layers stay float: give conditions values "
                "(freeze-inputs{values=[name:value]}) so that branches are inlined"
            )
            raise QirError(
                "the network has no quantizable layers (Conv, Gemm, MatMul, …) left after exclusions"
                + (hint if inside else "")
            )
        for node in layers:
            _check_element(node)
        expensive = [node for node in layers if op_of(node).quantizable(node) is not None]
        self.last = _last(self.graph, expensive)
        for node in layers:
            self._weights(node)
        if self.activation_widths:
            self._activations(set(layers))
        elif not self.quantized:
            raise QirError("insert-fake-quant: no layer has constant weights, and activations stay float")
        self._pin(layers)

    def _activations(self, layers: set[Node]) -> None:
        for node in self.graph.nodes:
            if node in layers:
                self._operands(node)
            elif self.options.placement == "deployable" and not self.rules.excludes(node):
                self._arithmetic(node)
        if self.options.placement != "qag":
            for node in self.last:
                self._output(node)

    def _operands(self, node: Node) -> None:
        kernel, operands = op_of(node).float_kernel(node), op_of(node).quantizable(node)
        if kernel is not None:
            for index, suffix in kernel.data.items():
                value = node.inputs[index]
                if value is not None and not _is_blank(value):
                    self._activation(node, index, f"{quantizer_stem(node)}.{suffix}")
            return
        if operands is None:
            return
        self._activation(node, operands.data, f"{quantizer_stem(node)}.input")
        weight = node.input(operands.weight)
        if weight is not None and not is_weight(weight):
            self._activation(node, operands.weight, f"{quantizer_stem(node)}.input{operands.weight}")
        if self.options.placement == "outputs" and node not in self.last:
            self._result(node, self.activation_widths)

    def _arithmetic(self, node: Node) -> None:
        """Operands and result; of pooling its operand only, so that what computes it fuses."""
        if not self.rules.quantizes(node) or not node.results or not is_float(node.result):
            return
        facts = op_of(node)
        data = [i for i, v in enumerate(node.inputs) if v is not None and is_float(v) and not is_weight(v)]
        if not data or (facts.is_join and len(data) < 2):
            return
        for index in data[: 1 if facts.is_average else None]:
            suffix = f"input{index}" if len(data) > 1 and not facts.is_average else "input"
            self._activation(node, index, f"{quantizer_stem(node)}.{suffix}")
        if not facts.is_average:
            self._result(node, self.activation_widths)

    def _weights(self, node: Node) -> None:
        for index, suffix, axis, summed in weight_operands(node):
            weight = node.input(index)
            if weight is None or not is_weight(weight) or not is_float(weight):
                continue
            if weight not in self.quantized:
                made = self._weight_quantizer(weight, f"{quantizer_stem(node)}.{suffix}", axis, summed)
                self.quantized[weight] = self.rewriter.insert(made, before=node)
            self.rewriter.redirect([Use(node, index)], self.quantized[weight].result)

    def _weight_quantizer(self, weight: Value, name: str, axis: int | None, summed: int | None) -> Node:
        shape = weight.shape
        length = None if shape is None or summed is None else shape[summed]
        block = self.rules.block
        blocked = block > 0 and isinstance(length, int) and length > block
        return make_fake_quant(
            weight,
            name=self._unique(name),
            bits=self.weight_widths[-1],
            widths=self.weight_widths,
            signed=True,
            narrow=self.options.weight_scheme == "uniform",
            scheme=self.options.weight_scheme,
            granularity=granularity_of(
                summed if blocked else axis if self.options.per_channel else None,
                block if blocked else None,
            ),
        )

    def _activation(self, node: Node, index: int, name: str) -> None:
        value = node.inputs[index]
        if value is None:
            return
        origin = grid_origin(value)
        if origin.producer is not None and origin.producer.is_fake_quant:
            return
        widths = self.activation_widths
        if origin.is_input and self.options.input_widths != "all":
            widths = widths_of(self.options.input_widths, ())
        self._quantize(origin, name, widths)

    def _output(self, node: Node) -> None:
        if self.options.output_widths == "all":
            self._result(node, self.activation_widths)
            return
        widths = widths_of(self.options.output_widths, ())
        made = self._result(node, widths)
        if made is not None and len(widths) == 1:
            made.metadata[FIXED] = f"the output of the network's last layer stays at {widths[0]} bits"

    def _result(self, node: Node, widths: tuple[int, ...]) -> Node | None:
        value = node.result
        while len(value.users) == 1 and op_of(user := value.users[0]).fuses_into_producer(user):
            value = user.result
        if value in self.quantized or any(user.is_fake_quant for user in value.users):
            return None
        return self._quantize(value, f"{quantizer_stem(node)}.output", widths)

    def _quantize(self, value: Value, name: str, widths: tuple[int, ...]) -> Node:
        users = value.uses
        made = make_fake_quant(
            value,
            name=self._unique(name),
            bits=widths[-1],
            widths=widths,
            signed=False,
            scheme=self.options.activation_scheme,
        )
        producer = value.producer
        self.rewriter.insert(made, before=next(iter(self.graph)) if producer is None else None, after=producer)
        self.rewriter.redirect(users, made.result)
        self.quantized[made.result] = self.quantized[value] = made
        return made

    def _pin(self, layers: list[Node]) -> None:
        if width := self.rules.first_last:
            for node in (layers[0], layers[-1]):
                for quantizer in operand_quantizers(node):
                    pin(quantizer, width, f"first and last layer are kept at {width} bits")
        for rule in self.rules.keep:
            found = [FakeQuant(node) for node in self.graph.fake_quants() if rule.pattern.search(node.name)]
            found += [q for node in layers if rule.pattern.fullmatch(node.op) for q in operand_quantizers(node)]
            if not found and rule.text in self.options.keep:
                names = ", ".join(node.name for node in self.graph.fake_quants())
                raise QirError(
                    f"insert-fake-quant: rule {rule.text!r} matches no operator and no quantizer; these are {names}"
                )
            for quantizer in found:
                pin(quantizer, rule.width, f"the rule {rule.text!r} keeps it at {rule.width} bits")

    def _unique(self, base: str) -> str:
        """Return a name of no node and no quantizer yet; nor has a node one of those that a file gives to its parts."""
        name, count = base, 1
        while self.names & {name, *(f"{name}.{part}" for part in _PARTS)}:
            count += 1
            stem = base.removesuffix(WEIGHT_SUFFIX)
            name = f"{stem}.{count}{base.removeprefix(stem)}"
        self.names.add(name)
        return name


def _check_element(node: Node) -> None:
    for value in node.operands:
        known = value.type
        if isinstance(known, TensorType) and known.quant is None and known.dtype in OTHER_FLOATS:
            raise QirError(
                f"insert-fake-quant: {node.op} {node.name or node.result.name!r} computes in {known.dtype.label}: "
                "quantizers take float32; run the pass widen-floats first"
            )


def _is_blank(value: Value) -> bool:
    """Return whether a value is constant but for its shape: an initial state of zeros."""
    origin = grid_origin(value)
    return origin.is_constant or (origin.producer is not None and is_standard(origin.producer, "ConstantOfShape"))


def _last(graph: Graph, nodes: list[Node]) -> tuple[Node, ...]:
    """Return expensive nodes from which an output is reached without passing another expensive node."""
    import networkx as nx

    expensive = set(nodes)
    free = nx.subgraph_view(to_networkx(graph), filter_edge=lambda _, user, __: user not in expensive)
    last = nx.ancestors(free, graph.return_node)
    return tuple(node for node in nodes if node in last)
