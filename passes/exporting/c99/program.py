"""C of a network while it is written: where its tensors lie, and the constants, scratch and calls so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from qir.errors import ExportError
from qir.guide_network import MultiplierGuide, NetworkTensor, OutputGuide, StepGuide
from qir.passes.exporting.c99.reading import elements, label, numbers, required
from qir.passes.exporting.guide.reader import GuideReader
from qir.passes.exporting.memory_plan import Buffer, plan_memory
from qir.tensor import Array


@dataclass(frozen=True)
class Port:
    """An input or output of the function.

    Attributes:
        name: of the parameter.
        tensor: whose codes it is.
        type: `uint8_t` or `int8_t`.
        count: number of codes.
    """

    name: str
    tensor: NetworkTensor
    type: str
    count: int


@dataclass(frozen=True)
class Thresholds:
    """Thresholds of a layer's sums.

    Attributes:
        array: name of what holds them, channel after channel.
        count: how many a channel has.
        many: whether channels have their own.
        first: the code below the first.
    """

    array: str
    count: int
    many: bool
    first: int


@dataclass
class Program:
    """What is written of a network's function.

    Args:
        reader: its guide.

    Attributes:
        inputs, outputs: parameters of the function.
        tensors, weights: entries of the guide by name.
        kernels: names of the kernels that are called.
        constants: definitions, in order.
        body: statements, in order.
        scratch: elements of each scratch array.
        arena: bytes of static memory for activations.
        places: where each tensor that owns memory lies, as C writes it.
    """

    reader: GuideReader
    kernels: set[str] = field(default_factory=set)
    constants: list[str] = field(default_factory=list)
    body: list[str] = field(default_factory=list)
    scratch: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        guide = self.reader.guide
        self.tensors = {tensor.name: tensor for tensor in guide.tensors}
        self.weights = {constant.name: constant for constant in guide.constants}
        self.inputs = self._ports([name for port in guide.inputs for name in port.codes], "in")
        self.outputs = self._ports([port.tensor for port in guide.outputs], "out")
        self.arena, self.places = self._plan()

    def _ports(self, names: Sequence[str], prefix: str) -> tuple[Port, ...]:
        found = []
        for index, name in enumerate(names):
            tensor = self.tensors[name]
            low, _ = self.limits(tensor)
            label = prefix if len(names) == 1 else f"{prefix}{index}"
            found.append(Port(label, tensor, "int8_t" if low < 0 else "uint8_t", elements(tensor)))
        return tuple(found)

    def limits(self, tensor: NetworkTensor) -> tuple[int, int]:
        """Return the smallest and largest code that the bytes of a tensor stand for."""
        grid = tensor.grid
        if tensor.element != "codes" or grid is None:
            raise ExportError(
                f"profile 'c99': tensor {tensor.name!r} holds {tensor.element}: quantize it, with a quantizer on the "
                "outputs of the network too"
            )
        if grid.high_code - grid.low_code > 255 or grid.low_code < -128 or grid.high_code > 255:
            raise ExportError(
                f"profile 'c99': tensor {tensor.name!r} has codes {grid.low_code} to {grid.high_code}: the kernels "
                "take up to 8 bits"
            )
        return grid.low_code, grid.high_code

    def zero(self, tensor: NetworkTensor) -> int:
        """Find the zero point of a tensor."""
        zero = self.reader.integers(required(tensor.grid, f"tensor {tensor.name!r} no grid").zero_point)
        if zero.size != 1:
            raise ExportError(f"profile 'c99': tensor {tensor.name!r} has a zero point a channel")
        return int(zero[0])

    def offset(self, tensor: NetworkTensor) -> int:
        """Return what is added to a byte to give the integer, code less zero point."""
        return self.limits(tensor)[0] - self.zero(tensor)

    def _plan(self) -> tuple[int, dict[str, str]]:
        """Return the size of the arena, and offsets of the tensors in it, one byte a code."""
        guide = self.reader.guide
        if guide.memory is None:
            raise ExportError(f"profile 'c99': sizes are unknown: {guide.memory_unknown}")
        direct = {port.tensor.name: port.name for port in self.inputs if self.limits(port.tensor)[0] == 0}
        kept = [b for b in guide.memory.tensors if b.name not in direct]
        buffers = [Buffer(b.name, b.quantizer, 8, b.elements, b.elements, b.first, b.last) for b in kept]
        plan = plan_memory(buffers)
        return plan.peak, direct | {b.name: f"arena + {at}" for b, at in zip(buffers, plan.offsets, strict=True)}

    def at(self, name: str) -> str:
        """Find where a tensor lies, as C writes it."""
        tensor = self.tensors[name]
        self.limits(tensor)
        return self.places[tensor.view_of or name]

    def constant(self, type_: str, name: str, text: str) -> str:
        """Define an array, and return its name."""
        self.constants.append(f"static const {type_} {name}[] = {{\n  {text}}};")
        return name

    def to(
        self,
        key: str,
        step: StepGuide,
        output: OutputGuide,
        entries: slice = slice(None),
        limits: Thresholds | None = None,
    ) -> str:
        """Define the struct that turns sums into codes of a result, and return its address.

        Args:
            key: prefix of names.
            step: the step.
            output: the result.
            entries: multipliers that it takes.
            limits: thresholds in place of a multiplier.
        """
        tensor, found = self.tensors[output.tensor], output.multiplier
        low, _ = self.limits(tensor)
        mantissas, shifts = self.multipliers(found)
        mantissas, shifts = mantissas[:, entries], shifts[entries]
        many = shifts.size > 1 and step.op not in ("Add", "Mul")
        if shifts.size > 1 and not many:
            raise ExportError(f"profile 'c99': step {label(step)} has a multiplier a channel")
        clamp = output.clamp or self.limits(tensor)
        self.kernels.add("output")
        if limits is not None:
            ends = f"{limits.first}, {clamp[0]}, {clamp[1]}, {low}"
            values = f"0, 0, {int(limits.many)}, {ends}, {limits.array}, {limits.count}"
            self.constants.append(f"static const qir_output {key}_to = {{{values}}};")
            return f"&{key}_to"
        mantissa = self.constant("int32_t", f"{key}_mantissa", numbers(mantissas.reshape(-1)))
        shift = self.constant("uint8_t", f"{key}_shift", numbers(shifts))
        values = f"{mantissa}, {shift}, {int(many)}, {self.zero(tensor)}, {clamp[0]}, {clamp[1]}, {low}, 0, 0"
        self.constants.append(f"static const qir_output {key}_to = {{{values}}};")
        return f"&{key}_to"

    def multipliers(self, found: MultiplierGuide | None) -> tuple[Array, Array]:
        """int64 mantissas [operands, channels] and shifts [channels]; 1 and 0 where codes are passed on."""
        if found is None:
            return np.ones((1, 1), np.int64), np.zeros(1, np.int64)
        lines = np.stack([self.reader.integers(line) for line in found.mantissa])
        shifts = self.reader.integers(found.shift)
        if len(set(shifts.tolist())) == 1 and all(len(set(line.tolist())) == 1 for line in lines):
            return lines[:, :1], shifts[:1]
        return lines, shifts

    def window(self, key: str, step: StepGuide, channels: int, size: Sequence[int], output: Sequence[int]) -> str:
        """Define the struct of a step's windows, and return its address.

        Args:
            key: prefix of its name.
            step: the step.
            channels: images that the window passes over.
            size: spatial sizes of an image.
            output: spatial sizes of the result.
        """
        window = step.window
        if window is None or len(window.kernel) > 3:
            raise ExportError(f"profile 'c99': step {label(step)} has more than three spatial dimensions")
        self.kernels.add("window")

        def three(values: Sequence[int], rest: int) -> str:
            return "{" + ", ".join(map(str, [rest] * (3 - len(values)) + [*values])) + "}"

        parts = [
            str(channels), three(size, 1), three(output, 1), three(window.kernel, 1), three(window.strides, 1),
            three(window.dilations, 1), three(window.begin, 0), str(int(step.op == "ConvTranspose")),
        ]  # fmt: skip
        self.constants.append(f"static const qir_window {key}_window = {{{', '.join(parts)}}};")
        return f"&{key}_window"

    def need(self, name: str, count: int) -> str:
        """Ask for a scratch array of so many elements, and return its name."""
        self.scratch[name] = max(self.scratch.get(name, 1), count)
        return name
