"""What the verifier holds against each node: its schema, its types, and its bits.

| invariant | what must hold |
| --- | --- |
| `opset` | the module (or function) imports a version of the node's operator set, in which the op is not deprecated |
| `arity` | as many operands and results as the schema allows; only optional operands are left out |
| `attributes` | attributes are known to the schema and of its kind; required ones are there |
| `operand-type`, `result-type` | types satisfy the schema's constraints and agree with what ONNX infers |
| `call` | a call of a model-local function passes no more than the function takes and returns |
| `subgraph-results` | the branches of If return as many values, of the same element types, as the node has results |
| `fake-quant` | bits are among the candidate widths, or one a channel; a valid quantized type follows |
| `bias-type` | a bias has the element type of the accumulator: that of the data, or int32 |
| `legal-pair` | with rules: (activation bits, weight bits) is a legal pair, for every channel that is not pruned |
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from qir.attributes import AttributeKind
from qir.errors import QirError, VerifyError
from qir.fake_quant import FakeQuant
from qir.graph import QIR_DOMAIN, Node
from qir.module import Function, Module
from qir.types import DType, OptionalType, SequenceType, TensorType, Type

if TYPE_CHECKING:
    from qir.constraints import OperandRules

_ONNX_LABELS = {DType.FLOAT32: "float", DType.FLOAT64: "double"}
_VARIADIC = "Variadic"
_OPTIONAL = "Optional"


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a node stands: its module, and the function whose body it belongs to."""

    module: Module
    function: Function | None = None

    @property
    def opsets(self) -> dict[str, int]:
        """Versions of the operator sets that the node's graph imports."""
        return self.module.opsets if self.function is None else self.function.opsets


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    option: str
    homogeneous: bool
    type: str


@dataclass(frozen=True, slots=True)
class _Schema:
    """A schema as the checks read it: plain Python, made once for each op and version."""

    operands: tuple[int, int]
    results: tuple[int, int]
    inputs: tuple[_Parameter, ...]
    outputs: tuple[_Parameter, ...]
    kinds: dict[str, AttributeKind]
    required: tuple[str, ...]
    allowed: dict[str, frozenset[str]]
    deprecated: bool


def _fail(rule: str, node: Node, found: str, expected: str) -> NoReturn:
    raise VerifyError(rule, f"node {node.name!r} ({node})", found, expected)


def _parameters(formals: Any) -> tuple[_Parameter, ...]:
    return tuple(_Parameter(f.name, f.option.name, bool(f.is_homogeneous), f.type_str) for f in formals)


@cache
def _schema(domain: str, op: str, version: int) -> _Schema | None:
    from qir.ops.schemas import schema_at

    found = schema_at(domain, op, version)
    if found is None:
        return None
    return _Schema(
        operands=(found.min_input, found.max_input),
        results=(found.min_output, found.max_output),
        inputs=_parameters(found.inputs),
        outputs=_parameters(found.outputs),
        kinds={name: AttributeKind(a.type.value) for name, a in found.attributes.items()},
        required=tuple(name for name, a in found.attributes.items() if a.required),
        allowed={c.type_param_str: frozenset(c.allowed_type_strs) for c in found.type_constraints},
        deprecated=bool(found.deprecated),
    )


def check_node(node: Node, scope: Scope) -> None:
    """Check what a node means by itself; raises `VerifyError`."""
    if node.is_return:
        return
    if node.is_fake_quant:
        _check_fake_quant(node)
        return
    function = scope.module.functions.get((node.domain, node.op, node.overload))
    if function is not None:
        _check_call(node, function)
        return
    if node.domain == QIR_DOMAIN:
        return
    version = _version(node, scope)
    schema = _schema(node.domain, node.op, version)
    if schema is None:
        return
    if schema.deprecated:
        _fail("opset", node, f"{node.op}, deprecated in version {version}", "an op that this version still has")
    _check_counts(node, schema)
    _check_attributes(node, schema)
    _check_types(node, schema)
    _check_branches(node)
    _check_inferred(node, scope)
    check_bias(node)


def _version(node: Node, scope: Scope) -> int:
    opsets = scope.opsets
    version = opsets.get(node.domain)
    if version is None and node.domain in {"", "ai.onnx"}:
        version = opsets.get("ai.onnx" if node.domain == "" else "")
    if version is None or version < 1:
        _fail("opset", node, f"version {version} of operator set {node.domain!r}", f"one of {opsets}")
    return version


def _check_counts(node: Node, schema: _Schema) -> None:
    for what, count, (least, most) in (
        ("operands", len(node._inputs), schema.operands),
        ("results", len(node.results), schema.results),
    ):
        if not least <= count <= most:
            _fail("arity", node, f"{count} {what}", f"{least} to {most}")
    for index, value in enumerate(node._inputs):
        if value is None and _parameter(schema.inputs, index).option == "Single":
            _fail("arity", node, f"operand {index} is left out", f"{schema.inputs[index].name} is required")


def _parameter(parameters: tuple[_Parameter, ...], index: int) -> _Parameter:
    return parameters[min(index, len(parameters) - 1)]


def _check_attributes(node: Node, schema: _Schema) -> None:
    for name, attribute in node._attributes.items():
        kind = schema.kinds.get(name)
        if kind is None:
            if not name.startswith("__"):
                _fail("attributes", node, f"an attribute {name!r}", f"one of {sorted(schema.kinds)}")
        elif attribute.kind is not kind:
            _fail("attributes", node, f"{name} of kind {attribute.kind.name}", kind.name)
    for name in schema.required:
        if name not in node._attributes:
            _fail("attributes", node, f"no attribute {name!r}", "required attributes are there")


def type_string(type: Type) -> str | None:  # noqa: A002
    """Return a type as ONNX's schemas write it, `tensor(float)`, or None when it is not known or not modelled."""
    if isinstance(type, TensorType):
        return f"tensor({_ONNX_LABELS.get(type.dtype, type.dtype.label)})"
    if isinstance(type, SequenceType | OptionalType):
        inner = type_string(type.element)
        return None if inner is None else f"{'seq' if isinstance(type, SequenceType) else 'optional'}({inner})"
    return None


def _check_types(node: Node, schema: _Schema) -> None:
    bound: dict[str, str] = {}
    for rule, values, parameters in (
        ("operand-type", node._inputs, schema.inputs),
        ("result-type", node.results, schema.outputs),
    ):
        for index, value in enumerate(values):
            found = None if value is None else type_string(value.type)
            if found is None or "undefined" in found:
                continue
            parameter = _parameter(parameters, index)
            allowed = schema.allowed.get(parameter.type)
            if found not in (allowed or (parameter.type,)):
                _fail(rule, node, f"{parameter.name} of type {found}", f"{parameter.type}{sorted(allowed or ())}")
            if allowed is not None and parameter.homogeneous and bound.setdefault(parameter.type, found) != found:
                _fail(rule, node, f"{parameter.name} of type {found}", f"{bound[parameter.type]} as {parameter.type}")


def _check_inferred(node: Node, scope: Scope) -> None:
    """Check that result types agree with what ONNX infers from the operands, wherever both say something."""
    from qir.ops.inference import infer, is_conditional

    if not node._inputs or node.subgraphs() or any(a.reference for a in node._attributes.values()):
        return
    try:
        inferred = infer(node, scope.opsets)
    except QirError as error:
        if is_conditional(node):
            return
        raise VerifyError("result-type", f"node {node.name!r} ({node})", str(error), "operands that fit") from error
    for value, expected in zip(node.results, inferred, strict=True):
        if not _agree(value.type, expected):
            _fail(
                "result-type",
                node,
                f"%{value.name} of type {value.type}",
                f"{expected}, which follows from the operands",
            )


def _agree(declared: Type, inferred: Type) -> bool:
    if not isinstance(declared, TensorType) or not isinstance(inferred, TensorType):
        return True
    if declared.dtype is not inferred.dtype and DType.UNDEFINED not in {declared.dtype, inferred.dtype}:
        return False
    if declared.shape is None or inferred.shape is None:
        return True
    return len(declared.shape) == len(inferred.shape) and all(
        a == b for a, b in zip(declared.shape, inferred.shape, strict=True) if isinstance(a, int) and isinstance(b, int)
    )


def _check_call(node: Node, function: Function) -> None:
    for what, count, most in (
        ("operands", len(node._inputs), len(function.graph.inputs)),
        ("results", len(node.results), len(function.graph.outputs)),
    ):
        if count > most:
            _fail("call", node, f"{count} {what}", f"at most {most}, as function {function.name} has")


def _check_branches(node: Node) -> None:
    branches = [
        a.value for name, a in node._attributes.items() if name in {"then_branch", "else_branch"} and a.graphs()
    ]
    for branch in branches:
        if len(branch.outputs) != len(node.results):
            _fail("subgraph-results", node, f"{len(branch.outputs)} values of {branch}", f"{len(node.results)}")
        for result, returned in zip(node.results, branch.outputs, strict=True):
            ours, theirs = type_string(result.type), None if returned is None else type_string(returned.type)
            if ours is not None and theirs is not None and ours != theirs:
                _fail("subgraph-results", node, f"%{returned.name} of type {theirs}", f"{ours} as %{result.name}")


def _check_fake_quant(node: Node) -> None:
    if len(node._inputs) != 1 or node._inputs[0] is None or len(node.results) != 1:
        _fail("arity", node, f"{len(node._inputs)} operands and {len(node.results)} results", "one operand, one result")
    bits = node.attribute("bits")
    widths = node.attribute("widths", ())
    if not isinstance(bits, int | tuple) or not isinstance(widths, tuple) or list(widths) != sorted(set(widths)):
        _fail("fake-quant", node, f"bits {bits} and widths {widths}", "bits and ascending candidate widths")
    for width in bits if isinstance(bits, tuple) else (bits,):
        if width not in widths and not (width == 0 and isinstance(bits, tuple)):
            _fail("fake-quant", node, f"{width} bits", f"one of the candidate widths {list(widths)}")
    try:
        derived = node.result.type
    except (QirError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise VerifyError("fake-quant", f"node {node.name!r} ({node})", str(error), "a valid quantized type") from error
    source = node._inputs[0].type
    if isinstance(source, TensorType) and not source.dtype.is_float:
        _fail("operand-type", node, f"{source}", f"a tensor of floats to be put on {derived}")


def check_bias(node: Node) -> None:
    """Raise `VerifyError` when a bias has neither the element type of the data nor int32."""
    from qir.ops import op_of

    operands = op_of(node).quantizable(node)
    if operands is None or operands.bias is None:
        return
    data, bias = node.input(operands.data), node.input(operands.bias)
    if data is None or bias is None or not isinstance(data.type, TensorType) or not isinstance(bias.type, TensorType):
        return
    if bias.type.dtype is not data.type.dtype and bias.type.dtype is not DType.INT32:
        _fail("bias-type", node, f"a bias of type {bias.type.dtype}", f"{data.type.dtype} or int32")


def check_operand_pairs(node: Node, rules: OperandRules) -> None:
    """Raise `VerifyError` when a quantizable node computes with widths that the rules do not allow."""
    from qir.ops import op_of
    from qir.tracing import quantizer_of

    operands = op_of(node).quantizable(node)
    if operands is None:
        return
    data, weight = (quantizer_of(node.input(index)) for index in (operands.data, operands.weight))
    if data is None or weight is None:
        return
    legal = rules.legal_pairs(node.op)
    for activation in _widths(data):
        for width in _widths(weight):
            if (activation, width) not in legal:
                found = f"({activation}, {width}) = bits of ({data.name!r}, {weight.name!r})"
                _fail("legal-pair", node, found, f"one of {sorted(legal)}")


def _widths(quantizer: FakeQuant) -> tuple[int, ...]:
    bits = quantizer.bits
    return tuple(sorted({b for b in bits if b})) if isinstance(bits, tuple) else (bits,)
