"""One MatMul in ONNX Runtime: float, int8, and weights of 8, 4 and 2 bits in blocks of 32, by size and rows.

    python benchmarks nbits-speed [--sizes 1024 2048 4096] [--rows 1 16]

Processor microseconds of one thread, medians of sessions that take turns. int8 is QLinearMatMul, bits are MatMulNBits
at accuracy level 4. `all of them` is the sum over the sizes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from qir.backends.costs.blocks import block_product
from qir.backends.costs.measured import Call, interleaved, single_layer
from qir.backends.execution.session import OrtSession
from qir.graph import Graph, Node
from qir.module import Module
from qir.tensor import Tensor
from qir.types import DType, TensorType

ROUNDS = 7
KINDS = {"float": (32, 32), "int8": (8, 8), "8 bits": (8, 32), "4 bits": (4, 32), "2 bits": (2, 32)}


def product(size: int, rows: int) -> Module:
    """A MatMul of rows by a square matrix of noise."""
    graph = Graph("product")
    data = graph.add_input("x", TensorType(DType.FLOAT32, (rows, size)))
    noise = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    node = Node("MatMul", (data, graph.add_constant("w", Tensor.of(noise))), ("y",), name="product")
    graph.insert(node).result.type = TensorType(DType.FLOAT32, (rows, size))
    graph.set_outputs([node.result])
    return Module(graph, opsets={"": 21}, ir_version=10)


def runner(kind: str, size: int, rows: int) -> Callable[[], object]:
    """A call of one product."""
    module = product(size, rows)
    node, bits = next(iter(module.graph)), KINDS[kind][0]
    made: Module | None = module
    if kind == "int8":
        made = single_layer(module, node, integer=True)
    elif kind != "float":
        made = block_product(node, bits, 32)
    assert made is not None
    session, value = OrtSession(made), made.graph.inputs[0]
    noise = np.random.default_rng(1).integers(0, 255, (rows, size))
    feed = {value.name: noise.astype(np.uint8 if value.dtype is DType.UINT8 else np.float32)}
    return lambda: session.run(feed)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", type=int, default=[1024, 2048, 4096])
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 16])
    options = parser.parse_args()
    print(f"| rows x size | {' | '.join(KINDS)} |\n|---|{'---:|' * len(KINDS)}")
    for rows in options.rows:
        totals = dict.fromkeys(KINDS, 0.0)
        for size in options.sizes:
            groups = [{(kind, KINDS[kind]): Call(runner(kind, size, rows))} for kind in KINDS]
            found = {key[0]: timing.microseconds for key, timing in interleaved(groups, ROUNDS).items()}
            totals = {kind: totals[kind] + time for kind, time in found.items()}
            print(f"| {rows} x {size} x {size} | {' | '.join(f'{found[kind]:,.0f}' for kind in KINDS)} |", flush=True)
        print(f"| {rows}, all of them | {' | '.join(f'{time:,.0f}' for time in totals.values())} |", flush=True)


if __name__ == "__main__":
    main()
