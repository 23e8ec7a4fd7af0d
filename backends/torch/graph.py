"""Execution of a graph in torch, node after node, with If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence

import torch

from qir.backends.execution.evaluate import read_inside
from qir.backends.torch.ops import Lowering, Operands, has_lowering, lowering_of
from qir.backends.torch.runtime import DOMAINS, RuntimeLowerings
from qir.errors import QirError
from qir.graph import Graph, Node, Value

Values = MutableMapping[Value, torch.Tensor]
Kernel = Callable[[Node, Lowering | None, Operands], torch.Tensor | tuple[torch.Tensor, ...]]
"""Computes a node from its operands; a fake-quant node has no lowering."""


class GraphPlan:
    """The nodes of a graph with their lowerings, and the values that are free after each.

    Values of subgraphs live in the same table as those of the graph around them: a `Value` is one object.

    Args:
        graph: the graph.
        opsets: version by domain.

        runtime: where nodes without a lowering in torch are left to; a plan's own ones share it.

    Raises:
        QirError: torch has no lowering of a node and ONNX Runtime no kernels of its domain, or a subgraph is of an
            operator that is not If, Loop or Scan.
    """

    def __init__(self, graph: Graph, opsets: Mapping[str, int], runtime: RuntimeLowerings | None = None) -> None:
        self.graph = graph
        self.runtime = runtime or RuntimeLowerings(opsets)
        self.subplans = {
            node: {name: GraphPlan(a.value, opsets, self.runtime) for name, a in node.attributes.items() if a.graphs()}
            for node in graph
            if node.subgraphs()
        }
        self.steps: list[tuple[Node, Lowering | None]] = [
            (node, None if node.is_fake_quant or node in self.subplans else self._lowering(node, opsets))
            for node in graph
        ]
        for node in self.subplans:
            if node.op not in _CONTROL or (node.op == "Scan" and opsets.get("", 9) < 9):
                raise QirError(f"node {node}: torch execution knows If, Loop and Scan (from opset 9 on)")
        self.freed = self._freed()

    def _lowering(self, node: Node, opsets: Mapping[str, int]) -> Lowering:
        """Torch's lowering, or ONNX Runtime's kernel; calls of a model-local function have neither."""
        if node.domain not in DOMAINS or has_lowering(node, opsets):
            return lowering_of(node, opsets)
        return self.runtime.lowering(node)

    def _freed(self) -> dict[Node, tuple[Value, ...]]:
        """Return results that no node after this one reads."""
        last: dict[Value, Node] = {}
        for node, _ in self.steps:
            for value in (*node.operands, *(v for graph in node.subgraphs() for v in read_inside(graph))):
                if value.producer is not None and value.producer.graph is self.graph:
                    last[value] = node
        returned = set(self.graph.return_node.operands)
        freed: dict[Node, list[Value]] = {}
        for value, node in last.items():
            if value not in returned:
                freed.setdefault(node, []).append(value)
        return {node: tuple(values) for node, values in freed.items()}

    def run(self, values: Values, kernel: Kernel, keep: frozenset[Value] = frozenset()) -> list[torch.Tensor]:
        """Return the graph's outputs.

        Args:
            values: inputs and constants; results are added, and removed again after their last use.
            kernel: computes a node.
            keep: values that are not removed.
        """
        for node, lowering in self.steps:
            operands = [None if value is None else values[value] for value in node.inputs]
            try:
                if node in self.subplans:
                    made: torch.Tensor | tuple[torch.Tensor, ...] = _CONTROL[node.op](
                        node, self.subplans[node], operands, values, kernel
                    )
                else:
                    made = kernel(node, lowering, operands)
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                raise QirError(f"node {node}: torch cannot compute it: {str(error).splitlines()[0]}") from error
            results = made if isinstance(made, tuple) else (made,)
            if any(result.uses for result in node.results[len(results) :]):
                raise QirError(
                    f"node {node}: torch execution computes its first {len(results)} results only; use OrtSession"
                )
            values.update(zip(node.results, results, strict=False))
            for value in self.freed.get(node, ()):
                if value not in keep:
                    del values[value]
        return [values[value] for value in self.graph.outputs if value is not None]


Plans = Mapping[str, GraphPlan]


def _enter(plan: GraphPlan, given: Sequence[torch.Tensor], values: Values, kernel: Kernel) -> list[torch.Tensor]:
    values.update(zip(plan.graph.inputs, given, strict=True))
    return plan.run(values, kernel)


def _if(node: Node, plans: Plans, operands: Operands, values: Values, kernel: Kernel) -> tuple[torch.Tensor, ...]:  # noqa: ARG001
    condition = operands[0]
    branch = "then_branch" if condition is not None and bool(condition) else "else_branch"
    return tuple(_enter(plans[branch], (), values, kernel))


def _loop(node: Node, plans: Plans, operands: Operands, values: Values, kernel: Kernel) -> tuple[torch.Tensor, ...]:
    limit, condition, *given = operands
    carried = [value for value in given if value is not None]
    scans: list[list[torch.Tensor]] = [[] for _ in range(len(node.results) - len(carried))]
    turn, running = 0, condition is None or bool(condition)
    while running and (limit is None or turn < int(limit)):
        returned = _enter(plans["body"], (torch.tensor(turn), torch.tensor(running), *carried), values, kernel)
        running, turn = bool(returned[0]), turn + 1
        carried = returned[1 : 1 + len(carried)]
        for scan, value in zip(scans, returned[1 + len(carried) :], strict=True):
            scan.append(value)
    if scans and not turn:
        raise QirError(f"node {node}: a loop without turns has scan outputs of unknown shape in torch; use OrtSession")
    return (*carried, *(torch.stack(scan) for scan in scans))


def _scan(node: Node, plans: Plans, operands: Operands, values: Values, kernel: Kernel) -> tuple[torch.Tensor, ...]:
    count = node.attribute("num_scan_inputs")
    given = [value for value in operands if value is not None]
    state, inputs = given[: len(given) - count], given[len(given) - count :]
    axes = node.attribute("scan_input_axes", (0,) * count)
    turned = node.attribute("scan_input_directions", (0,) * count)
    moved = [
        x.movedim(axis, 0).flip(0) if t else x.movedim(axis, 0) for x, axis, t in zip(inputs, axes, turned, strict=True)
    ]
    scans: list[list[torch.Tensor]] = [[] for _ in range(len(node.results) - len(state))]
    for turn in range(moved[0].shape[0]):
        returned = _enter(plans["body"], (*state, *(x[turn] for x in moved)), values, kernel)
        state = returned[: len(state)]
        for scan, value in zip(scans, returned[len(state) :], strict=True):
            scan.append(value)
    out_axes = node.attribute("scan_output_axes", (0,) * len(scans))
    out_turned = node.attribute("scan_output_directions", (0,) * len(scans))
    stacked = (
        torch.stack(scan[::-1] if t else scan).movedim(0, axis)
        for scan, axis, t in zip(scans, out_axes, out_turned, strict=True)
    )
    return (*state, *stacked)


_CONTROL = {"If": _if, "Loop": _loop, "Scan": _scan}
