"""Which constants of a graph are trained, and how trained ones go back into a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from qir.backends.torch.quantizers import get_torch_scheme
from qir.fake_quant import FakeQuant, quantizers
from qir.graph import Graph, Value
from qir.labels import constant_labels
from qir.module import Module
from qir.ops import op_of
from qir.tensor import Array, Tensor
from qir.types import DType

Recalibrate = Callable[[FakeQuant, Array], Array]
"""(weight's quantizer, weight) → ranges of every candidate width, float32 [widths, channels or 1, 2]."""


def trained_values(graph: Graph) -> frozenset[Value]:
    """Return constants that training changes.

    Weights, biases and affine parameters of every node, subgraphs included.
    """
    found: set[Value] = set()
    for node in graph.walk():
        for index in op_of(node).trained:
            value = node.input(index)
            while value is not None and (producer := value.producer) is not None:
                passes = producer.is_fake_quant or op_of(producer).is_movement
                value = producer.input(0) if passes else None
            if value is not None and value.is_constant and value.constant is not None and value.constant.shape:
                found.add(value)
    return frozenset(found)


def write_constants(
    graph: Graph, module: Module, tensors: Mapping[Value, torch.Tensor], recalibrate: Recalibrate | None
) -> None:
    """Write changed parameters of a graph into a module's constants of the same names, scope by scope.

    Their quantizers get ranges or are stale.
    """
    own = constant_labels(graph)
    by_name = {name: value for value, name in constant_labels(module.graph).items()}
    for value, tensor in tensors.items():
        if not isinstance(tensor, nn.Parameter):
            continue
        if tensor.dtype is torch.bfloat16:
            continue
        array = tensor.detach().cpu().numpy()
        target = by_name[own[value]]
        if target.constant is None or np.array_equal(target.constant.numpy(), array):
            continue
        target.constant = Tensor.of(array.copy())
        for user in target.users:
            if not user.is_fake_quant:
                continue
            quantizer = FakeQuant(user)
            if recalibrate is None:
                quantizer.is_stale = True
            else:
                quantizer.calibration = recalibrate(quantizer, array)


def write_learned_ranges(module: Module, learned: Mapping[tuple[FakeQuant, int], nn.Parameter]) -> None:
    """Write learned ranges into the quantizers of the same names, at the widths they were learned for."""
    by_name = quantizers(module.graph) if learned else {}
    for (quantizer, bits), parameter in learned.items():
        scheme = get_torch_scheme(quantizer.scheme_name(bits))
        by_name[quantizer.name].set_ranges(bits, scheme.stored_ranges(parameter, quantizer.signed))


def fitted_ranges(quantizer: FakeQuant, weight: Array) -> Array:
    """Return the ranges that each width's scheme chooses from a weight: a rule for `recalibrate`.

    Args:
        quantizer: the weight's.
        weight: float values.

    Returns:
        float32 [widths, channels or 1, 2].

    Raises:
        QirError: a scheme refuses a width.
    """
    signed, narrow = quantizer.signed, quantizer.narrow
    rows, axis = quantizer.granularity.rows(weight)
    return np.stack([quantizer.scheme(bits).fit(rows, bits, signed, narrow, axis) for bits in quantizer.widths])


_SMALL = {DType.INT4: np.int8, DType.INT2: np.int8, DType.UINT4: np.uint8, DType.UINT2: np.uint8}
_NATIVE = frozenset(
    {"bool", "float16", "float32", "float64"} | {f"{u}int{b}" for u in ("", "u") for b in (8, 16, 32, 64)}
)
_VIEWS = {DType.BFLOAT16: (np.int16, torch.bfloat16)}


def torch_tensor(constant: Tensor) -> torch.Tensor | None:
    """Return a copy of a constant as a torch tensor.

    Codes of 2 and 4 bits in 8; None for element types that torch lacks.
    """
    array = constant.numpy()
    if constant.dtype in _SMALL:
        return torch.from_numpy(array.astype(_SMALL[constant.dtype]))
    if constant.dtype in _VIEWS:
        kept, dtype = _VIEWS[constant.dtype]
        return torch.from_numpy(np.array(array).view(kept)).view(dtype)
    if array.dtype.name not in _NATIVE:
        return None
    return torch.from_numpy(np.array(array))
