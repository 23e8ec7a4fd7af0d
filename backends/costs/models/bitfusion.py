"""BitFusion: a systolic array whose multipliers fuse out of 2-bit bricks, so that narrow operands run faster.

Sharma et al., "Bit Fusion: Bit-Level Dynamically Composable Architecture for Accelerating Deep Neural Networks", ISCA
2018. A layer is cut into tiles of output pixels, input channels and output channels; tile sizes and the order of the
loops over tiles are searched exhaustively for the fewest cycles. A tensor is kept on chip across a loop as long as what
it needs fits into its half of the double-buffered memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from math import ceil
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from qir.backends.costs.layers.cost import Cost, slowest
from qir.backends.costs.layers.shape import ConvShape
from qir.backends.costs.layers.validation import Strict
from qir.backends.costs.models.base import CostModel
from qir.errors import TargetError

Floats = np.ndarray[Any, np.dtype[np.float64]]

_READS = {"weights": "ic", "inputs": "byxi", "outputs": "byxc"}
"""Loops (batch, rows, columns, input channels, output channels) whose index selects a tile of each tensor."""
_CACHE = 65536
FULL = 1 + 1e-9
"""Share of a memory that counts as full: what fits exactly fits, whatever the rounding of the division."""


class BitFusionParameters(Strict):
    """Parameters of a BitFusion array.

    Attributes:
        rows: fusion units along the input channels.
        columns: fusion units along the output channels.
        maximum_bits: width of one whole fusion unit.
        minimum_bits: width of one brick; narrower operands run at its rate.
        output_bits: width of partial sums and results, on chip and off.
        depthwise_channels: channels that one pass of a depthwise layer takes at the maximum width; as many times more
            as the array is faster at narrower widths, up to the array's columns and the layer's channels. Such a pass
            costs what a dense convolution of as many input as output channels costs.
        image_channels: layers without groups and with at most so many input channels (the first) spread the taps of
            their kernels over the rows, and read every window anew: the host flattens them (im2col).
        core_pj_per_cycle: energy of the array for each cycle of the whole run, busy or not; absent = energy is
            unknown.
        active_pj_per_cycle: energy of array and on-chip memories for each cycle of arithmetic.
    """

    rows: int = Field(gt=0)
    columns: int = Field(gt=0)
    maximum_bits: int = Field(default=8, gt=0)
    minimum_bits: int = Field(default=2, gt=0)
    output_bits: int = Field(default=32, gt=0)
    depthwise_channels: int = Field(default=8, gt=0)
    image_channels: int = Field(default=4, ge=0)
    core_pj_per_cycle: float | None = Field(default=None, ge=0)
    active_pj_per_cycle: float = Field(default=0.0, ge=0)


@dataclass(frozen=True, slots=True)
class _Pass:
    """One dense convolution on the array: sizes, widths, and the machine's limits (bits).

    With `flattened`, kernel taps share the rows with the input channels.
    Channels are tiled in whole rows and columns of the array, and occupy them on chip.
    """

    batch: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    in_channels: int
    out_channels: int
    weight_bits: int
    activation_bits: int
    output_bits: int
    stored_weight_bits: int
    stored_activation_bits: int
    rate: int
    flattened: bool
    rows: int
    columns: int
    weight_capacity: float
    input_capacity: float
    output_capacity: float
    bits_per_cycle: float


@dataclass(frozen=True, slots=True)
class _Schedule:
    """The best schedule of a pass: cycles, and off-chip traffic by tensor, in bits."""

    cycles: float
    compute: float
    traffic: dict[str, float]


class BitFusion(CostModel[BitFusionParameters]):
    """Compute overlaps with all transfers but the first loads and the last stores."""

    kind: ClassVar[str] = "bitfusion"
    parameters_type: ClassVar[type[Strict]] = BitFusionParameters
    energy_parameter: ClassVar[str] = "core_pj_per_cycle"
    notes: ClassVar[tuple[str, ...]] = (
        "bitfusion: results leave at the partial sums' width whatever the next layer's bits",
        "bitfusion: depthwise layers run as dense passes over few channels",
    )

    def matrix_cost(self, shape: ConvShape, weight_bits: int, activation_bits: int) -> Cost:
        """Return the fewest cycles over all tilings and loop orders, and the energy of that schedule."""
        array = self.parameters
        dram = self.target.outermost_memory
        task, repeats = self._pass(shape, weight_bits, activation_bits)
        best = _best_schedule(task)
        traffic = {name: bits * repeats for name, bits in best.traffic.items()}
        moved = sum(traffic.values())
        compute, cycles = best.compute * repeats, best.cycles * repeats
        streams = {f"{dram.name}.{name}": bits / dram.bits_per_cycle for name, bits in traffic.items()}
        bound = "compute" if compute >= sum(streams.values()) else slowest(0.0, streams)
        return Cost(
            cycles=cycles,
            compute_cycles=compute,
            memory_cycles=streams,
            bytes_moved={dram.name: moved / 8},
            energy=self.energies({dram.name: moved}, cycles * self.core_pj + compute * array.active_pj_per_cycle),
            bit_operations=float(shape.macs * weight_bits * activation_bits),
            bound_by=bound,
        )

    def _rate(self, bits: int) -> int:
        array = self.parameters
        return array.maximum_bits // max(self._brick_bits(bits), array.minimum_bits)

    def _brick_bits(self, bits: int) -> int:
        """Return the next width of the form minimum x 2^n: what an operand occupies in a fusion unit and on chip."""
        width = self.parameters.minimum_bits
        while width < bits:
            width *= 2
        if width > self.parameters.maximum_bits:
            raise TargetError(
                f"target {self.target.name!r}: {bits} bits do not fit into "
                f"{self.parameters.maximum_bits}-bit fusion units"
            )
        return width

    def _pass(self, shape: ConvShape, weight_bits: int, activation_bits: int) -> tuple[_Pass, int]:
        """Return the dense convolution that the array runs, and how many times it runs it."""
        array = self.parameters
        rate = self._rate(weight_bits) * self._rate(activation_bits)
        if shape.depthwise:
            channels = min(array.depthwise_channels * rate, array.columns, shape.out_channels)
            repeats = ceil(shape.out_channels / channels)
            in_channels = out_channels = channels
        else:
            repeats, in_channels, out_channels = shape.groups, shape.in_channels // shape.groups, shape.filters
        capacity = [memory.bytes for memory in map(self._memory, ("weights", "inputs", "outputs"))]
        task = _Pass(
            batch=shape.batch,
            size=shape.output_size,
            kernel=shape.kernel,
            stride=shape.stride,
            dilation=shape.dilation,
            in_channels=in_channels,
            out_channels=out_channels,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            output_bits=array.output_bits,
            stored_weight_bits=self._brick_bits(weight_bits),
            stored_activation_bits=self._brick_bits(activation_bits),
            rate=rate,
            flattened=shape.groups == 1 and in_channels <= array.image_channels,
            rows=array.rows,
            columns=array.columns,
            weight_capacity=capacity[0] * 4,
            input_capacity=capacity[1] * 4,
            output_capacity=capacity[2] * 4,
            bits_per_cycle=self.target.outermost_memory.bits_per_cycle,
        )
        return task, repeats

    def _memory(self, name: str) -> Any:
        for memory in self.target.memories:
            if memory.name == name and memory.bytes is not None:
                return memory
        raise TargetError(f"target {self.target.name!r}: bitfusion needs a memory {name!r} with its size in bytes")


@lru_cache(maxsize=_CACHE)
def _best_schedule(task: _Pass) -> _Schedule:
    """Try every tiling with every loop order; the fewest cycles win, then the least traffic.

    Where not even one tile of whole rows and columns fits, tiles occupy only what they hold.
    """
    tiles, counts = _tilings(task)
    base, padding = _tile_bits(task, tiles), _padding(task, tiles)
    stored = _shares(task, padding)
    fits = _fits(base, stored)
    if not fits.any():
        stored = _shares(task, {name: np.ones(1) for name in padding})
        fits = _fits(base, stored)
    if not fits.any():
        raise TargetError("bitfusion: no tile of this layer fits into the on-chip memories; expected larger memories")
    taps, depth = task.kernel[0] * task.kernel[1], task.rows * task.rate
    sums = np.ceil(tiles["i"] * taps / depth) if task.flattened else np.ceil(tiles["i"] / depth) * taps
    steps = np.prod(list(counts.values()), axis=0)
    compute = tiles["b"] * tiles["y"] * tiles["x"] * np.ceil(tiles["c"] / task.columns) * sums * steps
    loops = "".join(loop for loop in counts if counts[loop].max() > 1)
    best: tuple[float, float, _Schedule] | None = None
    for order in permutations(loops):
        found = _cheapest(task, order, counts, base, stored, np.where(fits, compute, np.inf))
        if best is None or found[:2] < best[:2]:
            best = found
    if best is None:
        raise TargetError("bitfusion: the layer has no schedule")
    return best[2]


def _tile_bits(task: _Pass, tiles: dict[str, Floats]) -> dict[str, Floats]:
    """Return bits of one tile of each tensor.

    Windows that are flattened lie side by side in memory, overlaps repeated.
    """
    taps, pixels = task.kernel[0] * task.kernel[1], tiles["b"] * tiles["y"] * tiles["x"]
    read = pixels * taps if task.flattened else tiles["b"] * _window(task, tiles, 0) * _window(task, tiles, 1)
    return {
        "weights": tiles["i"] * tiles["c"] * taps * task.weight_bits,
        "inputs": read * tiles["i"] * task.activation_bits,
        "outputs": pixels * tiles["c"] * task.output_bits,
    }


def _padding(task: _Pass, tiles: dict[str, Floats]) -> dict[str, Floats]:
    """Return how many times more each tile occupies on chip: whole rows and columns of the array.

    Narrow operands make the rows deeper: a layer with few channels can then need a little more traffic at fewer bits.
    """
    taps, depth = task.kernel[0] * task.kernel[1], task.rows * task.rate
    products = tiles["i"] * taps
    flat, inner = (_round_up(size, depth) / size for size in (products, tiles["i"]))
    outer = _round_up(tiles["c"], task.columns) / tiles["c"]
    return {"weights": flat * outer, "inputs": flat if task.flattened else inner, "outputs": outer}


def _shares(task: _Pass, padding: dict[str, Floats]) -> dict[str, Floats]:
    """Share of its memory that a bit of each tensor takes."""
    return {
        "weights": padding["weights"] * task.stored_weight_bits / task.weight_bits / task.weight_capacity,
        "inputs": padding["inputs"] * task.stored_activation_bits / task.activation_bits / task.input_capacity,
        "outputs": padding["outputs"] / task.output_capacity,
    }


def _fits(base: dict[str, Floats], stored: dict[str, Floats]) -> Any:
    """Return whether one tile of each tensor fits into its memory: bool [tilings]."""
    return np.logical_and.reduce([base[name] * stored[name] <= FULL for name in base])


def _tilings(task: _Pass) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Return all tile sizes (powers of two, rows and columns together) and how many tiles there are, by loop."""
    height, width = task.size
    pixels = _powers(max(height, width), 1)
    grids = np.meshgrid(
        _powers(task.batch, 1),
        pixels,
        _powers(task.in_channels, task.rows),
        _powers(task.out_channels, task.columns),
        indexing="ij",
    )
    batch, pixel, inner, outer = (grid.ravel() for grid in grids)
    sizes = {"b": task.batch, "y": height, "x": width, "i": task.in_channels, "c": task.out_channels}
    tiles = {"b": batch, "y": np.minimum(pixel, height), "x": np.minimum(pixel, width), "i": inner, "c": outer}
    return tiles, {loop: np.ceil(sizes[loop] / tile) for loop, tile in tiles.items()}


def _powers(size: int, unit: int) -> Floats:
    tiles = []
    tile = unit
    while tile < size:
        tiles.append(float(tile))
        tile *= 2
    return np.array([*tiles, float(size)])


def _round_up(sizes: Floats, unit: int) -> Floats:
    return np.asarray(np.ceil(sizes / unit) * unit)


def _window(task: _Pass, tiles: dict[str, Floats], axis: int) -> Floats:
    """Return rows (0) or columns (1) of the input that a tile of the output reads."""
    reach = task.dilation[axis] * (task.kernel[axis] - 1) + 1
    return reach + (tiles["yx"[axis]] - 1) * task.stride[axis]


def _cheapest(
    task: _Pass,
    order: tuple[str, ...],
    counts: dict[str, Floats],
    base: dict[str, Floats],
    stored: dict[str, Floats],
    compute: Floats,
) -> tuple[float, float, _Schedule]:
    """Return the best tiling of one loop order, outermost loop first: (cycles, traffic in bits, schedule)."""
    traffic: dict[str, Floats] = {}
    resident: dict[str, Floats] = {}
    for name, tile in base.items():
        traffic[name], resident[name] = _reuse(tile, stored[name], order, counts, _READS[name])
    first = resident["weights"] + resident["inputs"] + resident["outputs"]
    last = resident["outputs"]
    moved = traffic["weights"] + traffic["inputs"] + 2 * traffic["outputs"]
    port = task.bits_per_cycle
    overlapped = np.ceil((moved - first - last) / port)
    cycles = np.maximum(compute, overlapped) + np.ceil(first / port) + np.ceil(last / port)
    index = int(np.lexsort((moved, cycles))[0])
    by_tensor = {name: float(bits[index]) * (2 if name == "outputs" else 1) for name, bits in traffic.items()}
    return (
        float(cycles[index]),
        float(moved[index]),
        _Schedule(float(cycles[index]), float(compute[index]), by_tensor),
    )


def _reuse(
    tile: Floats, stored: Floats, order: tuple[str, ...], counts: dict[str, Floats], indices: str
) -> tuple[Floats, Floats]:
    """Return the traffic of one tensor and the part of it that stays on chip, in bits.

    From the innermost loop outwards the tensor stays while all tiles that the loop visits fit together; from the first
    loop where they do not, every loop further out fetches again.
    """
    traffic = resident = tile
    kept = np.ones(tile.shape, dtype=bool)
    for loop in reversed(order):
        if loop in indices:
            traffic = traffic * counts[loop]
            kept = kept & (traffic * stored <= FULL)
            resident = np.where(kept, traffic, resident)
        else:
            traffic = np.where(kept, traffic, traffic * counts[loop])
    return traffic, resident
