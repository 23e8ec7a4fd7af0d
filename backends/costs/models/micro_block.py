"""Dot products in micro-blocks: the arithmetic of Arm's Ethos-U, as Vela's performance estimation describes it.

Vela (Apache-2.0): `npu_performance.py` for U55 and U65, `ethos_u85_performance.cpp` for U85. An array computes a
micro-block of rows x columns x channels of the result at once and sums 8 products a cycle into each of its elements.
With n micro-blocks over the image and z over the channels, a layer takes the faster of

- depth first: taps · ceil(inputs / d) · max(decode, n · d / 8) · z, with blocks of d input channels
- kernel first: ceil(taps / 4) · ceil(inputs / 8) · max(decode, 4n) · z, four taps of 8 channels a step
- depthwise: ceil(taps / 4) · max(decode, 4n) · z

Vela chooses between the first two by a rule of its own; the minimum was kept after it came closer to the cycles that
Vela prints for ResNet-20, so an agreement with Vela on that network is not an independent check.

Here decode, the cycles that decompress a step's weights, is 4 a channel of the micro-block. Results leave at a rate of
their own, which bounds layers with few products.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, PositiveInt

from qir.backends.costs.layers.cost import Cost, slowest
from qir.backends.costs.layers.shape import ConvShape
from qir.backends.costs.layers.validation import Strict
from qir.backends.costs.models.base import CostModel
from qir.errors import TargetError

if TYPE_CHECKING:
    from qir.backends.costs.hardware import Memory

_PRODUCTS = 8
"""Products that one element of a micro-block sums a cycle."""
_TAPS = 4
"""Taps of a kernel in one step, and the least cycles of a step."""


class MicroBlockParameters(Strict):
    """Parameters of an array that computes in micro-blocks.

    Attributes:
        micro_blocks: (rows, columns, channels) of the shapes that the array takes; the fastest is taken for each layer.
        block_channels: input channels of a block in depth-first order, at most.
        block_multiple: input channels of such a block are padded to a multiple of this.
        output_cycles: cycles of one element of a layer's result.
        stream_cycles: cycles of one element that an element-wise, pooling or copying operation reads or writes.
        weights_memory: name of the memory that holds the weights.
        activations_memory: name of the memory that holds the activations.
        channel_bytes: bytes of scale and bias that each output channel fetches next to its weights.
        efficiency: share of the modelled rate that is reached.
        launch_cycles: cycles before a layer starts.
        mac_pj: energy of one multiply-accumulate, in picojoules; absent = energy is unknown.
    """

    micro_blocks: tuple[tuple[PositiveInt, PositiveInt, PositiveInt], ...] = Field(min_length=1)
    block_channels: int = Field(gt=0)
    block_multiple: int = Field(default=_PRODUCTS, gt=0)
    output_cycles: float = Field(ge=0)
    stream_cycles: float = Field(ge=0)
    weights_memory: str
    activations_memory: str
    channel_bytes: int = Field(default=10, ge=0)
    efficiency: float = Field(default=1.0, gt=0, le=1)
    launch_cycles: float = Field(default=0.0, ge=0)
    mac_pj: float | None = Field(default=None, ge=0)


class MicroBlock(CostModel[MicroBlockParameters]):
    """Arithmetic, the weights' stream and the activations' stream overlap; the slowest counts."""

    kind: ClassVar[str] = "micro-block"
    parameters_type: ClassVar[type[Strict]] = MicroBlockParameters
    energy_parameter: ClassVar[str] = "mac_pj"
    notes: ClassVar[tuple[str, ...]] = (
        "micro-block: weights cross their memory once, compressed to their width; activations stay on chip",
    )

    def matrix_cost(self, shape: ConvShape, weight_bits: int, activation_bits: int) -> Cost:
        """Return the fastest micro-block and order of summation."""
        unit = self.parameters
        steps = min(self._cycles(shape, block) for block in unit.micro_blocks)
        compute = max(steps, shape.outputs * unit.output_cycles) / unit.efficiency
        storage = self.target.padding.storage_bits
        weights = self._memory(unit.weights_memory)
        activations = self._memory(unit.activations_memory)
        constants = shape.weights * storage(weight_bits) + 8 * unit.channel_bytes * shape.out_channels
        features = (shape.inputs + shape.outputs) * storage(activation_bits)
        streams = {
            f"{weights.name}.weights": constants / weights.bits_per_cycle,
            f"{activations.name}.activations": features / activations.bits_per_cycle,
        }
        moved: dict[str, float] = {}
        for memory, bits in ((weights, constants), (activations, features)):
            moved[memory.name] = moved.get(memory.name, 0.0) + bits
        return Cost(
            cycles=max(compute, *streams.values()) + unit.launch_cycles,
            compute_cycles=compute,
            memory_cycles=streams,
            bytes_moved={name: bits / 8 for name, bits in moved.items()},
            energy=self.energies(moved, shape.macs * self.core_pj),
            bit_operations=float(shape.macs * weight_bits * activation_bits),
            bound_by=slowest(compute, streams),
        )

    def _cycles(self, shape: ConvShape, block: tuple[int, int, int]) -> float:
        """Return cycles of the products in micro-blocks of one shape."""
        rows, columns, channels = block
        height, width = shape.output_size
        image = shape.batch * ceil(height / rows) * ceil(width / columns)
        decode = _TAPS * channels
        taps = shape.kernel[0] * shape.kernel[1]
        if shape.depthwise:
            depth = ceil(shape.out_channels / channels)
            return float(ceil(taps / _TAPS) * max(decode, _TAPS * image) * depth)
        inputs, depth = shape.in_channels // shape.groups, ceil(shape.filters / channels)
        multiple = self.parameters.block_multiple
        size = min(ceil(inputs / multiple) * multiple, self.parameters.block_channels)
        depth_first = taps * ceil(inputs / size) * max(decode, image * size / _PRODUCTS)
        kernel_first = ceil(taps / _TAPS) * ceil(inputs / _PRODUCTS) * max(decode, _TAPS * image)
        return float(min(depth_first, kernel_first) * depth * shape.groups)

    def stream_cost(self, elements: int, bits: int) -> Cost:
        """Return elements of one tensor that pass through the output stage and the activations' memory."""
        memory = self._memory(self.parameters.activations_memory)
        moved = elements * self.target.padding.storage_bits(bits)
        compute = elements * self.parameters.stream_cycles
        streams = {f"{memory.name}.activations": moved / memory.bits_per_cycle}
        return Cost(
            cycles=max(compute, *streams.values()),
            compute_cycles=compute,
            memory_cycles=streams,
            bytes_moved={memory.name: moved / 8},
            energy=self.energies({memory.name: float(moved)}),
            bound_by=slowest(compute, streams),
        )

    def _memory(self, name: str) -> Memory:
        for memory in self.target.memories:
            if memory.name == name:
                return memory
        found = ", ".join(memory.name for memory in self.target.memories)
        raise TargetError(f"target {self.target.name!r}: cost.parameters name a memory {name!r}; it has {found}")
