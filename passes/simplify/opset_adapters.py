"""What the meaning of a node needs when its operator changes between versions of ONNX's operator set.

An adapter stands for the version in which the new form of the operator began. Changes that only add types, defaults or
attributes need none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qir.errors import PassError
from qir.graph import Node, Value
from qir.passes.analysis.constants import array_of
from qir.rewriting.engine import Rewriter
from qir.tensor import Array, Tensor
from qir.types import TensorType


@dataclass(frozen=True)
class Site:
    """A node that is brought to a newer version, and where its new constants go.

    Attributes:
        node: the node, rewritten in place.
        rewriter: what changes the graph.
        in_function: it stands in a model-local function, which has no constants of its own: `Constant` nodes take
            their place.
    """

    node: Node
    rewriter: Rewriter
    in_function: bool

    @property
    def where(self) -> str:
        """How messages call the node."""
        return f"{self.node.op} {self.node.name or self.node.result.name!r}"

    def constant(self, array: Array, label: str) -> Value:
        """Return a constant in front of the node."""
        graph = self.node.scope
        name = f"{self.node.name or self.node.result.name}.{label}"
        tensor = Tensor.of(array)
        if not self.in_function:
            return graph.add_constant(name, tensor)
        made = Node("Constant", (), name=graph.clock.unique_name(name), attributes={"value": tensor})
        made.result.type = tensor.type
        return self.rewriter.insert(made, before=self.node).result

    def before(self, op: str, *operands: Value | None, **attributes: object) -> Value:
        """Return the result of a new node in front of the node."""
        name = self.node.scope.clock.unique_name(f"{self.node.name or self.node.result.name}.{op.lower()}")
        made = Node(op, operands, name=name, attributes=attributes)
        return self.rewriter.insert(made, before=self.node).result

    def take(self, name: str) -> object:
        """Return an attribute's value, which is removed; None when it is not there.

        Raises:
            PassError: the attribute is a parameter of the function that the node stands in.
        """
        found = self.node.attributes.get(name)
        if found is not None and found.reference:
            raise PassError(f"{self.where}: attribute {name!r} is a parameter of its function: inline the function")
        value: object = self.node.attribute(name)
        self.node.set_attribute(name, None)
        return value

    def refuse(self, what: str) -> PassError:
        """Return the error for a form that newer versions do not have."""
        return PassError(f"upgrade-opset: {self.where} {what}: newer operator sets have no such form; export it again")


Adapter = Callable[[Site], None]


def _shape_of(value: Value | None) -> tuple[object, ...] | None:
    return None if value is None else value.shape


def _to_input(name: str, index: int, *, dtype: str = "int64") -> Adapter:
    """Return the adapter by which an attribute becomes operand `index`."""

    def adapt(site: Site) -> None:
        value = site.take(name)
        if value is None:
            return
        operands = list(site.node.inputs) + [None] * (index + 1 - len(site.node.inputs))
        operands[index] = site.constant(np.asarray(value, dtype), name)
        site.node.set_inputs(operands)

    return adapt


def _all(*adapters: Adapter) -> Adapter:
    def adapt(site: Site) -> None:
        for adapter in adapters:
            adapter(site)

    return adapt


def _drop(*names: str) -> Adapter:
    def adapt(site: Site) -> None:
        for name in names:
            site.node.set_attribute(name, None)

    return adapt


def _element_of(site: Site) -> str:
    known = site.node.input(0)
    if known is not None and known.dtype is not None and known.dtype.is_float:
        return str(known.dtype.name.lower())
    return "float32"


def _broadcast(site: Site) -> None:
    """Before 7 the second operand was laid along the axes from `axis` on; now shapes are aligned at their ends."""
    axis, wanted = site.take("axis"), site.take("broadcast")
    first, second = (_shape_of(site.node.input(index)) for index in (0, 1))
    if not wanted or axis is None:
        return
    if first is None or second is None:
        raise site.refuse("broadcasts an operand of unknown rank")
    start = int(axis) % len(first) if isinstance(axis, int) else 0
    _lift(site, 1, len(first) - start - len(second))


def _lift(site: Site, index: int, trailing: int) -> None:
    """Give an operand trailing dimensions of 1."""
    if trailing <= 0:
        return
    value = site.node.inputs[index]
    array = array_of(value)
    if array is not None:
        made = site.constant(array.reshape(*array.shape, *[1] * trailing), "lifted")
    else:
        rank = len(_shape_of(value) or ())
        axes = site.constant(np.arange(rank, rank + trailing, dtype=np.int64), "axes")
        made = site.before("Unsqueeze", value, axes)
    site.node.set_input(index, made)


def _slope(site: Site) -> None:
    """Before 7 a slope per channel was a vector."""
    data, slope = (_shape_of(site.node.input(index)) for index in (0, 1))
    if slope is not None and len(slope) == 1 and slope != (1,):
        if data is None:
            raise site.refuse("has data of unknown rank")
        _lift(site, 1, len(data) - 2)


def _is_inference(site: Site) -> None:
    if any(value.uses for value in site.node.results[1:]):
        raise site.refuse("is in training mode")
    if not site.node.attribute("spatial", 1):
        raise site.refuse("normalizes every place by itself")
    _drop("is_test", "spatial")(site)
    if len(site.node.results) > 1:
        raise site.refuse("hands out the statistics of training")


def _upsample(site: Site) -> None:
    """Upsample became Resize in 10."""
    site.node.op = "Resize"


def _resize(site: Site) -> None:
    """Up to 10 coordinates were asymmetric, and the nearest pixel the one before (after, where the image shrinks)."""
    node = site.node
    data, scales = node.inputs[:2]
    array = array_of(scales)
    if node.attribute("mode", "nearest") == "nearest":
        shrinks = array is not None and bool((array < 1).any())
        if shrinks and array is not None and (array > 1).any():
            raise site.refuse("shrinks one axis and enlarges another to the nearest pixel")
        node.set_attribute("nearest_mode", "ceil" if shrinks else "floor")
    node.set_attribute("coordinate_transformation_mode", "asymmetric")
    node.set_inputs((data, None, scales))


def _scatter(site: Site) -> None:
    site.node.op = "ScatterElements"


def _softmax(site: Site) -> None:
    """Up to 11 the axes from `axis` on (default 1) were normalized together."""
    node, axis = site.node, site.take("axis")
    start = axis if isinstance(axis, int) else 1
    data = node.inputs[0]
    shape = _shape_of(data)
    if shape is not None:
        start %= len(shape)
        if all(dim == 1 for dim in shape[start + 1 :]):
            node.set_attribute("axis", start)
            return
    old = node.result
    uses = old.uses
    size = site.before("Shape", data)
    node.set_input(0, site.before("Flatten", data, axis=start))
    node.set_attribute("axis", -1)
    reshaped = Node("Reshape", (), name=node.scope.clock.unique_name(f"{node.name or node.op}.reshape"))
    site.rewriter.insert(reshaped, after=node)
    reshaped.result.type = old.type
    if isinstance(old.type, TensorType):
        old.type = TensorType(old.type.element, (None, None))
    site.rewriter.redirect(uses, reshaped.result)
    reshaped.set_inputs((old, size))


def _count_parts(site: Site) -> None:
    """From 18 on a Split without sizes says into how many parts."""
    if site.node.input(1) is None:
        site.node.set_attribute("num_outputs", len(site.node.results))


def _grid_sample(site: Site) -> None:
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = site.node.attribute("mode", "bilinear")
    site.node.set_attribute("mode", names.get(mode, mode))


def _group_normalization(site: Site) -> None:
    """Up to 20 scale and bias were one a group, now they are one a channel."""
    shape, groups = _shape_of(site.node.input(0)), site.node.attribute("num_groups")
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    for index, label in ((1, "scale"), (2, "bias")):
        array = array_of(site.node.input(index))
        if array is None or not isinstance(channels, int):
            raise site.refuse("has scales that are computed, or data of unknown channels")
        site.node.set_input(index, site.constant(np.repeat(array, channels // groups), label))


def _fourier_axis(site: Site) -> None:
    axis = site.take("axis")
    operands = [*site.node.inputs, None][:2]
    site.node.set_inputs([*operands, site.constant(np.asarray(1 if axis is None else axis, np.int64), "axis")])


def _float_input(name: str, index: int) -> Adapter:
    def adapt(site: Site) -> None:
        _to_input(name, index, dtype=_element_of(site))(site)

    return adapt


def _no(what: str) -> Adapter:
    def adapt(site: Site) -> None:
        raise site.refuse(what)

    return adapt


def _pad(site: Site) -> None:
    _to_input("pads", 1)(site)
    _float_input("value", 2)(site)


def _clip(site: Site) -> None:
    _float_input("min", 1)(site)
    _float_input("max", 2)(site)


def _slice(site: Site) -> None:
    for index, name in enumerate(("starts", "ends", "axes"), 1):
        _to_input(name, index)(site)


def _top_k(site: Site) -> None:
    site.node.set_inputs([*site.node.inputs, site.constant(np.asarray([site.take("k")], np.int64), "k")])


_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")

ADAPTERS: dict[tuple[str, int], Adapter] = {
    **{(op, 7): _broadcast for op in _ELEMENTWISE},
    ("Gemm", 7): _drop("broadcast"),
    ("PRelu", 7): _slope,
    ("Dropout", 7): _drop("is_test"),
    **{(op, 7): _drop("output_sequence") for op in ("LSTM", "GRU", "RNN")},
    ("BatchNormalization", 7): _is_inference,
    ("BatchNormalization", 9): _is_inference,
    ("BatchNormalization", 14): _is_inference,
    ("Upsample", 9): _to_input("scales", 1, dtype="float32"),
    ("Scan", 9): _no("is of the first kind"),
    ("Upsample", 10): _upsample,
    ("Slice", 10): _slice,
    ("TopK", 10): _top_k,
    ("Resize", 11): _resize,
    ("Scatter", 11): _scatter,
    ("Clip", 11): _clip,
    ("Pad", 11): _pad,
    ("Dropout", 12): _float_input("ratio", 1),
    **{(op, 13): _softmax for op in ("Softmax", "LogSoftmax", "Hardmax")},
    **{(op, 13): _to_input("axes", 1) for op in ("ReduceSum", "Squeeze", "Unsqueeze")},
    ("Split", 13): _to_input("split", 1),
    ("Split", 18): _count_parts,
    **{(f"Reduce{op}", 18): _to_input("axes", 1) for op in _REDUCTIONS},
    ("GridSample", 20): _grid_sample,
    ("DFT", 20): _fourier_axis,
    ("GroupNormalization", 21): _group_normalization,
}
"""(operator, version in which its new form began) → what brings a node of the form before to it."""
