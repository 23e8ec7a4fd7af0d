"""Tables of delays by layer and widths: read, written, and made from a cost table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NotRequired

import numpy as np
import numpy.typing as npt
from typing_extensions import TypedDict

from qir.backends.costs.layers.shape import ConvShape
from qir.backends.costs.tables.rows import CostRow, layer_cells
from qir.backends.costs.tables.table import CostTable
from qir.errors import TargetError
from qir.support.atomic_write import atomic_write
from qir.support.json_text import parse_json, typed
from qir.support.nearest import nearest

HAQ_WIDTHS = tuple(range(1, 9))
COLUMNS = ("layer", "weight_bits", "activation_bits", "delay")
SHAPE_COLUMNS = ("in_channels", "out_channels", "height", "width", "kernel", "stride", "padding", "groups", "batch")
"""Columns of a CSV that also says what was measured; pairs are written `3x3`, padding `top x left x bottom x right`."""

_LAYOUTS = {
    ".csv": f"columns {', '.join(COLUMNS)}",
    ".json": "layers, each with delays of weight_bits, activation_bits, delay",
    ".npy": "numbers [layers, 8, 8] as HAQ stores them",
}
_PAIRS = ("kernel", "stride", "padding")
FORMAT = "qir.delay-table"


@dataclass(frozen=True)
class DelayTable:
    """Delays of the layers of one network.

    Attributes:
        delays: layer → (weight bits, activation bits) → delay, in the unit of the file.
        named: False when the layers have only an order; their names are then "0", "1", …
        shapes: layer → its shape, for those that are known; kept in CSV only. A layer of height, width and kernel 1
            is a matrix product.
    """

    delays: Mapping[str, Mapping[tuple[int, int], float]]
    named: bool = True
    shapes: Mapping[str, ConvShape] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for layer, cells in self.delays.items():
            if not layer:
                raise TargetError("delay table: a layer has no name")
            if not cells:
                raise TargetError(f"delay table: layer {layer!r} has no delays: leave it out, or measure it")
            for pair, delay in cells.items():
                if not (0 <= pair[0] <= 64 and 1 <= pair[1] <= 64):
                    raise TargetError(
                        f"delay table: layer {layer!r} at {pair} (weight, activation) bits; expected at least 1, or 0 "
                        "weight bits of a node without weights"
                    )
                if not np.isfinite(delay) or delay < 0:
                    raise TargetError(
                        f"delay table: layer {layer!r} at {pair}: {delay}; expected a finite number, not negative"
                    )

    def renamed(self, names: Sequence[str]) -> DelayTable:
        """Return the same delays for a network's layers: names in order, for a table whose layers have only an order.

        Raises:
            TargetError: another number of layers.
        """
        if len(names) != len(self.delays):
            raise TargetError(
                f"delay table: {len(self.delays)} layers for {len(names)} names ({', '.join(names[:3])}, ...): "
                "leave out the layers that the table does not hold (--without)"
            )
        return replace(self, delays=dict(zip(names, self.delays.values(), strict=True)), named=True)

    @property
    def layers(self) -> list[str]:
        """Names in order."""
        return list(self.delays)

    def at(self, layer: str, weight_bits: int, activation_bits: int) -> float:
        """Return the delay of a layer.

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
            TargetError: another ending, an .npy of widths other than 1 to 8, or the file cannot be written.
        """
        file = check_layout(path)
        data = {".csv": self._csv, ".json": self._json, ".npy": self._npy}[file.suffix]()
        with atomic_write(file, TargetError) as temporary:
            temporary.write_bytes(data)

    def _csv(self) -> bytes:
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(COLUMNS + (SHAPE_COLUMNS if self.shapes else ()))
        for layer, cells in self.delays.items():
            if layer[:1] == " ":
                raise TargetError(f"delay table: CSV loses the space that {layer!r} begins with: write .json")
            tail = _shape_cells(self.shapes.get(layer)) if self.shapes else ()
            lines.writerows((layer, w, a, repr(delay), *tail) for (w, a), delay in sorted(cells.items()))
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


def check_layout(path: str | Path) -> Path:
    """Return the path, when its ending names a layout that is known.

    Raises:
        TargetError: it names none.
    """
    file = Path(path)
    if file.suffix not in (".csv", ".json", ".npy"):
        raise TargetError(f"delay table {path}: expected a name that ends in .csv, .json or .npy")
    return file


def read_delay_table(path: str | Path) -> DelayTable:
    """Read CSV, JSON or HAQ's .npy, by the name's ending.

    Raises:
        TargetError: the file cannot be read, or an entry is wrong; names the line or layer.
    """
    file = check_layout(path)
    try:
        found = {".csv": _read_csv, ".json": _read_json, ".npy": _read_npy}[file.suffix](file)
    except (OSError, ValueError, csv.Error) as error:
        raise TargetError(f"delay table {path}: cannot be read: {error}; expected {_LAYOUTS[file.suffix]}") from error
    if not found.delays:
        raise TargetError(f"delay table {path}: it holds no layer; expected {_LAYOUTS[file.suffix]}")
    return found


def _read_csv(file: Path) -> DelayTable:
    found: dict[str, dict[tuple[int, int], float]] = {}
    shapes: dict[str, ConvShape] = {}
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines, skipinitialspace=True)
        for column in COLUMNS:
            if column not in (reader.fieldnames or ()):
                raise TargetError(
                    f"delay table {file}: no column {column!r}: {nearest(column, reader.fieldnames or ())}"
                )
        for line in reader:
            where = f"delay table {file}: line {reader.line_num}"
            weight_bits, activation_bits, delay = (_number(line, column, where) for column in COLUMNS[1:])
            pair = int(weight_bits), int(activation_bits)
            cells = found.setdefault(line["layer"], {})
            if pair in cells:
                raise TargetError(f"{where}: {line['layer']!r} at {pair} is there twice")
            cells[pair] = delay
            if line.get("in_channels"):
                shapes[line["layer"]] = _shape(line, where)
    return DelayTable(found, shapes=shapes)


def _number(line: Mapping[str, str], column: str, where: str) -> float:
    """Return a number of a line of CSV; widths are whole."""
    try:
        number = float(line[column])
    except (TypeError, ValueError):
        number = float("nan")
    if column == "delay" and not np.isnan(number):
        return number
    if not number.is_integer():
        kind = "a number" if column == "delay" else "a whole number"
        raise TargetError(f"{where}: column {column!r} is {line[column]!r}; expected {kind}")
    return number


def _shape_cells(shape: ConvShape | None) -> tuple[object, ...]:
    if shape is None:
        return ("",) * len(SHAPE_COLUMNS)
    values = ((name, getattr(shape, name)) for name in SHAPE_COLUMNS)
    return tuple("x".join(map(str, value)) if name in _PAIRS else value for name, value in values)


def _shape(line: Mapping[str, str], where: str) -> ConvShape:
    """Return the shape in a line of CSV.

    Raises:
        TargetError: a column is missing, or the shape is impossible; names the line.
    """
    for column in SHAPE_COLUMNS:
        if not line.get(column):
            raise TargetError(f"{where}: no column {column!r}; a shape has {', '.join(SHAPE_COLUMNS)}")
    try:
        numbers = {name: int(line[name]) for name in SHAPE_COLUMNS if name not in _PAIRS}
        pairs = {name: tuple(int(size) for size in line[name].split("x")) for name in _PAIRS}
        product = (numbers["height"], numbers["width"], pairs["kernel"]) == (1, 1, (1, 1))
        return ConvShape(**numbers, **pairs, fully_connected=product)  # type: ignore[arg-type]
    except (ValueError, TargetError) as error:
        raise TargetError(f"{where}: {error}; expected whole numbers, kernel as 3x3") from error


class _Cell(TypedDict):
    weight_bits: int
    activation_bits: int
    delay: float


class _Layer(TypedDict):
    layer: str
    delays: list[_Cell]


class _Table(TypedDict):
    named: NotRequired[bool]
    layers: list[_Layer]


def _read_json(file: Path) -> DelayTable:
    data = parse_json(file.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or data.get("format") != FORMAT or data.get("version") != 1:
        raise TargetError(f"delay table {file}: expected format {FORMAT!r}, version 1")
    table: _Table = typed(_Table, data)
    found: dict[str, dict[tuple[int, int], float]] = {}
    for entry in table["layers"]:
        if entry["layer"] in found:
            raise TargetError(f"delay table {file}: layer {entry['layer']!r} is there twice")
        found[entry["layer"]] = {
            (cell["weight_bits"], cell["activation_bits"]): cell["delay"] for cell in entry["delays"]
        }
    return DelayTable(found, table.get("named", True))


def _read_npy(file: Path) -> DelayTable:
    try:
        array: npt.NDArray[Any] = np.load(file, allow_pickle=False)
    except Exception as error:  # numpy reads the header as Python and raises what that does
        raise ValueError(f"it is damaged ({type(error).__name__})") from error
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
    """Return the delay table of a network on a target.

    Cycles of each layer of multiply-accumulates at its legal widths.

    A layer's delay holds the writing of its results, at the width of its activations where they can have it.
    """
    layers: dict[str, list[CostRow]] = {}
    for row in table:
        if row.known:
            layers.setdefault(row.name, []).append(row)
    return DelayTable(
        {
            name: {(w, a): cost.cycles + _written(rows, a) for (a, w), cost in cells.items()}
            for name, rows in layers.items()
            if (cells := layer_cells(rows))
        }
    )


def _written(rows: Sequence[CostRow], bits: int) -> float:
    """Return cycles of writing a layer's results at a width, at their widest where they cannot have it."""
    results = (row for row in rows if row.part == "result")
    costs = [row.costs[row.activation_widths.index(bits) if bits in row.activation_widths else -1] for row in results]
    return sum(cost.cycles for line in costs for cost in line if cost is not None)


def read_hawq_latencies(path: str | Path, names: Sequence[str] | None = None) -> DelayTable:
    """Return latencies that HAWQ-V3 published for a GPU, from a JSON file with `latency_int4` and `latency_int8` (ms).

    Args:
        path: JSON with one number a layer in both lists.
        names: layer names in order; by default they have only an order.

    Raises:
        TargetError: the lists are missing or of different lengths.
    """
    try:
        data = typed(dict[str, Any], parse_json(Path(path).read_text(encoding="utf-8")))
        four, eight = (typed(list[float], data.get(f"latency_int{bits}")) for bits in (4, 8))
    except (OSError, ValueError) as error:
        raise TargetError(
            f"latencies {path}: cannot be read: {error}; expected latency_int4 and latency_int8"
        ) from error
    if len(four) != len(eight):
        raise TargetError(f"latencies {path}: {len(four)} and {len(eight)} numbers; expected one a layer in both")
    cells: dict[str, Mapping[tuple[int, int], float]] = {
        str(index): {(4, 4): low, (8, 8): high} for index, (low, high) in enumerate(zip(four, eight, strict=True))
    }
    table = DelayTable(cells, named=False)
    return table if names is None else table.renamed(names)


def import_delays(path: str | Path) -> DelayTable:
    """Return a delay table in any layout that is known: CSV, JSON, HAQ's .npy, HAWQ-V3's JSON.

    Raises:
        TargetError: the file has none of them.
    """
    file = Path(path)
    try:
        is_hawq = file.suffix == ".json" and b'"latency_int4"' in file.read_bytes()
    except OSError as error:
        raise TargetError(f"delay table {path}: cannot be read: {error}") from error
    if is_hawq:
        return read_hawq_latencies(file)
    return read_delay_table(file)
