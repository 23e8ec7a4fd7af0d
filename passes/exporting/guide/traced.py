"""The record of what the integer reference does with a network: tensors, steps and their results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from qir.backends.integer.values import Grid, Pending
from qir.backends.integer.windows import Window
from qir.errors import QirError
from qir.graph import Node, Value
from qir.module import Module
from qir.tensor import Array

Kind = Literal["integer", "move", "view", "quantize", "float", "control-flow"]


@dataclass(eq=False)
class TracedTensor:
    """A tensor of the record.

    Attributes:
        name: of the value that holds it.
        shape: for one sample.
        element: `codes`, `sums`, or the name of an element type.
        grid: scale, zero point and channel axis of codes and sums.
        limits: smallest and largest code.
        view_of: the tensor that holds the same elements.
        moved: the tensor that its codes are copied from, the first of several.
    """

    name: str
    shape: tuple[int, ...]
    element: str
    grid: tuple[Array, Array] | None = None
    limits: tuple[int, int] = (0, 0)
    view_of: TracedTensor | None = None
    moved: TracedTensor | None = None

    @property
    def storage(self) -> TracedTensor:
        """The tensor that owns the memory."""
        return self if self.view_of is None else self.view_of.storage

    @property
    def scale(self) -> np.float32:
        """The scale of its codes, of the first channel where there are several.

        Raises:
            QirError: it holds no codes.
        """
        if self.grid is None:
            raise QirError(f"tensor {self.name!r}: holds {self.element}, which have no scale; expected codes")
        return np.float32(self.grid[0].reshape(-1)[0])


@dataclass(eq=False)
class TracedOutput:
    """A result of a step.

    Attributes:
        tensor: what is written.
        pending: the sums that become its codes; None where nothing is requantized.
        clamp: lowest and highest code.
    """

    tensor: TracedTensor
    pending: Pending | None = None
    clamp: tuple[int, int] | None = None


@dataclass(eq=False)
class TracedStep:
    """A step of the record.

    Attributes:
        node: the node of the followed network.
        kind: what it does.
        inputs: its operands: tensors, constants on a grid, or None for others.
        outputs: its results.
        offsets: of a move: one index array an axis, see `GatherGuide`; None for MaxPool and Concat.
        fill: the code of what lies outside, None where nothing does.
        window: of convolutions and pooling.
        bias: integers added to the sums.
    """

    node: Node
    kind: Kind
    inputs: list[TracedTensor | Value | None]
    outputs: list[TracedOutput] = field(default_factory=list)
    offsets: list[Array] | None = None
    fill: int | None = None
    window: Window | None = None
    bias: Array | None = None


@dataclass
class Trace:
    """The record of a network.

    Attributes:
        module: the network that was followed.
        inputs: tensors of the network's inputs.
        outputs: tensors of its outputs, by name.
        steps: in execution order.
        constants: what the network's constants hold, by value.
    """

    module: Module
    inputs: list[TracedTensor] = field(default_factory=list)
    outputs: dict[str, TracedTensor] = field(default_factory=dict)
    steps: list[TracedStep] = field(default_factory=list)
    constants: dict[Value, Grid] = field(default_factory=dict)
