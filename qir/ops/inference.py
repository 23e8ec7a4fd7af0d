"""Types of results by ONNX's op schemas, node by node, with the grids that flow through them.

No weight is serialized: a node's operands go in as types, and only small integer constants (shapes, axes) and scales
as values. Integers that are known although they are computed (a chain from Shape) count as constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qir.attributes import AttributeKind
from qir.errors import QirError
from qir.graph import Graph, Node, Value
from qir.module import Function, Module
from qir.ops.definition import OpDef, sizes_of
from qir.ops.grid_flow import grid_of, kept
from qir.ops.inference_guards import check_before_inference
from qir.ops.known_integers import known_integers
from qir.ops.registry import lookup
from qir.tensor import Tensor
from qir.types import Dim, DType, TensorType, Type, UnknownType

LARGEST_CONSTANT = 256
"""Constants of more elements never reach ONNX's inference."""

LARGEST_CALLS = 1 << 15
"""Nodes in the bodies of functions that one inference visits, over all calls."""

DEEPEST_CALLS = 100
"""Calls of functions nest this deep in one inference."""

UNKNOWN = UnknownType()
_MEMO: dict[Any, tuple[Type, ...]] = {}
_MEMO_SIZE = 20_000


class _Budget:
    """How many nodes of functions may still be visited, and how deep calls nest at this point."""

    def __init__(self) -> None:
        self.nodes = LARGEST_CALLS
        self.depth = 0


def infer(node: Node, module: Module | Mapping[str, int], budget: _Budget | None = None) -> tuple[Type, ...]:
    """Return the types of a node's results; `UnknownType` where nothing can be said.

    Args:
        node: the node.
        module: its module, or version by domain.
        budget: what is left for the bodies of functions; by default a whole one.

    Raises:
        QirError: ONNX's inference refuses the node; the message holds its reason.
    """
    if node.is_fake_quant:
        return (node.result.type,)
    if node.is_return:
        return ()
    if isinstance(module, Module) and (node.domain, node.op, node.overload) in module.functions:
        return _of_function(node, module, module.functions[node.domain, node.op, node.overload], budget or _Budget())
    if node.subgraphs():
        return _of_control_flow(node, module, budget or _Budget())
    opsets = module.opsets if isinstance(module, Module) else module
    entry = lookup(node, opsets)
    if entry.schema is None:
        source = node.input(0) if entry.keeps_type else None
        return tuple(UNKNOWN if source is None or i else _plain(source.type) for i in range(len(node.results)))
    return _with_grid(entry, node, _by_schema(entry, node, opsets))


def infer_graph(module: Module, *, changed_only: bool = False) -> int:
    """Infer the type of every result of a module's main graph and write those that are new or more precise.

    Args:
        module: changed in place.
        changed_only: visit only nodes whose operands or attributes changed since the last call, and what follows.

    Returns:
        How many nodes were inferred.

    Raises:
        QirError: ONNX's inference refuses a node.
    """
    since = module.meta.get("inferred", -1) if changed_only else -1
    count = _infer_nodes(module.graph, module, _Budget(), since)
    module.meta["inferred"] = module.version
    return count


def _infer_nodes(graph: Graph, module: Module | Mapping[str, int], budget: _Budget, since: int = -1) -> int:
    count = 0
    for node in graph:
        if node.stamp <= since:
            continue
        count += 1
        for result, inferred in zip(node.results, _inferred(node, module, budget), strict=True):
            result.type = refined(result.type, inferred)
    return count


def _inferred(node: Node, module: Module | Mapping[str, int], budget: _Budget) -> tuple[Type, ...]:
    """Return the types of a node's results.

    Nothing is said about a node in a branch that these operands never enter.
    """
    try:
        return infer(node, module, budget)
    except QirError:
        if is_conditional(node):
            return tuple(UNKNOWN for _ in node.results)
        raise


def is_conditional(node: Node) -> bool:
    """Return whether a node stands inside a branch of an If: it may be wrong for operands with which it never runs."""
    graph = node.graph
    while graph is not None and (parent := graph.parent) is not None:
        if parent.op == "If":
            return True
        graph = parent.graph
    return False


def refined(known: Type, inferred: Type) -> Type:
    """Return the inferred type, with dimensions that only the known one has."""
    if isinstance(inferred, UnknownType):
        return known
    if not isinstance(inferred, TensorType) or not isinstance(known, TensorType) or known.dtype is not inferred.dtype:
        return inferred
    if inferred.shape is None:
        shape = known.shape
    elif known.shape is None or len(known.shape) != len(inferred.shape):
        shape = inferred.shape
    else:
        shape = tuple(_sharper(old, new) for old, new in zip(known.shape, inferred.shape, strict=True))
    return inferred if shape == inferred.shape else TensorType(inferred.element, shape)


def _sharper(old: Dim, new: Dim) -> Dim:
    if isinstance(new, int):
        return new
    if isinstance(old, int):
        return old
    return old if new is None or new.startswith("unk__") else new


def _with_grid(entry: OpDef, node: Node, types: tuple[Type, ...]) -> tuple[Type, ...]:
    found = types[0] if types else UNKNOWN
    operands = tuple(
        value.type if value is not None and isinstance(value.type, TensorType) else None for value in node.inputs
    )
    if not isinstance(found, TensorType) or not any(grid_of(operand) for operand in operands):
        return types
    grid = kept(entry, node, operands, found)
    return types if grid is None else (TensorType(grid, found.shape), *types[1:])


def _by_schema(entry: OpDef, node: Node, opsets: Mapping[str, int]) -> tuple[Type, ...]:
    constants = {
        index: tensor
        for index, value in enumerate(node.inputs)
        if (tensor := _small(value, floats=entry.is_enlarging)) is not None
    }
    key = _memo_key(entry, node, constants)
    if key is not None and key in _MEMO:
        return _MEMO[key]
    made = _with_rank(entry, node, _ask_onnx(entry, node, constants, opsets))
    if key is not None:
        if len(_MEMO) >= _MEMO_SIZE:
            _MEMO.clear()
        _MEMO[key] = made
    return made


def _with_rank(entry: OpDef, node: Node, types: tuple[Type, ...]) -> tuple[Type, ...]:
    """Return the number of dimensions of a result whose sizes are computed."""
    found = types[0] if types else UNKNOWN
    if entry.rank_from is None or not isinstance(found, TensorType) or found.shape is not None:
        return types
    sizes = sizes_of(node.input(entry.rank_from))
    return types if sizes is None else (TensorType(found.element, (None,) * sizes[0]), *types[1:])


def _small(value: Value | None, *, floats: bool) -> Tensor | None:
    """Return a constant that types may follow from: integers, and floats of ops that enlarge (Resize, Range)."""
    if value is None:
        return None
    tensor = value.constant if value.is_constant else None
    if tensor is not None:
        if tensor.size > LARGEST_CONSTANT or tensor.dtype is DType.STRING or (tensor.dtype.is_float and not floats):
            return None
        return tensor
    known = known_integers(value)
    return None if known is None else known


def _memo_key(entry: OpDef, node: Node, constants: Mapping[int, Tensor]) -> Any:
    attributes = []
    for name, attribute in node.attributes.items():
        if attribute.kind in {AttributeKind.TENSOR, AttributeKind.TENSORS} or attribute.reference:
            return None
        attributes.append((name, attribute.kind, attribute.value))
    types = tuple(None if v is None else _plain(v.type) for v in node.inputs)
    values = tuple((i, t.dtype, t.numpy().tobytes()) for i, t in constants.items())
    return (
        entry.domain,
        entry.name,
        entry.since_version,
        tuple(attributes),
        types,
        values,
        tuple(bool(r.name) for r in node.results),
    )


def _plain(type: Type) -> Type:  # noqa: A002
    return TensorType(type.dtype, type.shape) if isinstance(type, TensorType) and type.quant is not None else type


def _ask_onnx(entry: OpDef, node: Node, constants: Mapping[int, Tensor], opsets: Mapping[str, int]) -> tuple[Type, ...]:
    import onnx
    from onnx.checker import ValidationError
    from onnx.shape_inference import InferenceError, infer_node_outputs

    from qir.onnx_io.protos.types import read_type
    from qir.ops.protos import node_proto, tensor_proto, type_proto

    operands = tuple("" if value is None else f"i{index}" for index, value in enumerate(node.inputs))
    results = tuple(f"o{index}" if result.name or result.uses else "" for index, result in enumerate(node.results))
    if any(isinstance(value.type, UnknownType) for value in node.operands):
        return tuple(UNKNOWN for _ in results)
    check_before_inference(node, constants)
    try:
        found = infer_node_outputs(
            entry.schema,
            node_proto(node, operands, results),
            {
                name: type_proto(value.type)
                for name, value in zip(operands, node.inputs, strict=True)
                if value is not None
            },
            {operands[index]: tensor_proto(tensor, operands[index]) for index, tensor in constants.items()},
            opset_imports=[onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        )
    except (InferenceError, ValidationError, RuntimeError, ValueError, TypeError, LookupError) as error:
        raise QirError(f"node {node}: ONNX cannot infer its types: {str(error).strip().splitlines()[0]}") from error
    return tuple(_clean(read_type(found[name])) if name in found else UNKNOWN for name in results)


def _clean(type: Type) -> Type:  # noqa: A002
    """Return a type without element type counts as unknown."""
    return UNKNOWN if isinstance(type, TensorType) and type.element is DType.UNDEFINED else type


def _of_function(node: Node, module: Module, function: Function, budget: _Budget) -> tuple[Type, ...]:
    """Return the body's types, with the call's operand types put on its inputs; unknown when the budget is spent."""
    from qir.cloning import clone_graph

    budget.nodes -= 1 + sum(1 for _ in function.graph.walk())
    if budget.nodes < 0 or budget.depth >= DEEPEST_CALLS:
        return tuple(UNKNOWN for _ in node.results)
    budget.depth += 1
    body = clone_graph(function.graph)
    for parameter, operand in zip(body.inputs, node.inputs, strict=False):
        if operand is not None:
            parameter.type = operand.type
    for inner in body:
        if any(attribute.reference for attribute in inner.attributes.values()):
            continue
        for result, inferred in zip(inner.results, infer(inner, module, budget), strict=True):
            result.type = inferred
    budget.depth -= 1
    types = tuple(UNKNOWN if value is None else value.type for value in body.outputs)
    return (*types, *(UNKNOWN for _ in node.results[len(types) :]))[: len(node.results)]


def _of_control_flow(node: Node, module: Module | Mapping[str, int], budget: _Budget) -> tuple[Type, ...]:
    """If: what both branches return. Loop: carried values, then scans with one more dimension. Scan: as declared."""
    graphs = node.subgraphs()
    for graph in graphs:
        _infer_nodes(graph, module, budget)
    returned = [tuple(UNKNOWN if value is None else value.type for value in graph.outputs) for graph in graphs]
    if node.op == "If" and len(returned) == 2 and all(len(types) == len(node.results) for types in returned):
        return tuple(_common(a, b) for a, b in zip(*returned, strict=True))
    if node.op == "Loop" and len(returned) == 1 and len(returned[0]) == len(node.results) + 1:
        carried = len(node.inputs) - 2
        types = returned[0][1:]
        return (*(_any_shape(t) for t in types[:carried]), *(_stacked(t) for t in types[carried:]))
    return tuple(UNKNOWN for _ in node.results)


def _common(first: Type, second: Type) -> Type:
    if first == second:
        return first
    if not isinstance(first, TensorType) or not isinstance(second, TensorType) or first.dtype is not second.dtype:
        return UNKNOWN
    if first.shape is None or second.shape is None or len(first.shape) != len(second.shape):
        return TensorType(first.dtype, None)
    return TensorType(first.dtype, tuple(a if a == b else None for a, b in zip(first.shape, second.shape, strict=True)))


def _any_shape(type: Type) -> Type:  # noqa: A002
    """Return the type without its shape: a carried value may change it from turn to turn."""
    return TensorType(type.dtype, None) if isinstance(type, TensorType) else type


def _stacked(type: Type) -> Type:  # noqa: A002
    if not isinstance(type, TensorType):
        return UNKNOWN
    return TensorType(type.dtype, None if type.shape is None else (None, *type.shape))
