"""What stays float after the insertion of quantizers, and why."""

from __future__ import annotations

from qir.graph import Graph, Node
from qir.labels import unique_labels
from qir.ops import op_of
from qir.passes.analysis.constants import is_standard
from qir.passes.analysis.quantized_operands import is_layer, is_weight
from qir.passes.insertion.quantizer_rules import QuantizerRules


def left_float(graph: Graph, rules: QuantizerRules, *, weights_alone: bool = False) -> dict[str, str]:
    """Return the name of every layer that stays float, whole or in part → why.

    Args:
        graph: the main graph; layers of its subgraphs are listed too.
        rules: what is excluded.
        weights_alone: activations have no quantizers.
    """
    reasons = {
        label: _reason(node, graph, rules) or (_computed(node) if weights_alone else "")
        for node, label in unique_labels(graph).items()
    }
    return {label: reason for label, reason in reasons.items() if reason}


def _computed(node: Node) -> str:
    """Return why a product has no quantizer where weights alone have some."""
    operands = op_of(node).quantizable(node)
    weight = None if operands is None else node.input(operands.weight)
    return (
        "" if weight is None or is_weight(weight) else "both of its operands are computed: weights alone are quantized"
    )


def _reason(node: Node, graph: Graph, rules: QuantizerRules) -> str:
    facts = op_of(node)
    kernel = facts.float_kernel(node)
    if kernel is None and not facts.is_expensive:
        return ""
    if node.graph is not graph:
        return _inside(node)
    if rules.excludes(node):
        return "a rule excludes it"
    if facts.is_expensive and not is_layer(node):
        return "its weights are computed, or its form has no quantized kernel"
    if kernel is not None and kernel.products and is_layer(node):
        return "its sums and the state that it hands from step to step; weights, inputs and initial states have codes"
    return ""


def _inside(node: Node) -> str:
    holder = None if node.graph is None else node.graph.parent
    if holder is None:
        return "it stands inside a subgraph"
    where = f"it stands inside a subgraph of {holder.op} {holder.name or holder.result.name!r}"
    if is_standard(holder, "If"):
        return f"{where}: inline-branches takes out branches whose condition is known"
    return f"{where}, which runs it as often as the data ask for: unroll it in the exporter to quantize it"
