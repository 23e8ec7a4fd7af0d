"""Marks: the quantizer after a chain of standard operators, written on the chain's last node.

A chain that no structure tells apart from ordinary arithmetic (tables of levels, odd codes, quantizers in float) keeps
the attributes of its fake-quant node as JSON in the node's metadata, so that a reader finds the quantizer again.
"""

from __future__ import annotations

import json
from typing import Any

from qir.errors import ExportError
from qir.fake_quant import FakeQuant
from qir.graph import Graph, Node, Use, Value

KEY = "qir.quantizer"
"""Name of the entry in a node's metadata."""

SOURCE = "qir.quantizer.source"
"""Name of the entry in the metadata of the node that reads the quantizer's operand: the quantizer's name.

Values that become outputs of the network are renamed on writing, and nodes need no names; metadata stay.
"""

MARKED_IR = 10
"""Oldest ONNX IR version whose nodes have metadata."""


def mark(value: Value, quantizer: FakeQuant) -> None:
    """Write on the node that makes `value` which quantizer it stands for.

    Args:
        value: result of the last node of the chain.
        quantizer: the quantizer, still in the graph.
    """
    maker = value.producer
    if maker is None:
        raise ExportError(f"quantizer {quantizer.name!r}: no node makes {value.name!r}, so that none can be marked")
    entry = entry_of(quantizer) | {"source": None}
    if not quantizer.is_weight:
        reader = _reader(value, quantizer.source)
        reader.node.metadata[SOURCE] = quantizer.name
        entry["source"] = reader.index
    maker.metadata[KEY] = json.dumps(entry, sort_keys=True, separators=(",", ":"))


def marked_codes(graph: Graph) -> list[tuple[Node, Node, str]]:
    """Return marked DequantizeLinears, each with the node that makes its codes and the mark which that can carry.

    Operators that read the codes themselves leave the DequantizeLinear dead, so the mark holds their grid. Constant
    codes have no such node: weights come back on the grid of their integers.
    """
    found = []
    for node in graph:
        maker = node.operands[0].producer if KEY in node.metadata and node.op == "DequantizeLinear" else None
        grid = [value.constant.numpy().item() for value in node.operands[1:] if value.constant and maker is not None]
        if maker is not None and len(grid) == 2:
            entry = json.loads(node.metadata[KEY]) | {"grid": grid}
            found.append((node, maker, json.dumps(entry, sort_keys=True, separators=(",", ":"))))
    return found


def entry_of(quantizer: FakeQuant) -> dict[str, Any]:
    """Return what a quantizer is, as JSON holds it."""
    bits, granularity = quantizer.bits, quantizer.granularity
    widths = sorted({bits} if isinstance(bits, int) else set(bits) - {0})
    entry: dict[str, Any] = {
        "name": quantizer.name,
        "bits": bits,
        "signed": int(quantizer.signed),
        "narrow": int(quantizer.narrow),
        "axis": granularity.axis,
        "block": granularity.size,
        "widths": widths,
        "schemes": {width: quantizer.scheme_name(width) for width in widths},
        "ranges": [quantizer.ranges(width).tolist() for width in widths],
    }
    tables = {width: quantizer.levels(width) for width in widths}
    levels = {width: table.tolist() for width, table in tables.items() if table is not None}
    if levels:
        entry["levels"] = levels
    return entry


def _reader(value: Value, source: Value) -> Use:
    """Return where a chain that ends at `value` reads its operand."""
    todo, seen = [value], {value}
    while todo:
        maker = todo.pop().producer
        for index, operand in enumerate(() if maker is None else maker.inputs):
            if operand is source and maker is not None:
                return Use(maker, index)
            if operand is not None and operand not in seen:
                seen.add(operand)
                todo.append(operand)
    raise ExportError(f"value {value.name!r}: no node of its chain reads {source.name!r}")
