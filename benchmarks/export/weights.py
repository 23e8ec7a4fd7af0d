"""Speed of exported networks in ONNX Runtime with int8 and with uint8 weights, side by side in one run.

    python benchmarks weights [--networks lenet resnet-20] [--batch 1] [--repeats 30]

The shipped networks at 8 bits, profile qcdq, one thread; the sessions take turns. Milliseconds of a run are the median,
the ratio is that of the medians. The line above the table names the CPU's instruction set: with VNNI the kernels of
unsigned by signed bytes are the faster ones, without it they saturate and int8 weights are not exact.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import onnxruntime

import qir
import qir.models
from qir.backends.execution.cpu import instruction_set
from qir.backends.execution.saturation import WeightStorage
from qir.backends.execution.session import OrtSession
from qir.passes import export, run_passes
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.tensor import Array

STORAGES: tuple[WeightStorage, ...] = ("int8", "uint8")


def sessions(name: str, images: Array, folder: Path) -> dict[str, OrtSession]:
    """The float network, and the exported one with each storage of weights."""
    module = qir.load(qir.models.path(name))
    found = {"float": OrtSession(qir.models.path(name))}
    steps = f"{SIMPLIFY},insert-fake-quant{{weight_widths=8,activation_widths=8}},calibrate{{method=minmax}},fit-bias"
    run_passes(module, steps, data=images)
    for weights in STORAGES:
        path = folder / weights / f"{name}.quant.onnx"
        found[weights] = OrtSession(export(module, path, data=images[:4], weights=weights).model)
    return found


def times(runs: dict[str, OrtSession], feed: dict[str, Array], repeats: int) -> dict[str, float]:
    """Median milliseconds of a run of each session, which take turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, session in runs.items():
            start = time.process_time()
            for _ in range(20):
                session.run(feed)
            found[name].append((time.process_time() - start) * 1000 / 20)
    return {name: statistics.median(values) for name, values in found.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=["lenet", "resnet-20"])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    print(f"{instruction_set()}, ONNX Runtime {onnxruntime.__version__}, batch {options.batch}, ms a run")
    images = qir.models.fashion_mnist("calibration").images[: max(options.batch, 32)]
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            found = sessions(name, images, Path(folder))
            feed = {found["int8"].input_names[0]: images[: options.batch]}
            took = times(found, feed, options.repeats)
        shown = "  ".join(f"{label} {took[label]:.3f}" for label in took)
        print(f"{name:12} {shown}  uint8/int8 {took['uint8'] / took['int8']:.2f}", flush=True)


if __name__ == "__main__":
    main()
