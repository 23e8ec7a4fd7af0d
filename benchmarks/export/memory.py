"""Peak memory of quantizing a shipped network against the number of samples: it should be flat.

python benchmarks memory [SAMPLES ...]
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import qir

NETWORK = Path(qir.__file__).parent / "models" / "trained" / "resnet20_cifar10.onnx"

RUN = """
import resource, sys, time
from qir import quantize
start = time.process_time()
quantize(sys.argv[1], target="npu-148", data=sys.argv[2], output=sys.argv[3], compare=False)
seconds = time.process_time() - start
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, seconds)
"""


def main() -> None:
    counts = [int(text) for text in sys.argv[1:]] or [100, 2000]
    print(f"{'samples':>8} {'file, MiB':>10} {'peak, MiB':>10} {'CPU, s':>8}")
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "samples.npy"
            images = np.lib.format.open_memmap(path, "w+", np.float32, (count, 3, 32, 32))
            for start in range(0, count, 100):
                images[start : start + 100] = np.random.default_rng(start).random(
                    (len(images[start : start + 100]), 3, 32, 32)
                )
            images.flush()
            command = [sys.executable, "-P", "-c", RUN, str(NETWORK), str(path), f"{folder}/q.onnx"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peak, seconds = map(float, done.stdout.split()[-2:])
            print(f"{count:8} {path.stat().st_size / 2**20:10.1f} {peak:10.0f} {seconds:8.1f}", flush=True)


if __name__ == "__main__":
    main()
