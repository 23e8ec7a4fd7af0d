"""BatchNormalization folded into the layers around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import numpy as np

from qir.graph import Node, Value
from qir.module import Module
from qir.ops.definition import rank_of
from qir.passes.analysis.affine import Affine, Reject, batchnorm_affine
from qir.passes.analysis.constants import array_of, erase, frozen, is_standard, replace
from qir.passes.analysis.layers import layer_at, layer_producing
from qir.passes.analysis.linear_layer import PREACTIVATION, Edit, LinearLayer
from qir.passes.infrastructure.contract import Pass, PassContext
from qir.tensor import Array, numpy_dtype


@dataclass
class FoldReport:
    """What became of every BatchNormalization, by the name of its node (or of its result).

    Attributes:
        folded: the layers that took it over.
        rewritten: became Mul and Add; why it could not be folded.
        kept: is still there, and why.
        warnings: folded or rewritten, but its parameters are unusual.
    """

    folded: dict[str, tuple[str, ...]] = field(default_factory=dict)
    rewritten: dict[str, str] = field(default_factory=dict)
    kept: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{len(self.folded)} folded, {len(self.rewritten)} rewritten to Mul and Add, {len(self.kept)} kept"]
        lines += [f"{name}: rewritten because {reason}" for name, reason in self.rewritten.items()]
        lines += [f"{name}: kept because {reason}" for name, reason in self.kept.items()]
        lines += [f"{name}: {warning}" for name, warning in self.warnings.items()]
        return "\n".join(lines)


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold inference-time BatchNormalization into Conv, ConvTranspose, Gemm or MatMul, with constant parameters.

    First into the layers that produce its operand (through Concat along the channels, when all of them can), else
    into the layers that take its result, where that is exact: without a zero padding that the shift would not reach.
    What remains becomes Mul and Add with one constant a channel. Nodes in training mode stay. Arithmetic is float64,
    rounded once. `context.reports["fold-batchnorm"]` holds the `FoldReport`.

    Attributes:
        remaining: `affine` rewrites what cannot be folded to Mul and Add; `keep` leaves it.
    """

    name: ClassVar[str] = "fold-batchnorm"
    remaining: Literal["affine", "keep"] = "affine"

    def run(self, module: Module, context: PassContext) -> bool:
        """Fold; True when a node was folded or rewritten."""
        report = FoldReport()
        for graph, opsets in (
            (module.graph, module.opsets),
            *((f.graph, f.opsets or module.opsets) for f in module.functions.values()),
        ):
            for node in [n for n in graph.walk() if is_standard(n, "BatchNormalization")]:
                self._fold(node, opsets.get("", opsets.get("ai.onnx", 1)), report)
        context.reports[self.name] = report
        return bool(report.folded or report.rewritten)

    def _fold(self, node: Node, opset: int, report: FoldReport) -> None:
        name = node.name or node.result.name
        affine = batchnorm_affine(node, opset)
        data = node.input(0)
        if isinstance(affine, Reject) or data is None:
            report.kept[name] = affine.reason if isinstance(affine, Reject) else "it has no operand"
            return
        warning = unusual(node)
        edits = edits_before(data, affine, node)
        if isinstance(edits, list) and len(edits) == 1:
            _remember(edits[0].layer.node, node)
        if isinstance(edits, Reject):
            after = edits_after(node.result, affine, rank_of(data), node)
            if isinstance(after, Reject):
                self._leave(node, affine, f"{edits.reason}; {after.reason}", report)
                if warning and name in report.rewritten:
                    report.warnings[name] = warning
                return
            edits = after
        for edit in edits:
            edit.apply()
        replace(node, node.operand(0))
        report.folded[name] = tuple(edit.layer.name for edit in edits)
        if warning:
            report.warnings[name] = warning

    def _leave(self, node: Node, affine: Affine, reason: str, report: FoldReport) -> None:
        name = node.name or node.result.name
        if self.remaining == "keep":
            report.kept[name] = reason
            return
        rejected = rewrite_as_affine(node, affine)
        if rejected is None:
            report.rewritten[name] = reason
        else:
            report.kept[name] = f"{reason}; {rejected.reason}"


def _remember(layer: Node, batchnorm: Node) -> None:
    """Keep the mean and standard deviation that the layer's outputs have from now on: beta and |gamma|."""
    gamma, beta = array_of(batchnorm.input(1)), array_of(batchnorm.input(2))
    if gamma is not None and beta is not None:
        layer.meta[PREACTIVATION] = (beta.astype(np.float64), np.abs(gamma.astype(np.float64)))


def edits_before(value: Value, affine: Affine, consumer: Node) -> list[Edit] | Reject:
    """Return the edits that let the layers which produce `value` compute affine(value), channels on axis 1.

    Args:
        value: operand of `consumer`; nothing else may use it.
        affine: the map to take over.
        consumer: the node that vanishes, or the Concat on the way to it.
    """
    if len(value.uses) != 1:
        where = "a graph output" if value.is_output else "used more than once"
        return Reject(f"its operand {value.name!r} is {where}")
    node = value.producer
    if node is None:
        return Reject(f"its operand {value.name!r} is not a result of a layer")
    if node.graph is not consumer.graph:
        return Reject(f"its operand {value.name!r} comes from another graph")
    if is_standard(node, "Concat"):
        return _edits_before_concat(node, affine)
    layer = layer_producing(value)
    if isinstance(layer, Reject):
        return layer
    if layer.rank is None or layer.rank + layer.axis != 1:
        return Reject(f"the channels of {layer.name!r} are not on axis 1")
    edit = layer.after(affine)
    return edit if isinstance(edit, Reject) else [edit]


def _edits_before_concat(node: Node, affine: Affine) -> list[Edit] | Reject:
    rank, axis = rank_of(node.result), node.attribute("axis")
    if axis != 1 and (rank is None or axis is None or axis + rank != 1):
        return Reject("it follows a Concat along another axis")
    edits: list[Edit] = []
    start = 0
    for value in node.operands:
        channels = _channels(value)
        if channels is None:
            return Reject(f"operand {value.name!r} of the Concat before it has an unknown number of channels")
        found = edits_before(value, affine.part(start, start + channels), node)
        if isinstance(found, Reject):
            return found
        edits += found
        start += channels
    return edits if start == affine.channels else Reject("the Concat before it has another number of channels")


def _channels(value: Value) -> int | None:
    layer = layer_producing(value)
    if isinstance(layer, LinearLayer):
        return layer.out_channels
    shape = value.shape
    return shape[1] if shape is not None and len(shape) > 1 and isinstance(shape[1], int) else None


def edits_after(value: Value, affine: Affine, rank: int | None, producer: Node) -> list[Edit] | Reject:
    """Return the edits that let the layers which take `value` take `producer`'s operand x, where value = affine(x).

    Args:
        value: result of `producer`; all of its users must be layers for which this is exact, or Flatten before them.
        affine: the map to take over; channels are on axis 1.
        rank: rank of `value`, None when unknown.
        producer: the node that vanishes, or the Flatten on the way from it.
    """
    if not value.uses:
        return Reject("nothing uses its result")
    edits: list[Edit] = []
    for use in value.uses:
        if use.node.is_return:
            return Reject("its result is a graph output")
        if use.node.graph is not producer.graph:
            return Reject(f"its result is used in a subgraph by {use.node.name or use.node.op!r}")
        found = _edits_of_user(use.node, use.index, affine, rank)
        if isinstance(found, Reject):
            return found
        edits += found
    return edits


def _edits_of_user(node: Node, index: int, affine: Affine, rank: int | None) -> list[Edit] | Reject:
    if is_standard(node, "Flatten") and node.attribute("axis", 1) == 1:
        repeated = _flattened(node, affine)
        return repeated if isinstance(repeated, Reject) else edits_after(node.result, repeated, 2, node)
    layer = layer_at(node)
    if isinstance(layer, Reject):
        return Reject(f"its result goes to {node.op}" if "is not a linear layer" in layer.reason else layer.reason)
    if index != 0:
        return Reject(f"its result is a weight or bias of {layer.name!r}")
    known = layer.rank if rank is None else rank
    if known is None or known + layer.axis != 1:
        return Reject(f"the channels of {layer.name!r} are not on axis 1")
    edit = layer.before(affine)
    return edit if isinstance(edit, Reject) else [edit]


def _flattened(node: Node, affine: Affine) -> Affine | Reject:
    data = node.input(0)
    shape = None if data is None else data.shape
    spatial = [d for d in (shape or (None, None, None))[2:] if isinstance(d, int)]
    if shape is None or len(spatial) != len(shape) - 2:
        return Reject("it is flattened and its shape is unknown")
    times = int(np.prod(spatial, dtype=np.int64))
    return Affine(np.repeat(affine.scale, times), np.repeat(affine.shift, times))


def rewrite_as_affine(node: Node, affine: Affine) -> Reject | None:
    """Replace a node that computes affine(its operand 0), channels on axis 1, by Mul and Add."""
    data, graph = node.input(0), node.graph
    rank = rank_of(data) or rank_of(node.result)
    if data is None or graph is None or rank is None:
        return Reject("the rank of its operand is unknown")
    dtype = data.dtype
    parameter = array_of(node.input(1))
    element = numpy_dtype(dtype) if dtype is not None else parameter.dtype if parameter is not None else np.float32
    shape = (affine.channels, *(1,) * (rank - 2))
    name = node.name or node.result.name
    with np.errstate(over="ignore"):
        scale, shift = (vector.astype(element).reshape(shape) for vector in (affine.scale, affine.shift))
    if not (np.isfinite(scale).all() and np.isfinite(shift).all()):
        return Reject(f"its scale would overflow {np.dtype(element)}")
    steps: list[tuple[str, str, Array]] = []
    if (affine.scale != 1).any():
        steps.append(("Mul", "scale", scale))
    if affine.shift.any():
        steps.append(("Add", "shift", shift))
    value = data
    for op, suffix, constant in steps:
        operand = graph.add_constant(f"{name}.{suffix}", frozen(constant))
        made = graph.insert(Node(op, (value, operand), name=graph.clock.unique_name(f"{name}.{suffix}")), before=node)
        made.result.type = node.result.type
        value = made.result
    node.result.replace_all_uses_with(value)
    erase(node)
    return None


def unusual(node: Node) -> str:
    """Return what is unusual about the parameters of a BatchNormalization, or an empty text."""
    gamma, variance = array_of(node.input(1)), array_of(node.input(4))
    if gamma is None or variance is None:
        return ""
    notes = []
    small = np.flatnonzero(np.asarray(variance, np.float64) < node.attribute("epsilon", 1e-5))
    if small.size:
        notes.append(f"channels {_listed(small)} have a variance below epsilon: their scale grows large")
    constant = np.flatnonzero(np.asarray(gamma, np.float64) == 0)
    if constant.size:
        notes.append(f"channels {_listed(constant)} have gamma 0: they become constant")
    return "; ".join(notes)


def _listed(indices: Array) -> str:
    shown = ", ".join(map(str, indices[:8].tolist()))
    return f"[{shown}, … {indices.size} in all]" if indices.size > 8 else f"[{shown}]"
