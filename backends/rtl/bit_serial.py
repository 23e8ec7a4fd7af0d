"""A bit-serial matrix unit in Verilog, simulated by Verilator: a referee for the cost model `bit-serial`.

The unit is the one of `qir.backends.costs.models.bit_serial` (Umuroglu et al., BISMO, FPL 2018): rows x columns
accumulators, each of which adds the ones of `depth` binary products a cycle, bit after bit of weights and activations.
Its memories answer in the same cycle; fetching and results are not simulated.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from qir.backends.costs.models.bit_serial import BitSerialParameters
from qir.backends.costs.target import Target
from qir.errors import QirError, TargetError
from qir.tensor import Array

_SOURCES = ("bit_serial.v", "testbench.cpp")


@dataclass(frozen=True, eq=False)
class Product:
    """A product of matrices for the unit: activations [pixels, taps] times weights [filters, taps].

    Attributes:
        activations: int64, 0 to 2^activation_bits - 1.
        weights: int64: two's complement of weight_bits; at 1 bit -1 and +1.
        activation_bits, weight_bits: 1 to 8.
    """

    activations: Array
    weights: Array
    activation_bits: int
    weight_bits: int


@dataclass(frozen=True, eq=False)
class Simulated:
    """What the unit computed.

    Attributes:
        sums: int64 [pixels, filters].
        cycles: from the first product to the last.
    """

    sums: Array
    cycles: int


@dataclass(frozen=True)
class BitSerialUnit:
    """A unit of a size.

    Attributes:
        rows, columns, depth: as in the cost model's parameters; rows * depth and columns * depth are multiples of 32.
    """

    rows: int
    columns: int
    depth: int

    @classmethod
    def of(cls, target: Target) -> BitSerialUnit:
        """Return the unit of a target's parameters.

        Raises:
            TargetError: its cost model is not `bit-serial`.
        """
        found = target.cost_model().parameters
        if not isinstance(found, BitSerialParameters):
            raise TargetError(f"target {target.name!r}: its cost model is not bit-serial")
        return cls(found.rows, found.columns, found.depth)

    def run(self, products: Sequence[Product]) -> list[Simulated]:
        """Simulate products, one after the other.

        Raises:
            QirError: there is no Verilator, or it fails.
        """
        if shutil.which("verilator") is None:
            raise QirError("verilator is not installed: it simulates the unit (Debian package verilator)")
        with tempfile.TemporaryDirectory() as folder:
            self._build(Path(folder))
            given = b"".join(self._planes(product) for product in products)
            done = _checked([Path(folder) / "made" / "Vbit_serial"], Path(folder), given)
        found, place = [], 0
        for product in products:
            one, length = self._read(product, done[place:])
            found.append(one)
            place += length
        return found

    def _build(self, folder: Path) -> None:
        for name in _SOURCES:
            text = (resources.files("qir.backends.rtl") / name).read_text(encoding="utf-8")
            (folder / name).write_text(text)
        sizes = {"ROWS": self.rows, "COLUMNS": self.columns, "DEPTH": self.depth}
        parameters = [f"-G{name}={size}" for name, size in sizes.items()]
        flags = " ".join(f"-D{name}={size}" for name, size in sizes.items())
        command = ["verilator", "--cc", "--exe", "--build", "-O3", "--Mdir", "made", *parameters]
        _checked([*command, "-CFLAGS", f"-O1 {flags}", *_SOURCES], folder)

    def _tiles(self, product: Product) -> tuple[int, int, int]:
        pixels, taps = product.activations.shape
        return -(-pixels // self.rows), -(-len(product.weights) // self.columns), -(-taps // self.depth)

    def _planes(self, product: Product) -> bytes:
        rows, columns, words = self._tiles(product)
        binary = product.weight_bits == 1
        stored = (product.weights + 1) // 2 if binary else product.weights & ((1 << product.weight_bits) - 1)
        sizes = (rows, columns, words, product.weight_bits, product.activation_bits, int(not binary))
        return (
            np.asarray(sizes, "<u4").tobytes()
            + _packed(product.activations, rows, self.rows, words, self.depth, product.activation_bits)
            + _packed(stored, columns, self.columns, words, self.depth, product.weight_bits)
        )

    def _read(self, product: Product, data: bytes) -> tuple[Simulated, int]:
        rows, columns, _ = self._tiles(product)
        count = rows * columns * self.rows * self.columns
        cycles = int(np.frombuffer(data[:8], "<u8")[0])
        tiles = np.frombuffer(data[8 : 8 + 4 * count], "<i4").reshape(rows, columns, self.rows, self.columns)
        whole = tiles.transpose(0, 2, 1, 3).reshape(rows * self.rows, columns * self.columns).astype(np.int64)
        sums = whole[: len(product.activations), : len(product.weights)]
        if product.weight_bits == 1:  # codes 0 and 1 stand for -1 and +1
            sums = 2 * sums - product.activations.sum(axis=1, keepdims=True)
        return Simulated(sums, cycles), 8 + 4 * count


def _packed(codes: Array, tiles: int, side: int, words: int, depth: int, bits: int) -> bytes:
    """Return planes [tile, word, bit] of `side * depth` bits each, the first in the lowest bit."""
    padded = np.zeros((tiles * side, words * depth), np.int64)
    padded[: codes.shape[0], : codes.shape[1]] = codes
    planes = padded.reshape(tiles, side, words, depth)[..., None] >> np.arange(bits) & 1
    return np.packbits(planes.transpose(0, 2, 4, 1, 3).astype(np.uint8).reshape(-1), bitorder="little").tobytes()


def _checked(command: Sequence[str | Path], folder: Path, given: bytes = b"") -> bytes:
    done = subprocess.run(command, cwd=folder, input=given, capture_output=True, check=False)  # noqa: S603 - our own
    if done.returncode:
        raise QirError(f"{command[0]} fails: {done.stderr.decode(errors='replace')[:1000]}")
    return done.stdout
