"""The figures of the project: `python benchmarks` lists them, `python benchmarks NAME [options]` prints one.

    python benchmarks                   # what there is
    python benchmarks ir --long         # one, with its own options (`--help` shows them)
    python benchmarks all               # every one that needs no files, one after another

Each is a script in the folder of what it is about, run in a process of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Benchmark:
    """A script and what it needs.

    Attributes:
        script: path below this folder.
        prints: the figures.
        needs: arguments without which it cannot run; such a one is left out of `all`.
    """

    script: str
    prints: str
    needs: str = ""


BENCHMARKS = {
    "ir": Benchmark("ir/speed.py", "speed of the IR next to onnx_ir and onnx"),
    "passes": Benchmark("ir/passes.py", "loading and simplifying next to peers: seconds, nodes left, outputs"),
    "oracle": Benchmark("ir/oracle.py", "round trips against an independent reader"),
    "stages": Benchmark("ir/stages.py", "every stage on ONNX files of any origin", needs="FILE.onnx …"),
    "export": Benchmark("export/speed.py", "exported files next to float ones and ONNX Runtime's quantizer"),
    "profile-sizes": Benchmark("export/profile_sizes.py", "bytes of the file in every profile"),
    "weights": Benchmark("export/weights.py", "speed with int8 and with uint8 weights"),
    "accuracy": Benchmark("export/accuracy.py", "accuracy at 8/8 next to ONNX Runtime's quantizer"),
    "calibration": Benchmark("export/calibration.py", "calibration for eight widths: seconds and memory"),
    "memory": Benchmark("export/memory.py", "peak memory of quantizing and verifying against the number of samples"),
    "nbits": Benchmark(
        "export/language/compare.py", "weights alone in mixed bits next to peers: perplexity, bytes, time"
    ),
    "nbits-speed": Benchmark(
        "export/language/speed.py", "one MatMul in float, int8 and 8, 4 and 2 bits, by size and rows"
    ),
    "weight-ranges": Benchmark("export/weight_ranges.py", "accuracy by how the scales of weights are chosen"),
    "rounding": Benchmark("export/rounding.py", "accuracy with learned and with nearest rounding"),
    "golden-costs": Benchmark("costs/golden.py", "cost models against published tables"),
    "transfer": Benchmark("costs/transfer.py", "the best policy for one hardware, costed on the others"),
    "golden-search": Benchmark("search/golden.py", "searches against published tables and chains"),
    "search": Benchmark("search/problems.py", "every method next to random, solver times, overheads"),
    "trained": Benchmark("search/trained.py", "searches on trained networks, figures of mixed-precision peers"),
    "residual": Benchmark("search/residual.py", "every method on residual networks; ResNet-20's front"),
    "sensitivity": Benchmark("search/sensitivity.py", "sensitivity metrics against the measured loss, their price"),
    "recipes": Benchmark("search/recipes.py", "every recipe on LeNet: the column of docs/reference/recipes.md"),
    "releq": Benchmark("search/releq.py", "ReLeQ's table 2 in small"),
    "training": Benchmark("training/speed.py", "fake-quantized training next to torch and Brevitas"),
    "fake-quant": Benchmark("training/fake_quant.py", "fake quantization alone, forward and backward"),
    "schemes": Benchmark("training/schemes.py", "which scheme loses least on which distribution"),
    "autoqnn": Benchmark("training/autoqnn.py", "AutoQNN's table 7 in small"),
    "text": Benchmark("training/text.py", "AutoQNN's table 5 in small, on the LSTM text classifier", needs="FILE.onnx"),
    "zoo": Benchmark("zoo.py", "public networks from file to verified mixed bits", needs="a connection"),
    "real-networks": Benchmark("real_networks.py", "fetches networks that others trained", needs="a connection"),
}


def run(name: str, options: list[str]) -> int:
    """Run a benchmark; its exit code."""
    paths = [str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(
        [sys.executable, HERE / BENCHMARKS[name].script, *options], env=environment, check=False
    ).returncode


def run_all() -> int:
    """Run every benchmark that needs no files; names what failed."""
    failed = []
    for name, benchmark in BENCHMARKS.items():
        if not benchmark.needs:
            print(f"== {name}: {benchmark.prints}", flush=True)
            failed += [name] if run(name, []) else []
    print("all ran" if not failed else f"failed: {', '.join(failed)}")
    return bool(failed)


def main(arguments: list[str]) -> int:
    """List, run one, or run all."""
    name, options = (arguments[0], arguments[1:]) if arguments else ("", [])
    if name == "all":
        return run_all()
    if name in BENCHMARKS:
        return run(name, options)
    for known, benchmark in BENCHMARKS.items():
        print(f"{known:15}{benchmark.prints}{f' (needs {benchmark.needs})' if benchmark.needs else ''}")
    if name not in {"", "-h", "--help"}:
        print(f"no benchmark is called {name!r}", file=sys.stderr)
    return 0 if name in {"", "-h", "--help"} else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
