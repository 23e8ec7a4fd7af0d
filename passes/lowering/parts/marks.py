"""Marks: the quantizer after a chain of standard operators, written on the chain's last node.

A chain that no structure tells apart from ordinary arithmetic (tables of levels, odd codes, quantizers in float) keeps
the attributes of its fake-quant node as JSON in the node's metadata, so that a reader finds the quantizer again.
"""

from __future__ import annotations

import json
from typing import Any

from qir.errors import ExportError
from qir.fake_quant import bits_of, ranges_at, scheme_of
from qir.graph import Graph, Node, Value

KEY = "qir.quantizer"
"""Name of the entry in a node's metadata."""

MARKED_IR = 10
"""Oldest ONNX IR version whose nodes have metadata."""


def mark(value: Value, node: Node) -> None:
    """Write on the node that makes `value` which quantizer it stands for.

    Args:
        value: result of the last node of the chain.
        node: the fake-quant node, still in the graph.
    """
    maker = value.producer
    assert maker is not None  # noqa: S101 - chains have nodes
    entry = entry_of(node) | {"source": None if node.operands[0].is_constant else _reader(node)}
    maker.metadata[KEY] = json.dumps(entry, sort_keys=True, separators=(",", ":"))


def marked_codes(graph: Graph) -> list[tuple[Node, Node, str]]:
    """Every marked DequantizeLinear, the node that makes its codes, and the mark that this one can carry instead.

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


def entry_of(node: Node) -> dict[str, Any]:
    """The attributes of a fake-quant node as JSON holds them."""
    bits = bits_of(node)
    widths = sorted({bits} if isinstance(bits, int) else set(bits) - {0})
    entry: dict[str, Any] = {
        "name": node.name,
        "bits": bits,
        "signed": node.attribute("signed", 1),
        "narrow": node.attribute("narrow", 0),
        "axis": node.attribute("axis"),
        "block": node.attribute("block"),
        "widths": widths,
        "schemes": {width: scheme_of(node, width) for width in widths},
        "ranges": [_plain(ranges_at(node, width)) for width in widths],
    }
    tables = {width: node.attribute(f"levels_{width}") for width in widths}
    levels = {width: _plain(table.numpy()) for width, table in tables.items() if table is not None}
    if levels:
        entry["levels"] = levels
    return entry


def _reader(node: Node) -> list[str | int]:
    """Name of a node of the chain that reads the quantizer's operand, and the operand's index there.

    Values that become outputs of the network are renamed on writing; nodes keep their names.
    """
    source = node.operands[0]
    for use in source.uses:
        if use.node.name.startswith(f"{node.name}."):
            return [use.node.name, use.index]
    raise ExportError(f"quantizer {node.name!r}: no node of its chain reads {source.name!r}")


def _plain(array: Any) -> Any:
    return None if array is None else array.tolist()
