"""Local rewrites to one spelling per meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qir.errors import PassError, QirError
from qir.graph import Graph
from qir.module import Module
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.passes.simplify.eliminate.identities import EliminateIdentities
from qir.passes.simplify.fold import reshape as fold_reshape
from qir.passes.simplify.fuse import affine as fuse_affine
from qir.passes.simplify.fuse import merge_affine, sink_transposes
from qir.passes.simplify.fuse import pad as fuse_pad
from qir.passes.simplify.fuse import transposes as fuse_transposes
from qir.passes.simplify.recognize import activations as recognize_activations
from qir.passes.simplify.recognize import layer_norm as recognize_layer_norm
from qir.rewriting.engine import Rule, rewrite

RULES: tuple[Rule, ...] = (
    *fold_reshape.RULES,
    *fuse_affine.RULES,
    *merge_affine.RULES,
    *fuse_pad.RULES,
    *fuse_transposes.RULES,
    *sink_transposes.RULES,
    *recognize_activations.RULES,
    *recognize_layer_norm.RULES,
)

SIMPLIFY = (
    "inline-functions,infer-types,name-nodes,freeze-inputs{parameters=true},"
    "eliminate-identities,eliminate-common-subexpressions,fold-constants,infer-types,"
    "inline-branches,fold-batchnorm,canonicalize,fold-constants,eliminate-common-subexpressions,eliminate-dead-code"
)
"""The pipeline that brings a float network as it was exported into the form that quantization starts from."""


@dataclass(frozen=True)
class Canonicalize(Pass):
    """Apply local rewrites until none applies: the network computes the same with fewer and clearer nodes.

    Constants added to or multiplied with a layer's result go into the layer; MatMul and Add become Gemm; Pad goes into
    the convolution or pooling after it; transposes move past element-wise operators and cancel; clips merge (Clip(0,
    6) is ReLU6); hard-sigmoid, hard-swish and layer normalization are recognized. Before and after, nodes that change
    nothing are removed. New nodes carry the name of the rule that made them (`qir.rewriting.engine.explain(rule, node)`
    says why one does not apply).

    `context.reports["canonicalize"]` counts how often each rule was applied.

    Attributes:
        without: names of rules that are not applied.
    """

    name: ClassVar[str] = "canonicalize"
    without: tuple[str, ...] = ()

    def run(self, module: Module, context: PassContext) -> bool:
        """Rewrite; `PassError` when the rules do not come to rest or `without` names no rule."""
        unknown = sorted(set(self.without) - {rule.name for rule in RULES})
        if unknown:
            raise PassError(f"canonicalize: no rule {unknown[0]!r}; rules: {', '.join(rule.name for rule in RULES)}")
        counts: dict[str, int] = {}
        changed = context.run(EliminateIdentities(), module)
        rules = [rule for rule in RULES if rule.name not in self.without]
        for graph, opsets in (
            (module.graph, module.opsets),
            *((f.graph, f.opsets or module.opsets) for f in module.functions.values()),
        ):
            for name, count in _settled(graph, rules, opsets.get("", opsets.get("ai.onnx", 1))).items():
                counts[name] = counts.get(name, 0) + count
        context.reports[self.name] = counts
        if counts:
            context.run(EliminateIdentities(), module)
        return changed or bool(counts)


def _settled(graph: Graph, rules: list[Rule], opset: int) -> dict[str, int]:
    try:
        return rewrite(graph, rules, opset=opset)
    except QirError as error:
        raise PassError(f"canonicalize: graph {graph.name!r}: {error}") from error
