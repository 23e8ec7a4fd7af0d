"""Which values of an exported network hold codes, how ONNX Runtime's default computes them, and why not on integers."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from qir.backends.execution.session import INTEGER_OPS, OrtSession
from qir.backends.integer.operators import operator_of
from qir.backends.integer.reference import DEQUANTIZE, QUANTIZE
from qir.graph import Node, Value
from qir.module import Module
from qir.ops import op_of
from qir.types import DType, TensorType, tensor_type

_NARROW = {DType.UINT4: DType.UINT8, DType.INT4: DType.INT8, DType.UINT2: DType.UINT8, DType.INT2: DType.INT8}
"""Element types that ONNX Runtime hands out of a session in no numpy type, and what holds their codes."""


@dataclass
class LayerParity:
    """One tensor of codes.

    Attributes:
        value: name of the value that holds the codes.
        node: name of the node whose result is quantized.
        kernel: how ONNX Runtime computes it at its default: `integer`, `float`, or `border` (a quantized input).
        reason: why it is computed on floats, empty otherwise.
        promised: whether equal codes are promised: it is computed on integers, by ONNX Runtime and by the reference.
        codes: number of codes compared.
        mismatches: codes that differ, by engine.
        ties: how many of them are rounding ties of a float operator, by engine.
        saturated: how many of them are what pairs of products clipped to int16 give, by engine.
        largest: largest difference of a code, by engine.
        sqnr: signal to quantization noise against the float network, in decibels; None where that has no such value.
    """

    value: str
    node: str
    kernel: str
    reason: str
    promised: bool
    codes: int = 0
    mismatches: dict[str, int] = field(default_factory=dict)
    ties: dict[str, int] = field(default_factory=dict)
    saturated: dict[str, int] = field(default_factory=dict)
    largest: dict[str, int] = field(default_factory=dict)
    sqnr: float | None = None

    def faults(self, engine: str) -> int:
        """Return codes that differ and are neither rounding ties nor saturated sums."""
        return self.mismatches.get(engine, 0) - self.ties.get(engine, 0) - self.saturated.get(engine, 0)


def code_values(module: Module) -> dict[Node, Value]:
    """Return the value that holds the codes of each QuantizeLinear and operator on codes, in order.

    It is the node's result, or that of the Clip, or Cast, Clip and Cast, that limits it to fewer bits. Weights that the
    file itself quantizes are none: they depend on no input.
    """
    found, fixed = {}, set[Value]()
    for node in module.graph:
        if node.operands and all(value.is_constant or value in fixed for value in node.operands):
            fixed.update(node.results)
        elif makes_codes(node):
            value = node.result
            while (limiter := _limiter(value)) is not None:
                value = limiter.result
            found[node] = value
    return found


def makes_codes(node: Node) -> bool:
    """Return whether a node puts its result on a grid."""
    if node.op == QUANTIZE:
        return True
    operator = operator_of(node)
    return operator is not None and 0 <= operator.output[0] < len(node.inputs)


def grids_of(node: Node) -> list[tuple[Value, Value | None]]:
    """Return the (scale, zero point) operands of a node that quantizes, dequantizes or computes on codes."""
    places = [(1, 2)] if node.op in (QUANTIZE, DEQUANTIZE) else []
    if (operator := operator_of(node)) is not None:
        places = [*((scale, zero) for _, scale, zero in operator.operands), operator.output]
    found = [(node.input(scale), node.input(zero)) for scale, zero in places if scale >= 0]
    return [(scale, zero) for scale, zero in found if scale is not None]


def _limiter(value: Value) -> Node | None:
    """Return the Clip after a value of codes, or a Cast between integers around a Clip."""
    users = value.users
    if len(users) != 1:
        return None
    kind = users[0].result.type if users[0].op == "Cast" else None
    integers = isinstance(kind, TensorType) and not kind.dtype.is_float
    return users[0] if users[0].op == "Clip" or integers else None


def codes_shown(module: Module) -> dict[str, bool]:
    """Return names under which `expose_codes` shows codes → whether it is an output of the network too."""
    return {value.name: value.is_output for value in code_values(module).values()}


def expose_codes(module: Module) -> Module:
    """Return a copy of an exported network whose codes are outputs too, under their own names; kernels fuse as before.

    Codes of 2 and 4 bits come out in 8 bits.
    """
    copy = module.clone()
    graph = copy.graph
    extra, names = [], []
    for node, value in code_values(copy).items():
        if value.is_output:
            continue
        names.append(value.name)
        wide = _NARROW.get(_code_type(node, value))
        if wide is None:
            extra.append(value)
            continue
        cast = Node("Cast", (value,), (f"{value.name}.wide",), attributes={"to": wide.onnx_code})
        graph.insert(cast, after=value.producer)
        cast.result.type = tensor_type(wide, value.shape)
        extra.append(cast.result)
    graph.set_outputs([*graph.outputs, *extra], [*graph.output_names, *names])
    return copy


def _code_type(node: Node, value: Value) -> DType:
    """Return the element type of a node's codes: the value's, or that of the zero point where no type is known."""
    if isinstance(value.type, TensorType):
        return value.type.dtype
    zero = grids_of(node)[-1][1]
    constant = None if zero is None else zero.constant
    return DType.UINT8 if constant is None else constant.dtype


def layers_of(module: Module, exposed: Module | None, *, fused: bool) -> list[LayerParity]:
    """Return every tensor of codes, and how ONNX Runtime computes it.

    Args:
        module: the exported network.
        exposed: its copy with codes as outputs (`expose_codes`); None where ONNX Runtime refuses the file.
        fused: whether QDQ fusion is on, as the file asks for.
    """
    kernels = {} if exposed is None else _kernels(exposed, fused=fused)
    layers = []
    for node, value in code_values(module).items():
        made = node.operands[0].producer if node.op == QUANTIZE else node
        kernel = _kernel(node, made, kernels)
        reason = ""
        if kernel == "float" and made is not None:
            reason = _reason(node, made) if fused else "the file asks for a session without QDQ fusion"
        label = (node if made is None else made).label
        layers.append(LayerParity(value.name, label, kernel, reason, kernel != "float"))
    return layers


def _kernel(node: Node, made: Node | None, kernels: dict[str, str]) -> str:
    """Return how ONNX Runtime makes a node's codes: `made` is what the node quantizes, or the node itself."""
    if made is None:
        return "border"
    operator = kernels.get(node.result.name, QUANTIZE)
    return "integer" if operator != QUANTIZE or made.op == DEQUANTIZE else "float"


def _kernels(exposed: Module, *, fused: bool) -> dict[str, str]:
    """Operator that makes each value in ONNX Runtime's optimized graph, seen through a Cast."""
    from qir.onnx_io import load

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        OrtSession(exposed, save_optimized=path, disable_qdq_fusion=not fused)
        nodes = list(load(path).graph)
    made = {value.name: node.op for node in nodes for value in node.results}
    casts = {node.result.name: made.get(node.operands[0].name, "") for node in nodes if node.op == "Cast"}
    return made | casts


def _reason(quantize: Node, made: Node) -> str:
    """Return why ONNX Runtime keeps a node on floats, from what its fusion asks for."""
    zero = quantize.input(2)
    if made.op in ("Relu", "Clip"):
        constant = None if zero is None else zero.constant
        if constant is not None and constant.numpy().any():
            return f"its {made.op} does not fold into a zero point other than 0"
        inner = made.operands[0].producer
        return f"its {made.op} follows an input" if inner is None else _reason(quantize, inner)
    found = op_of(made).quantizable(made)
    weight = None if found is None else made.input(found.weight)
    if weight is not None and weight.is_constant:
        data = made.input(found.data) if found is not None else None
        chosen = data is not None and data.producer is not None and data.producer.op == DEQUANTIZE
        return f"its weight {weight.name!r} has no codes{', ONNX Runtime chooses some by itself' if chosen else ''}"
    keeps_grid = op_of(made).grid_operand(made) is not None
    if not keeps_grid and not any(f"QLinear{made.op}" == name or f"Q{made.op}" == name for name in INTEGER_OPS):
        return f"ONNX Runtime has no integer kernel for {made.op}"
    for operand in made.operands:
        source = operand.producer
        if not operand.is_constant and (source is None or source.op != DEQUANTIZE):
            return f"its operand {operand.name!r} has no codes"
    elements = [_element(value.producer.operands[0]) for value in made.operands if value.producer is not None]
    types = ", ".join((*elements[:2], _element(quantize.result)))
    return f"ONNX Runtime does not fuse {made.op} with the element types {types}"


def _element(value: Value) -> str:
    """Return the element type of codes: the value's, or that of the zero point where no type is known."""
    if isinstance(value.type, TensorType):
        return value.type.dtype.label
    node = value.producer if value.producer is not None and makes_codes(value.producer) else None
    return "?" if node is None else _code_type(node, value).label
