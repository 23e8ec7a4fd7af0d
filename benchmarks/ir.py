"""Speed of the IR beside onnx_ir and onnx on chains of 10,000 and 100,000 nodes, in one run.

    python benchmarks/ir.py [--long] [--repeats 5]

Prints the best of the repeats in milliseconds, and the targets with what was reached.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.graph import Node
from qir.rewriting import Rule, any_value, op, rewrite

NEGATIVE_TWICE = Rule(
    "abs-to-relu",
    op("Abs", any_value("x")),
    lambda match, rewriter: rewriter.replace(match.root, [Node("Relu", [match["x"]])]),
)
RATIO_TARGETS = {"import": 3.0, "traverse": 5.0}
LIMITS_MS = {
    "verify unchanged": 100.0,
    "verify light change": 100.0,
    "verify full": 2000.0,
    "10k rewrites": 200.0,
    "text round trip": 1500.0,
}
GROWTH = 11.0


def chain(length: int) -> bytes:
    """A chain of Abs and Add with one weight, with types for every value."""
    nodes = [
        helper.make_node("Abs", [f"v{i}"], [f"v{i + 1}"], name=f"n{i}")
        if i % 2 == 0
        else helper.make_node("Add", [f"v{i}", "w"], [f"v{i + 1}"], name=f"n{i}")
        for i in range(length)
    ]
    infos = [helper.make_tensor_value_info(f"v{i}", TensorProto.FLOAT, [1, 64]) for i in range(length + 1)]
    weight = numpy_helper.from_array(np.ones((1, 64), np.float32), "w")
    graph = helper.make_graph(nodes, "chain", infos[:1], infos[-1:], [weight], value_info=infos[1:-1])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return bytes(model.SerializeToString())


def best(run: Callable[[Any], object], repeats: int, prepare: Callable[[], Any] = lambda: None) -> float:
    """Shortest of several runs, ms; what `prepare` makes is not timed."""
    shortest = float("inf")
    for _ in range(repeats):
        argument = prepare()
        gc.collect()
        start = time.perf_counter()
        run(argument)
        shortest = min(shortest, time.perf_counter() - start)
    return shortest * 1e3


def unverified(module: qir.Module) -> qir.Module:
    module.clock.verified = None
    return module


def touched(module: qir.Module) -> qir.Module:
    for node in list(module.graph)[:100]:
        node.set_inputs(node.inputs)
    return module


def measure(length: int, repeats: int) -> dict[str, tuple[float, float, float]]:
    """Row → ms of qir, onnx_ir and onnx; NaN where there is nothing to compare."""
    data = chain(length)
    module, other, proto = (
        qir.load(data),
        onnx_ir.serde.deserialize_model(onnx.ModelProto.FromString(data)),
        onnx.ModelProto.FromString(data),
    )
    qir.verify(module)
    nothing = float("nan")
    return {
        "import": (
            best(lambda _: qir.load(data), repeats),
            best(lambda _: onnx_ir.serde.deserialize_model(onnx.ModelProto.FromString(data)), repeats),
            best(lambda _: onnx.ModelProto.FromString(data), repeats),
        ),
        "traverse": (
            best(lambda _: sum(len(node.inputs) for node in module.graph), repeats),
            best(lambda _: sum(len(node.inputs) for node in other.graph), repeats),
            best(lambda _: sum(len(node.input) for node in proto.graph.node), repeats),
        ),
        "clone": (best(lambda _: module.clone(), repeats), best(lambda _: other.clone(), repeats), nothing),
        "verify full": (
            best(qir.verify, repeats, lambda: unverified(module)),
            nothing,
            best(lambda _: onnx.checker.check_model(proto), repeats),
        ),
        "verify unchanged": (best(lambda _: qir.verify(module), repeats), nothing, nothing),
        "verify light change": (best(qir.verify, repeats, lambda: touched(module)), nothing, nothing),
        "text round trip": (best(lambda _: qir.parse(qir.print_module(module)), repeats), nothing, nothing),
        "10k rewrites": (
            best(lambda m: rewrite(m.graph, [NEGATIVE_TWICE]), repeats, lambda: qir.load(chain(2 * length))),
            nothing,
            nothing,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--long", action="store_true", help="the chain of 100,000 nodes too")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    short = measure(10_000, options.repeats)
    long = measure(100_000, 1) if options.long else {}
    print(f"{'10,000 nodes, ms':22}{'qir':>10}{'onnx_ir':>10}{'onnx':>10}{'target':>22}{'100k / 10k':>12}")
    for row, (ours, theirs, protobuf) in short.items():
        target = ""
        if row in RATIO_TARGETS:
            target = f"{theirs / ours:.1f}x of {RATIO_TARGETS[row]:g}x"
        elif row in LIMITS_MS:
            target = f"{'met' if ours < LIMITS_MS[row] else 'missed'}: {LIMITS_MS[row]:g} ms"
        growth = f"{long[row][0] / ours:.1f}x" if row in long else ""
        print(f"{row:22}{ours:10.1f}{theirs:10.1f}{protobuf:10.1f}{target:>22}{growth:>12}")
    if long:
        print(f"growth is to stay at or below {GROWTH:g}x")


if __name__ == "__main__":
    main()
