"""Tables of delays by layer and widths: read, written, and made from a cost table."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qir.backends.cost_models.validation import nearest
from qir.backends.cost_table import CostTable
from qir.errors import TargetError

HAQ_WIDTHS = tuple(range(1, 9))
COLUMNS = ("layer", "weight_bits", "activation_bits", "delay")
FORMAT = "qir.delay-table"


@dataclass(frozen=True)
class DelayTable:
    """Delays of the layers of one network.

    Attributes:
        delays: layer → (weight bits, activation bits) → delay, in the unit of the file.
        named: False when the layers have only an order; their names are then "0", "1", …
    """

    delays: Mapping[str, Mapping[tuple[int, int], float]]
    named: bool = True

    def __post_init__(self) -> None:
        for layer, cells in self.delays.items():
            for pair, delay in cells.items():
                if not np.isfinite(delay) or delay < 0:
                    raise TargetError(
                        f"delay table: layer {layer!r} at {pair}: {delay}; expected a finite number, not negative"
                    )

    @property
    def layers(self) -> list[str]:
        """Names in order."""
        return list(self.delays)

    def at(self, layer: str, weight_bits: int, activation_bits: int) -> float:
        """The delay of a layer.

        Raises:
            TargetError: the table has no such layer or pair of widths.
        """
        cells = self.delays.get(layer)
        if cells is None:
            raise TargetError(f"delay table: no layer {layer!r}: {nearest(layer, self.delays)}")
        delay = cells.get((weight_bits, activation_bits))
        if delay is None:
            raise TargetError(
                f"delay table: layer {layer!r} has no entry for {weight_bits}-bit weights and {activation_bits}-bit "
                f"activations; it has (weight, activation) {sorted(cells)}"
            )
        return delay

    def write(self, path: str | Path) -> None:
        """Write CSV, JSON or HAQ's .npy, by the name's ending, atomically.

        Raises:
            TargetError: another ending, or an .npy of widths other than 1 to 8.
        """
        file = Path(path)
        writer = {".csv": self._csv, ".json": self._json, ".npy": self._npy}.get(file.suffix)
        if writer is None:
            raise TargetError(f"delay table {path}: expected a name that ends in .csv, .json or .npy")
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        temporary.write_bytes(writer())
        temporary.replace(file)

    def _csv(self) -> bytes:
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(COLUMNS)
        for layer, cells in self.delays.items():
            lines.writerows((layer, w, a, repr(delay)) for (w, a), delay in sorted(cells.items()))
        return text.getvalue().encode()

    def _json(self) -> bytes:
        layers = [
            {
                "layer": layer,
                "delays": [
                    {"weight_bits": w, "activation_bits": a, "delay": delay} for (w, a), delay in sorted(cells.items())
                ],
            }
            for layer, cells in self.delays.items()
        ]
        return (
            json.dumps({"format": FORMAT, "version": 1, "named": self.named, "layers": layers}, indent=1) + "\n"
        ).encode()

    def _npy(self) -> bytes:
        array = np.zeros((len(self.delays), len(HAQ_WIDTHS), len(HAQ_WIDTHS)), np.int64)
        for index, layer in enumerate(self.delays):
            for w in HAQ_WIDTHS:
                for a in HAQ_WIDTHS:
                    array[index, w - 1, a - 1] = round(self.at(layer, w, a))
        data = io.BytesIO()
        np.save(data, array, allow_pickle=False)
        return data.getvalue()


def read_delay_table(path: str | Path) -> DelayTable:
    """Read CSV, JSON or HAQ's .npy, by the name's ending.

    Raises:
        TargetError: the file cannot be read, or an entry is wrong; names the line or layer.
    """
    file = Path(path)
    reader = {".csv": _read_csv, ".json": _read_json, ".npy": _read_npy}.get(file.suffix)
    if reader is None:
        raise TargetError(f"delay table {path}: expected a name that ends in .csv, .json or .npy")
    try:
        return reader(file)
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise TargetError(f"delay table {path}: cannot be read: {error}; expected {' , '.join(COLUMNS)}") from error


def _read_csv(file: Path) -> DelayTable:
    found: dict[str, dict[tuple[int, int], float]] = {}
    with file.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        for column in COLUMNS:
            if column not in (reader.fieldnames or ()):
                raise TargetError(
                    f"delay table {file}: no column {column!r}: {nearest(column, reader.fieldnames or ())}"
                )
        for line in reader:
            pair = int(line["weight_bits"]), int(line["activation_bits"])
            cells = found.setdefault(line["layer"], {})
            if pair in cells:
                raise TargetError(
                    f"delay table {file}: line {reader.line_num}: {line['layer']!r} at {pair} is there twice"
                )
            cells[pair] = float(line["delay"])
    return DelayTable(found)


def _read_json(file: Path) -> DelayTable:
    data = json.loads(file.read_text(encoding="utf-8"))
    if data.get("format") != FORMAT or data.get("version") != 1:
        raise TargetError(f"delay table {file}: expected format {FORMAT!r}, version 1")
    found = {
        str(entry["layer"]): {
            (int(cell["weight_bits"]), int(cell["activation_bits"])): float(cell["delay"]) for cell in entry["delays"]
        }
        for entry in data["layers"]
    }
    return DelayTable(found, bool(data.get("named", True)))


def _read_npy(file: Path) -> DelayTable:
    array: npt.NDArray[Any] = np.load(file, allow_pickle=False)
    if array.ndim != 3 or array.shape[1:] != (8, 8) or array.dtype.kind not in "if":
        raise TargetError(
            f"delay table {file}: {array.dtype} {array.shape}; expected numbers [layers, 8, 8] as HAQ stores them"
        )
    cells = {
        str(index): {(w, a): float(layer[w - 1, a - 1]) for w in HAQ_WIDTHS for a in HAQ_WIDTHS}
        for index, layer in enumerate(array)
    }
    return DelayTable(cells, named=False)


def delays_of(table: CostTable) -> DelayTable:
    """The delay table of a network on a target: cycles of each layer of multiply-accumulates at its legal widths."""
    found: dict[str, dict[tuple[int, int], float]] = {}
    for row in table:
        if row.part != "layer" or not row.known or row.weight_widths == (0,):
            continue
        found[row.name] = {
            (w, a): cost.cycles
            for a, line in zip(row.activation_widths, row.costs, strict=True)
            for w, cost in zip(row.weight_widths, line, strict=True)
            if cost is not None
        }
    return DelayTable(found)


def read_hawq_latencies(path: str | Path, names: list[str] | None = None) -> DelayTable:
    """The latencies that HAWQ-V3 published for a GPU, from a JSON file with `latency_int4` and `latency_int8` (ms).

    Args:
        path: JSON with one number a layer in both lists.
        names: layer names in order; by default they have only an order.

    Raises:
        TargetError: the lists are missing or of different lengths.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        four, eight = ([float(ms) for ms in data[f"latency_int{bits}"]] for bits in (4, 8))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TargetError(
            f"latencies {path}: cannot be read: {error}; expected latency_int4 and latency_int8"
        ) from error
    labels = names or [str(index) for index in range(len(four))]
    if not len(four) == len(eight) == len(labels):
        raise TargetError(f"latencies {path}: {len(four)} and {len(eight)} numbers for {len(labels)} layers")
    cells: dict[str, Mapping[tuple[int, int], float]] = {
        name: {(4, 4): low, (8, 8): high} for name, low, high in zip(labels, four, eight, strict=True)
    }
    return DelayTable(cells, named=names is not None)
