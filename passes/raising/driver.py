"""The pass that raises quantized networks, and its report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from qir.graph import Graph, Node
from qir.module import Module
from qir.onnx_io.annotations import FINN_DATATYPE, read_annotations, write_annotations
from qir.ops.families.qonnx import QONNX_DOMAINS
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.infrastructure.manager import PassManager
from qir.passes.lowering.lower_encodings import CLIPPED_BY_CODES
from qir.passes.raising.blocked import blocked_rules
from qir.passes.raising.integers import OPS as INTEGER_LAYERS
from qir.passes.raising.integers import integer_rules
from qir.passes.raising.marked import GUARD, raise_marked
from qir.passes.raising.operators import MICROSOFT, operator_rules
from qir.passes.raising.qdq import DEQUANTIZE, QUANTIZE, qdq_rules
from qir.passes.raising.qonnx.channels_last import CHANNELS_FIRST
from qir.passes.raising.qonnx.marked_thresholds import raise_thresholds
from qir.passes.raising.qonnx.multi_threshold import raise_annotated_weights
from qir.passes.raising.qonnx.qonnx import raise_qonnx
from qir.passes.raising.state import RaiseState, written_policy
from qir.passes.simplify.eliminate.dead_code import EliminateDeadCode
from qir.passes.simplify.fold.constants import FoldConstants
from qir.passes.simplify.freeze_inputs import FreezeInputs
from qir.passes.simplify.infer_types import InferTypes
from qir.rewriting.engine import REJECTED_DEPTH, Rule, explain, rewrite

_AT_RUN_TIME = {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", *INTEGER_LAYERS}
_OPS = {QUANTIZE, DEQUANTIZE, "MatMulNBits", "GatherBlockQuantized", *_AT_RUN_TIME}


@dataclass
class RaiseReport:
    """What became of a quantized network.

    Attributes:
        quantizers: names of the fake-quant nodes made.
        left: nodes that stay as they are, and why.
    """

    quantizers: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    @property
    def reasons(self) -> str:
        """Why the first nodes stay as they are, in one line; empty where none does."""
        return "; ".join(f"{node}: {reason}" for node, reason in list(self.left.items())[:3])


@dataclass(frozen=True)
class RaiseQuantized(Pass):
    """Turn QDQ, QCDQ, QOperator, QONNX and FINN-ONNX networks into float operators between fake-quant nodes.

    - QuantizeLinear → Clip → DequantizeLinear, also with grid-keeping operators on codes in between; dequantized
      constants (weights become float constants under a fake-quant node, int32 biases float constants), also in blocks
    - QLinearConv, QLinearMatMul and com.microsoft's QGemm, QLinearAdd, QLinearMul, QLinearConcat, QLinearWhere,
      QLinearAveragePool, QLinearGlobalAveragePool, QLinearSigmoid, QLinearLeakyRelu, QLinearSoftmax, MatMulNBits,
      GatherBlockQuantized, also with channels last; ConvInteger and MatMulInteger with their scaling after
    - Quant, IntQuant and BipolarQuant; MultiThreshold in equal steps on real values, and weights annotated as integers

    All of it is done by rules; `qir.passes.raising.qdq` says how what codes stand for reaches their readers.

    Scales and zero points are exactly the file's: where no range gives a scale back, the scheme is `uniform-step`.

    Chains of ordinary operators that qir's own lowerings marked come back as the quantizers they stand for.

    The width of a weight is the smallest that holds all of its codes, or the wider one that the file's own policy
    names; codes -1 and +1 alone are one bit. What is not understood stays as it is:
    `context.reports["raise-quantized"]` is the `RaiseReport` that says why.

    Attributes:
        widths: candidate widths besides the file's own, with the scheme `uniform` over the file's ranges.
    """

    name: ClassVar[str] = "raise-quantized"
    widths: tuple[int, ...] = ()

    def run(self, module: Module, context: PassContext) -> bool:
        """Raise; True when a node was replaced."""
        report = RaiseReport()
        policy = written_policy(module)
        for graph in module.graphs:
            self._raise_marked(module, graph, report, context)
        _prepare_qonnx(module, context)
        context.run(FoldConstants(), module)
        for graph in module.graphs:
            self._raise_graph(graph, report, policy)
        context.reports[self.name] = report
        if report.quantizers:
            module.meta[CLIPPED_BY_CODES] = True
            context.run(EliminateDeadCode(), module)
            _drop_unused_domains(module)
            _drop_data_types(module.graph)
        return bool(report.quantizers)

    def _raise_marked(self, module: Module, graph: Graph, report: RaiseReport, context: PassContext) -> None:
        state, before = RaiseState(graph.clock, self.widths, made=report.quantizers), len(report.quantizers)
        state.note_names(graph)
        rewrite(graph, [GUARD])
        raise_marked(module, graph, state)
        raise_thresholds(graph, state)
        report.left |= state.left
        if len(report.quantizers) > before:
            context.run(EliminateDeadCode(), module)

    def _raise_graph(self, graph: Graph, report: RaiseReport, policy: Mapping[str, int]) -> None:
        state = RaiseState(graph.clock, self.widths, policy, report.quantizers)
        state.note_names(graph)
        rewrite(graph, [CHANNELS_FIRST])
        raise_annotated_weights(graph, state)
        raise_qonnx(graph, state)
        rules = (*qdq_rules(state), *blocked_rules(state), *operator_rules(state), *integer_rules(state))
        rewrite(graph, rules)
        for node in graph.walk():
            if _holds_codes(node) and node.result not in state.codes:
                state.leave(node, _reason(node, rules))
        report.left |= state.left


def _holds_codes(node: Node) -> bool:
    """Tell whether a node is an operator that rules raise, or one that computes on codes in another way."""
    known = node.domain in {"", "ai.onnx", MICROSOFT}
    return known and (node.op in _OPS or node.op.startswith(("QLinear", "QGemm")))


def _reason(node: Node, rules: tuple[Rule, ...]) -> str:
    """Return why no rule raises a node: what the one that came farthest says."""
    if node.op in _AT_RUN_TIME:
        return "its activations are quantized at run time"
    found = [explain(rule, node) for rule in rules if node.op in rule.pattern.roots]
    if not found:
        return f"{node.op} is not known"
    best = max(found, key=lambda explanation: explanation.depth)
    return best.reason if best.depth == REJECTED_DEPTH else f"it reads codes of unknown origin: {best.reason}"


def raise_quantized(module: Module, context: PassContext | None = None) -> Module:
    """Raise a quantized network into fake-quant form, in place; see `RaiseQuantized`.

    Args:
        module: network as its file has it.
        context: gets the report of what was not understood, `context.reports["raise-quantized"].left`.

    Returns:
        The same module.
    """
    PassManager([RaiseQuantized()], reproducers=False).run(module, context)
    return module


def _prepare_qonnx(module: Module, context: PassContext) -> None:
    """Weights that a QONNX file lists as inputs with defaults (Brevitas) become constants; types are inferred."""
    if any(node.domain in QONNX_DOMAINS for node in module.graph):
        context.run(FreezeInputs(always=True), module)
        context.run(InferTypes(), module)


def _drop_data_types(graph: Graph) -> None:
    """Forget the data types that QONNX annotates: they were those of the file's tensors."""
    if graph.opaque:
        annotations = read_annotations(graph)
        kept = {name: {k: v for k, v in pairs.items() if k != FINN_DATATYPE} for name, pairs in annotations.items()}
        write_annotations(graph, kept)


def _drop_unused_domains(module: Module) -> None:
    used = {node.domain for graph in module.graphs for node in graph.walk()}
    for domain in [d for d in module.opsets if d in {*QONNX_DOMAINS, MICROSOFT} and d not in used]:
        del module.opsets[domain]
