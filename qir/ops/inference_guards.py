"""What ONNX's type inference must not be asked: it divides by such numbers or reads past such shapes, unchecked.

A damaged file would end the process there (a division by zero, a segmentation fault) in place of an error.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from qir.errors import QirError
from qir.node import Node
from qir.tensor import Array, Tensor

_LARGEST = 2**15
_SIZES = ("strides", "dilations", "kernel_shape", "blocksize", "group", "num_groups")
"""Attributes that are sizes: 1 to 32,768."""
_SAME_RANK = {
    **dict.fromkeys(("Conv", "ConvInteger", "ConvTranspose", "DeformConv", "MaxUnpool"), 1),
    "QLinearConv": 3,
}
"""Ops whose operand of this index has as many dimensions as the first one."""
_DIVISIONS = {"Div", "Mod"}
_LONGEST_SHAPE = 2**12
"""Vectors with more elements are not shapes: inference would make so many dimensions."""
_SHAPES = {
    **dict.fromkeys(("ConstantOfShape",), (0,)),
    **dict.fromkeys(("Reshape", "Expand", "Tile", "Pad", "Upsample", "CenterCropPad", "AffineGrid"), (1,)),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), (1,)),
    **dict.fromkeys(("Col2Im", "MaxUnpool"), (1, 2)),
    **dict.fromkeys(("Resize", "Slice"), (1, 2, 3, 4)),
}
"""Operands whose length is a number of dimensions."""
_COUNTS = {"OneHot": 1, "SplitToSequence": 1}
"""Ops whose constant operand of this index is a size or holds sizes."""


def check_before_inference(node: Node, constants: Mapping[int, Tensor]) -> None:
    """Refuse a node that would crash ONNX's type inference.

    Args:
        node: of a standard op.
        constants: its small constant operands, by index.

    Raises:
        QirError: an attribute, a rank or a constant is impossible; names it.
    """
    for name in _SIZES:
        attribute = node.attributes.get(name)
        values = (
            () if attribute is None else attribute.value if isinstance(attribute.value, tuple) else (attribute.value,)
        )
        for value in values:
            if isinstance(value, int) and not 1 <= value <= _LARGEST:
                raise QirError(f"node {node}: attribute {name!r} holds {value}; expected 1 to {_LARGEST}")
    parts = node.attributes.get("num_outputs")
    if parts is not None and parts.value != len(node.results):
        raise QirError(f"node {node}: attribute 'num_outputs' is {parts.value}; expected {len(node.results)}")
    for position in _SHAPES.get(node.op, ()):
        length = _length(node, position)
        if length is not None and length > _LONGEST_SHAPE:
            raise QirError(f"node {node}: operand {position} has {length} elements; expected one a dimension")
    problem = undefined_division(node, {i: tensor.numpy() for i, tensor in constants.items()})
    if problem is not None:
        raise QirError(f"node {node}: {problem}")
    index = _SAME_RANK.get(node.op)
    if index is not None and (ranks := (_rank(node, 0), _rank(node, index)))[0] != ranks[1] and None not in ranks:
        raise QirError(f"node {node}: operands of {ranks[0]} and {ranks[1]} dimensions; expected as many")
    counts = constants.get(_COUNTS.get(node.op, -1))
    if counts is not None and (not counts.size or int(counts.numpy().min()) < 1):
        raise QirError(
            f"node {node}: operand {_COUNTS[node.op]} is {counts.numpy().tolist()}; expected sizes of 1 or more"
        )


def undefined_division(node: Node, operands: Mapping[int, Array | None]) -> str | None:
    """Return what makes a division of integers end the process, None where nothing does.

    Args:
        node: any node.
        operands: those that are known, by index.
    """
    divisor = operands.get(1)
    if node.op not in _DIVISIONS or node.domain not in {"", "ai.onnx"} or divisor is None:
        return None
    if divisor.dtype.kind not in "iu":
        return None
    if not divisor.all():
        return "it divides integers by 0; expected other divisors: repair the constant"
    dividend = operands.get(0)
    if dividend is None or divisor.dtype.kind != "i" or not (divisor == -1).any():
        return None
    smallest = np.iinfo(divisor.dtype).min
    try:
        overflows = bool(((dividend == smallest) & (divisor == -1)).any())
    except ValueError:  # shapes that do not fit are inference's to refuse
        return None
    return f"it divides {smallest} by -1, which {divisor.dtype} cannot hold: repair the constant" if overflows else None


def _length(node: Node, index: int) -> int | None:
    value = node.input(index)
    shape = None if value is None else value.shape
    return shape[0] if shape is not None and len(shape) == 1 and isinstance(shape[0], int) else None


def _rank(node: Node, index: int) -> int | None:
    value = node.input(index)
    shape = None if value is None else value.shape
    return None if shape is None else len(shape)
