"""The interface of layers that are linear in their data: layer(x) = W x + b with constant W and b.

A `LinearLayer` can take over a per-channel affine map that follows it (`after`: scale the output channels of W, change
b) or that precedes it (`before`: scale the input channels of W, change b). Arithmetic is float64, rounded once to the
weight's element type.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qir.graph import Node, Value
from qir.passes.analysis.affine import Affine, Reject, Vector
from qir.passes.analysis.constants import set_constant
from qir.tensor import Array

PREACTIVATION = "preactivation"
"""Key of `Node.meta` of a layer: (mean, standard deviation) of its outputs per channel, float64, from BatchNorm."""


def scaled_weight(weight: Array, factor: Array) -> Array:
    """Return weight * factor in float64, rounded once to the weight's element type; `factor` broadcasts."""
    made = np.empty(weight.shape, weight.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        if weight.dtype.name == "bfloat16":
            made[...] = (weight.astype(np.float64) * factor).astype(weight.dtype)
        else:
            np.multiply(weight, factor, out=made, dtype=np.float64, casting="unsafe")
    return made


def magnitudes(weight: Array) -> Vector:
    """Return the largest magnitude per channel of a weight [1, channels, elements]."""
    found: Vector = np.abs(weight).max(axis=(0, 2), initial=0).astype(np.float64)
    return found


def _is_finite(array: Array) -> bool:
    """Return whether no element is NaN or infinite; a finite sum of squares says so in one fast pass."""
    if array.dtype == np.float32:
        flat = array.reshape(-1)
        if np.isfinite(flat @ flat):
            return True
    return bool(np.isfinite(array).all())


class LinearLayer(ABC):
    """A linear node with constant weight and constant or missing bias.

    Attributes:
        node: the node.
        weight: its weight, read-only.
        bias: what it adds per output channel, float64 [out_channels] (Gemm also [rows, out_channels]).
    """

    def __init__(self, node: Node, weight: Array, bias: Array) -> None:
        self.node = node
        self.weight = weight
        self.bias = bias

    @property
    def result(self) -> Value:
        """The value that holds W x + b."""
        return self.node.result

    @property
    def name(self) -> str:
        """The node's name, or its result's."""
        return self.node.name or self.node.result.name

    @property
    @abstractmethod
    def out_channels(self) -> int:
        """Number of output channels."""

    @property
    @abstractmethod
    def in_channels(self) -> int:
        """Number of input channels."""

    @property
    @abstractmethod
    def rank(self) -> int | None:
        """Rank of the result, None when unknown."""

    @property
    def axis(self) -> int:
        """Channel axis of data and result, counted from the end."""
        return -1

    @abstractmethod
    def per_output(self, vector: Array) -> Array:
        """Return a vector over output channels in a shape that broadcasts against the weight."""

    @abstractmethod
    def per_input(self, vector: Array) -> Array:
        """Return a vector over input channels in a shape that broadcasts against the weight."""

    @abstractmethod
    def output_magnitudes(self) -> Vector:
        """Return the largest |weight| of each output channel: float64 [out_channels]."""

    @abstractmethod
    def input_magnitudes(self) -> Vector:
        """Return the largest |weight| of each input channel: float64 [in_channels]."""

    @abstractmethod
    def sums(self, vector: Vector) -> Vector:
        """Return what input channels that hold the constants `vector` everywhere add to each output channel."""

    def write(self, weight: Array | None, bias: Array) -> None:
        """Store a new weight, if there is one, and a new float64 bias; constants shared with other nodes are copied."""
        if weight is not None:
            set_constant(self.node, 1, weight, self.weight_name())
        self.write_bias(bias)

    @abstractmethod
    def write_bias(self, bias: Array) -> None:
        """Store a new float64 bias in the weight's element type."""

    def pads_zeros(self) -> bool:
        """Return whether some outputs see zeros in place of data, so that a constant input gives no constant output."""
        return False

    def after(self, affine: Affine) -> Edit | Reject:
        """Return the layer x -> affine(layer(x))."""
        if affine.channels != self.out_channels:
            return Reject(f"it has {affine.channels} channels and {self.name!r} has {self.out_channels}")
        weight = self._scaled(affine.scale, self.per_output)
        return self._edit(weight, self.bias * affine.scale + affine.shift)

    def before(self, affine: Affine) -> Edit | Reject:
        """Return the layer x -> layer(affine(x))."""
        if affine.channels != self.in_channels:
            return Reject(f"it has {affine.channels} channels and {self.name!r} takes {self.in_channels}")
        shifts = bool(affine.shift.any())
        if shifts and self.pads_zeros():
            return Reject(f"{self.name!r} pads with zeros, which the shift does not reach")
        weight = self._scaled(affine.scale, self.per_input)
        return self._edit(weight, self.bias + self.sums(affine.shift) if shifts else self.bias)

    def _scaled(self, scale: Vector, shape: Callable[[Array], Array]) -> Array | None:
        return scaled_weight(self.weight, shape(scale)) if (scale != 1).any() else None

    def _edit(self, weight: Array | None, bias: Array) -> Edit | Reject:
        with np.errstate(over="ignore"):
            finite = np.isfinite(bias.astype(self.weight.dtype)).all()
            finite = finite and (weight is None or _is_finite(weight))
        return (
            Edit(self, weight, bias)
            if finite
            else Reject(f"weights of {self.name!r} would overflow {self.weight.dtype}")
        )

    def bias_name(self) -> str:
        """Return what a new bias is called: after the weight."""
        weight = self.node.input(1)
        name = weight.name if weight is not None else ""
        return name.removesuffix("weight") + "bias" if name.endswith("weight") else f"{self.name}.bias"

    def weight_name(self) -> str:
        """Return the weight's name."""
        weight = self.node.input(1)
        return weight.name if weight is not None else f"{self.name}.weight"


@dataclass(frozen=True, eq=False)
class Edit:
    """New constants of a layer, not yet written; a weight of None stays as it is."""

    layer: LinearLayer
    weight: Array | None
    bias: Array

    def apply(self) -> None:
        """Write them into the graph."""
        self.layer.write(self.weight, self.bias)
