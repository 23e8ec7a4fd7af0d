"""Bit-serial matrix units: both operands are processed one bit plane at a time.

Umuroglu, Rasnayake, Själander, "BISMO: A Scalable Bit-Serial Matrix Multiplication Overlay for Reconfigurable
Computing", FPL 2018: an array of `rows` x `columns` units, each summing `depth` binary products a cycle, repeats the
binary product weight bits x activation bits times.
"""

from __future__ import annotations

from math import ceil
from typing import ClassVar

from pydantic import Field

from qir.backends.costs.layers.cost import Cost, slowest
from qir.backends.costs.layers.shape import ConvShape
from qir.backends.costs.layers.validation import Strict
from qir.backends.costs.models.base import CostModel


class BitSerialParameters(Strict):
    """Parameters of a bit-serial matrix unit.

    Attributes:
        rows: output pixels computed side by side.
        columns: filters computed side by side.
        depth: binary products that one unit sums a cycle; operands are padded to a multiple of it.
        depthwise_lanes: products of a depthwise window, padded to a multiple of this.
        exposed: share of the shorter of two overlapping phases (compute and transfers) that is not hidden.
        weights_per_image: convolutions fetch their weights once an image, fully connected layers once a batch.
        binary_op_pj: energy of one binary multiply-accumulate, in picojoules; absent = energy is unknown.
    """

    rows: int = Field(gt=0)
    columns: int = Field(gt=0)
    depth: int = Field(gt=0)
    depthwise_lanes: int = Field(default=16, gt=0)
    exposed: float = Field(default=0.5, ge=0, le=1)
    weights_per_image: bool = True
    binary_op_pj: float | None = Field(default=None, ge=0)


class BitSerial(CostModel[BitSerialParameters]):
    """Compute, weight stream and activation stream overlap, but for the exposed share of a transfer."""

    kind: ClassVar[str] = "bit-serial"
    parameters_type: ClassVar[type[Strict]] = BitSerialParameters
    energy_parameter: ClassVar[str] = "binary_op_pj"
    notes: ClassVar[tuple[str, ...]] = (
        "bit-serial: results are not charged (they leave through a port of their own)",
        "bit-serial: a depthwise layer is bound by its streams; its products are not charged to the array",
    )

    def matrix_cost(self, shape: ConvShape, weight_bits: int, activation_bits: int) -> Cost:
        """Return max(C + eW, A + eW, W + eA) cycles of compute C, activations A, weights W, exposed share e."""
        unit = self.parameters
        memory = self.target.outermost_memory
        fetches = 1 if shape.fully_connected or not unit.weights_per_image else shape.batch
        words = ceil(shape.taps / unit.depth)
        weight_bits_moved = shape.out_channels * words * unit.depth * weight_bits * fetches
        if shape.depthwise:
            compute = 0.0
            window = ceil(shape.taps / unit.depthwise_lanes) * unit.depthwise_lanes
            activation_bits_moved = shape.pixels * shape.in_channels * window * activation_bits
        else:
            tiles = ceil(shape.pixels / unit.rows) * ceil(shape.filters / unit.columns) * words
            compute = float(shape.groups * tiles * weight_bits * activation_bits)
            activation_bits_moved = shape.groups * shape.pixels * words * unit.depth * activation_bits
        weights = weight_bits_moved / memory.bits_per_cycle
        activations = activation_bits_moved / memory.bits_per_cycle
        exposed = unit.exposed
        streams = {f"{memory.name}.weights": weights, f"{memory.name}.activations": activations}
        bits_moved = weight_bits_moved + activation_bits_moved
        bit_operations = shape.macs * weight_bits * activation_bits
        return Cost(
            cycles=max(compute + exposed * weights, activations + exposed * weights, weights + exposed * activations),
            compute_cycles=compute,
            memory_cycles=streams,
            bytes_moved={memory.name: bits_moved / 8},
            energy=self.energies({memory.name: bits_moved}, bit_operations * self.core_pj),
            bit_operations=float(bit_operations),
            bound_by=slowest(compute, streams),
        )
