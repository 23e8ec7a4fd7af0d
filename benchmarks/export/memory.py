"""Peak memory against the number of samples: it should be flat, for everything that reads them.

python benchmarks memory [SAMPLES ...] [--network NAME] [--budget latency=0.5x] [--memory 2GB]

Each figure is of a process of its own: `quantize` without a budget and under one (sensitivities are measured and the
uniform widths compared), and `verify` of the file, with samples from a .npy file of random images.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import qir
from qir import models

RUN = """
import resource, sys, time
from qir.cli.main import make_app
from typer.main import get_command
start = time.process_time()
get_command(make_app()).main(sys.argv[1:], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, time.process_time() - start)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples", type=int, nargs="*", default=[100, 10_000])
    parser.add_argument("--network", default="lenet", help="a shipped one, or a file with one input of known sizes")
    parser.add_argument("--budget", default="latency=0.5x")
    parser.add_argument("--memory", help="budget of each process")
    options = parser.parse_args()
    network = Path(options.network) if Path(options.network).exists() else models.path(options.network)
    shape = tuple(qir.load(network).graph.inputs[0].shape or ())[1:]
    print(f"{'command':16} {'samples':>8} {'file, MiB':>10} {'peak, MiB':>10} {'CPU, s':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for count in options.samples:
            path, made = Path(folder) / f"{count}.npy", Path(folder) / "made.quant.onnx"
            write_images(path, (count, *shape))
            common = ["--data", str(path), *(["--memory", options.memory] if options.memory else [])]
            wanted = ["quantize", str(network), "--target", "npu-148", "--output", str(made), *common]
            commands = {
                "quantize": wanted,
                "under a budget": [*wanted, "--budget", options.budget],
                "verify": ["verify", str(made), *common],
            }
            for name, command in commands.items():
                done = subprocess.run([sys.executable, "-P", "-c", RUN, *command], capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stderr[-2000:])
                peak, seconds = map(float, done.stdout.split()[-2:])
                print(
                    f"{name:16} {count:8} {path.stat().st_size / 2**20:10.1f} {peak:10.0f} {seconds:8.1f}", flush=True
                )


def write_images(path: Path, shape: tuple[int, ...]) -> None:
    """Write random images, uniform in 0 to 1, float32 of a shape, some at a time."""
    images = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for start in range(0, shape[0], 100):
        part = images[start : start + 100]
        part[:] = np.random.default_rng(start).random(part.shape, np.float32)
    images.flush()


if __name__ == "__main__":
    main()
