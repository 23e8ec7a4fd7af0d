"""Drawings of a graph with its bits: SVG and HTML without any program."""

from __future__ import annotations

import html
from collections import defaultdict

from qir.fake_quant import FakeQuant
from qir.graph import Graph, Node, Value
from qir.support.printable import html_text, printable

_COLOURS = ((0, "#ffffff"), (2, "#f4a582"), (4, "#fddbc7"), (8, "#d1e5f0"), (32, "#92c5de"))
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 190, 40, 20, 26
LARGEST_DRAWING = 500
"""`to_html` draws graphs of at most this many nodes and lists larger ones."""


def label_of(node: Node) -> str:
    """Return two lines: the op with its name, and the bits or the shape of its result."""
    if node.is_return:
        return "return"
    bits = f"{FakeQuant(node).bits} bits" if node.is_fake_quant else ""
    below = bits or _shape(node.results[0]) if node.results else ""
    return "\n".join(map(printable, (f"{node.op} {node.name}".strip(), below)))


def _shape(value: Value) -> str:
    if value.shape is None:
        return ""
    return f"{value.dtype}[{', '.join('?' if d is None else str(d) for d in value.shape)}]"


def colour_of(node: Node) -> str:
    """Fill colour: warmer for fewer bits, white for nodes that are not quantizers."""
    if not node.is_fake_quant:
        return _COLOURS[0][1]
    bits = FakeQuant(node).bits
    widest = max(bits) if isinstance(bits, tuple) else bits
    return next((colour for limit, colour in _COLOURS[1:] if widest <= limit), _COLOURS[-1][1])


def to_svg(graph: Graph) -> str:
    """Return the graph as SVG.

    Each node one row below the lowest of its producers, quantizers coloured by their bits.
    """
    level: dict[Node | Value, int] = dict.fromkeys(graph.inputs, 0)
    for node in (*graph, graph.return_node):
        level[node] = 1 + max((level.get(v.producer or v, -1) for v in node.operands), default=-1)
    rows: dict[int, int] = defaultdict(int)
    place: dict[Node | Value, tuple[int, int]] = {}
    for vertex, row in level.items():
        place[vertex] = (rows[row] * (_WIDTH + _GAP_X) + _GAP_X, row * (_HEIGHT + _GAP_Y) + _GAP_Y)
        rows[row] += 1
    width = max(rows.values(), default=1) * (_WIDTH + _GAP_X) + _GAP_X
    height = (max(rows, default=0) + 1) * (_HEIGHT + _GAP_Y) + _GAP_Y
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">']
    parts += [
        _edge(place[v.producer or v], place[n])
        for n in place
        if isinstance(n, Node)
        for v in n.operands
        if (v.producer or v) in place
    ]
    parts += [_box(vertex, *at) for vertex, at in place.items()]
    return "\n".join([*parts, "</svg>"])


def _edge(start: tuple[int, int], end: tuple[int, int]) -> str:
    half = _WIDTH // 2
    ends = f'x1="{start[0] + half}" y1="{start[1] + _HEIGHT}" x2="{end[0] + half}" y2="{end[1]}"'
    return f'<line {ends} stroke="#888"/>'


def _box(vertex: Node | Value, x: int, y: int) -> str:
    node = vertex if isinstance(vertex, Node) else None
    text, fill = (printable(vertex.name), "#eeeeee") if node is None else (label_of(node), colour_of(node))
    first, _, second = text.partition("\n")
    return (
        f'<g><rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="4" fill="{fill}" stroke="#444"/>'
        f'<text x="{x + 6}" y="{y + 16}" font-size="12">{html.escape(first[:30])}</text>'
        f'<text x="{x + 6}" y="{y + 33}" font-size="11" fill="#555">{html.escape(second[:32])}</text></g>'
    )


def to_html(graph: Graph) -> str:
    """Return a notebook's view of a graph: its summary and its drawing, or the counts of its ops when it is large."""
    head = f"<p><b>{html_text(graph.name)}</b>: {len(graph)} nodes, {len(graph.inputs)} inputs</p>"
    if len(graph) <= LARGEST_DRAWING:
        return f'<div>{head}<div style="max-height:600px;overflow:auto">{to_svg(graph)}</div></div>'
    counts: dict[str, int] = defaultdict(int)
    for node in graph:
        counts[node.op] += 1
    rows = "".join(f"<tr><td>{html_text(op)}</td><td>{n}</td></tr>" for op, n in sorted(counts.items()))
    return f"<div>{head}<table>{rows}</table></div>"
