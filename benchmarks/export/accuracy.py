"""Accuracy at 8/8 next to ONNX Runtime's `quantize_static`, on the whole test split and on labelled photos.

    python benchmarks accuracy [--networks lenet resnet-20 efficientnet-lite0] [--folder out/networks]

Both quantizers get the same canonicalized network and the same calibration data; weights are quantized per channel,
activations per tensor, both at 8 bits; every file runs in ONNX Runtime. LeNet and ResNet-20 are the shipped ones:
right answers on the 10,000 test images of Fashion-MNIST (standard error of the accuracy about 0.3 points: smaller
differences are not evidence). EfficientNet-Lite0 has its ImageNet weights and foolbox's 20 labelled photos: calibrated
on crops of one half of the photos and measured on the other half, then the other way round, so that no photo is
measured that calibration saw. `as float` counts the answers that are those of the float network, for EfficientNet-Lite0
on 200 crops of the photos too.

`thresholds`: of the activation tensors that both quantize, how many have the same range where both define it alike:
min-max to 1e-5 of the range, percentile (ONNX Runtime's asymmetric one) to two bins of a histogram, 1/512 of the
largest magnitude.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import qir
import qir.models
from qir.backends.execution.session import OrtSession
from qir.fake_quant import FakeQuant
from qir.passes import export, run_passes
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.tensor import Array

NETWORKS = ("lenet", "resnet-20", "efficientnet-lite0")
PEERS = ("MinMax", "Percentile", "Entropy")
OWN = ("minmax", "percentile", "entropy", "mse")
CROPS = 32

Ranges = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Split:
    """Images to calibrate on, images to answer, and their labels (-1: only compared with the float network)."""

    seen: Array
    images: Array
    labels: Array


def splits_of(network: str, folder: Path) -> list[Split]:
    """Calibration and test data that share no image."""
    if network != "efficientnet-lite0":
        test = qir.models.fashion_mnist("test")
        return [Split(qir.models.fashion_mnist("calibration").images, test.images, test.labels)]
    from real_networks import crops, photos

    images, labels = photos(folder)
    found = []
    for half in range(2):
        asked, right = images[1 - half :: 2], labels[1 - half :: 2]
        more = crops(asked, 100, seed=10 + half)
        unknown = np.full(len(more), -1)
        found.append(
            Split(crops(images[half::2], CROPS, seed=half), np.concatenate([asked, more]), np.append(right, unknown))
        )
    return found


def source_of(network: str, folder: Path, place: Path) -> Path:
    """The canonicalized network as a file."""
    if network == "efficientnet-lite0":
        from real_networks import efficientnet_lite0

        module = qir.load(efficientnet_lite0(folder))
    else:
        module = qir.load(qir.models.path(network))
    run_passes(module, SIMPLIFY)
    path = place / f"{network}.onnx"
    qir.save(module, path)
    return path


def statically_quantized(source: Path, images: Array, method: str, target: Path) -> Ranges:
    """Write ONNX Runtime's file; the ranges that its calibration found."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.calibrate import create_calibrator

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = iter([{"input": images[start : start + 16]} for start in range(0, len(images), 16)])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    kind = CalibrationMethod[method]
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        options: dict[str, Any] = {"quant_format": QuantFormat.QDQ, "per_channel": True}
        options |= {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "calibrate_method": kind}
        asymmetric = {"CalibTensorRangeSymmetric": False}
        quantize_static(source, target, Reader(), extra_options=asymmetric, **options)
        calibrator = create_calibrator(
            source,
            augmented_model_path=str(target) + ".augmented",
            calibrate_method=kind,
            extra_options={"symmetric": False},
        )
        calibrator.collect_data(Reader())
        found = calibrator.compute_data()
    return {name: tuple(float(np.squeeze(end)) for end in data.range_value) for name, data in found.items()}


def exported(source: Path, images: Array, method: str, target: Path) -> tuple[Path, Ranges]:
    """Write qir's file; the ranges of activations."""
    module = qir.load(source)
    steps = f"insert-fake-quant{{weight_widths=8,activation_widths=8}},calibrate{{method={method}}},fit-bias"
    run_passes(module, steps, data=images)
    ranges: Ranges = {}
    for quantizer in map(FakeQuant, module.graph.fake_quants()):
        if not quantizer.is_weight and quantizer.is_calibrated:
            pair = quantizer.ranges(8)
            ranges[quantizer.source.name] = (float(pair[0, 0]), float(pair[0, 1]))
    return export(module, target, data=images[:64]).model, ranges


def answers_of(path: Path, images: Array) -> Array:
    """The class that a file names for each image."""
    session = OrtSession(path)
    found = [
        next(iter(session.run({"input": images[start : start + 50]}).values())).argmax(1)
        for start in range(0, len(images), 50)
    ]
    return np.concatenate(found)


def same_ranges(ours: Ranges, theirs: Ranges, method: str) -> str:
    """How many tensors have the same range, of how many."""
    both, same = ours.keys() & theirs.keys(), 0
    for name in both:
        largest = max(map(abs, theirs[name]))
        tolerance = largest * (1e-5 if method == "MinMax" else 1 / 512)
        same += all(abs(a - b) <= tolerance for a, b in zip(ours[name], theirs[name], strict=True))
    return f"{same} of {len(both)}"


def table(network: str, folder: Path, place: Path) -> Iterator[str]:
    """The lines of one network."""
    source, splits = source_of(network, folder, place), splits_of(network, folder)
    labels = np.concatenate([split.labels for split in splits])
    floats = np.concatenate([answers_of(source, split.images) for split in splits])
    known = labels >= 0
    yield f"{'float':28}{_share(floats == labels, known):>18}"
    theirs: dict[str, list[Ranges]] = {}
    for method in PEERS:
        parts = []
        for index, split in enumerate(splits):
            target = place / f"{network}.{method}.{index}.onnx"
            theirs.setdefault(method, []).append(statically_quantized(source, split.seen, method, target))
            parts.append(answers_of(target, split.images))
        yield f"{'quantize_static ' + method:28}{_row(np.concatenate(parts), labels, floats)}"
    for method in OWN:
        parts, same = [], []
        peer = {name.lower(): name for name in ("MinMax", "Percentile")}.get(method)
        for index, split in enumerate(splits):
            path, ranges = exported(source, split.seen, method, place / f"{network}.{method}.{index}.quant.onnx")
            parts.append(answers_of(path, split.images))
            if peer is not None:
                same.append(same_ranges(ranges, theirs[peer][index], peer))
        yield f"{'qir ' + method:28}{_row(np.concatenate(parts), labels, floats)}  {', '.join(same)}"


def _row(found: Array, labels: Array, floats: Array) -> str:
    known = labels >= 0
    crops = _share(found == floats, ~known) if not known.all() else ""
    return f"{_share(found == labels, known):>18}{_share(found == floats, known):>18}{crops:>14}"


def _share(right: Array, among: Array) -> str:
    return f"{int(right[among].sum())} / {int(among.sum())}"


def main() -> None:
    """Print one table per network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=NETWORKS, choices=NETWORKS)
    parser.add_argument("--folder", type=Path, default=Path("out/networks"), help="EfficientNet-Lite0 and the photos")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="qir-bench-") as place:
        for network in options.networks:
            print(f"\n{network:28}{'right':>18}{'as float':>18}{'crops':>14}  thresholds", flush=True)
            for line in table(network, options.folder, Path(place)):
                print(line, flush=True)


if __name__ == "__main__":
    main()
