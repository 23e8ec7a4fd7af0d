"""Calibration for eight widths next to ONNX Runtime's for one: CPU seconds, memory.

    python benchmarks calibration [--networks lenet resnet-20 mobilenet-v2] [--rounds 3]

ONNX Runtime: `create_calibrator` on the canonicalized network with the operators that `quantize_static` quantizes,
`collect_data`, `compute_data`, for activations at one width; it does not look at weights. qir: the `calibrate` pass on
the same network with every activation and weight quantizer at the widths 1 to 8: ranges of activations by `method`,
of weights by `weights`; the last row is the default. Both read the same data in batches of the same size.

Every row runs in processes of its own: CPU seconds are a median, without imports; `peak` is the largest resident
memory beyond that after imports, on the data once and on the data four times over. `x minmax` and `x same` are the
seconds by those of ONNX Runtime's min-max and of its calibration of the same name; the target is 1.5.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qir.passes import run_passes

Array = np.ndarray[Any, np.dtype[Any]]

NETWORKS = {"lenet": 64, "resnet-20": 64, "mobilenet-v2": 8}
"""Networks and samples a batch."""

PEERS = ("MinMax", "Percentile", "Entropy")
OWN = (
    ("minmax", "minmax"),
    ("percentile", "minmax"),
    ("entropy", "minmax"),
    ("mse", "minmax"),
    ("mse", "mse"),
    ("mse", "output"),
)
"""How activations and how weights are clipped."""

TARGET = 1.5
ALL = "1|2|3|4|5|6|7|8"


class Reader:
    """Batches as ONNX Runtime reads them."""

    def __init__(self, name: str, parts: Iterator[Array]) -> None:
        self.feeds = ({name: part} for part in parts)

    def get_next(self) -> dict[str, Array] | None:
        """The next batch, None at the end."""
        return next(self.feeds, None)


def images_of(network: str) -> Array:
    """512 calibration images of Fashion-MNIST, or 32 of noise for ImageNet's size."""
    import qir.models

    if network == "mobilenet-v2":
        return np.random.default_rng(0).normal(size=(32, 3, 224, 224)).astype(np.float32)
    return qir.models.fashion_mnist("calibration").images


def source_of(network: str, folder: Path) -> Path:
    """The canonicalized network as a file."""
    import qir
    import qir.models
    from qir.models.builders import export_onnx
    from qir.passes.simplify.canonicalize import SIMPLIFY

    target = folder / f"{network}.float.onnx"
    path = export_onnx(network, folder / "raw.onnx") if network == "mobilenet-v2" else qir.models.path(network)
    module = qir.load(path)
    run_passes(module, SIMPLIFY)
    qir.save(module, target)
    return target


def onnxruntime_calibration(source: Path, folder: Path, method: str, batches: Callable[[], Iterator[Array]]) -> None:
    """What `quantize_static` does to calibrate."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    calibrator = create_calibrator(
        source,
        [*{*QDQRegistry, *QLinearOpsRegistry}],
        augmented_model_path=str(folder / "augmented.onnx"),
        calibrate_method=CalibrationMethod[method],
    )
    calibrator.collect_data(Reader("input", batches()))
    calibrator.compute_data()


def work(network: str, row: str, source: str, times: int) -> None:
    """One calibration; prints its figures as JSON."""
    import onnxruntime.quantization  # noqa: F401

    import qir
    from qir.passes import PassContext, PassManager, parse_pipeline

    images, size = images_of(network), NETWORKS[network]

    def batches() -> Iterator[Array]:
        for _ in range(times):
            yield from (images[start : start + size] for start in range(0, len(images), size))

    with tempfile.TemporaryDirectory() as name:
        if row in PEERS:
            base, started = peak_memory(), time.process_time()
            onnxruntime_calibration(Path(source), Path(name), row, batches)
        else:
            method, weights = row.split("/")
            module = qir.load(source)
            insert = f"insert-fake-quant{{weight_widths={ALL},activation_widths={ALL}}}"
            run_passes(module, insert)
            manager = PassManager(parse_pipeline(f"calibrate{{method={method},weights={weights}}}"))
            base, started = peak_memory(), time.process_time()
            manager.run(module, PassContext(calibration_data=batches()))
        print("\n" + json.dumps({"seconds": time.process_time() - started, "peak": peak_memory() - base}))


def peak_memory() -> float:
    """Largest resident memory of this process so far, in MB (Linux)."""
    return float(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def measure(network: str, row: str, source: Path, times: int) -> dict[str, float]:
    """Figures of one process."""
    command = [sys.executable, __file__, "--worker", network, row, str(source), str(times)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def table(network: str, rounds: int, folder: Path) -> Iterator[str]:
    """The lines of one network."""
    source = source_of(network, folder)
    seconds: dict[str, float] = {}
    for row in (*PEERS, *("/".join(pair) for pair in OWN)):
        found = [measure(network, row, source, 1) for _ in range(rounds)]
        more = measure(network, row, source, 4)
        seconds[row] = statistics.median(entry["seconds"] for entry in found)
        peak = statistics.median(entry["peak"] for entry in found)
        label = f"ONNX Runtime {row}" if row in PEERS else f"qir {row.replace('/', ', weights ')}"
        same = {name.lower(): name for name in PEERS}.get(row.split("/")[0])
        ratios = "" if row in PEERS else f"{seconds[row] / seconds['MinMax']:>10.2f}"
        ratios += "" if row in PEERS or same is None else f"{seconds[row] / seconds[same]:>8.2f}"
        yield f"{label:<32}{seconds[row]:>7.2f}{peak:>9.0f}{more['peak']:>9.0f}{ratios}"
    verdicts = []
    for peer in PEERS:
        ratio = seconds["/".join(OWN[-1])] / seconds[peer]
        verdicts.append(f"{ratio:.2f} of {peer} ({'met' if ratio <= TARGET else 'missed'})")
    yield f"the default, target {TARGET:g}: {', '.join(verdicts)}"


def main() -> None:
    """Print one table per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--rounds", type=int, default=3, help="runs of which the median is taken")
    parser.add_argument("--worker", nargs=4, metavar=("NETWORK", "ROW", "FILE", "TIMES"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        network, row, source, times = options.worker
        work(network, row, source, int(times))
        return
    with tempfile.TemporaryDirectory(prefix="qir-bench-") as name:
        for network in options.networks:
            print(f"\n{network}, batches of {NETWORKS[network]}, median of {options.rounds}")
            print(f"{'':<32}{'CPU s':>7}{'peak MB':>9}{'x4 data':>9}{'x minmax':>10}{'x same':>8}", flush=True)
            for line in table(network, options.rounds, Path(name)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
