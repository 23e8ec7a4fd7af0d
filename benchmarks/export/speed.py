"""The exported file next to the float one and ONNX Runtime's own quantizer: speed, size, share of integer work.

    python benchmarks export [--networks resnet-50 mobilenet-v2 resnet-20 lenet] [--models other.onnx] [--repeats 15]
    python benchmarks export --photos out/networks     # and EfficientNet-Lite0 on labelled photos

Networks with random weights are made from `qir.models`, ImageNet-shaped ones at 1x3x224x224; the shipped networks have
trained weights. Every row of a network is timed in one run, one thread, the sessions taking turns: median CPU
milliseconds of one image. `quantize_static` gets the folded network, as its documentation asks, per channel, min-max,
QDQ. Both quantizers see the same 8 random images. `integer` is the share of multiply-accumulates whose kernel computes
on integers in the network that ONNX Runtime makes of the file.

EfficientNet-Lite0 has its ImageNet weights and foolbox's 20 labelled photos. It is calibrated on crops of one half of
the photos and measured on the other half, then the other way round: no photo is measured that calibration saw.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import qir
import qir.models
from qir.backends.execution.session import INTEGER_OPS, OrtSession
from qir.fake_quant import quantizers
from qir.graph import Value
from qir.models.builders import export_onnx
from qir.module import Module
from qir.ops import op_of
from qir.passes import PassContext, PassManager, export, run_passes
from qir.passes.constraints.policies import apply_policy
from qir.passes.correction.correct import CorrectChannels
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.policy import Policy
from qir.tensor import Array
from qir.types import TensorType

NETWORKS = ("resnet-50", "mobilenet-v2", "resnet-20", "lenet")
IMAGES = 8
CROPS = 32
WEIGHT_WIDTHS = (8, 4)


@dataclass(frozen=True)
class Row:
    """A file to time: who made it, its name in the table, and where it is."""

    label: str
    path: Path


def network_file(name: str, folder: Path) -> Path:
    """The shipped network of the name, or one with random weights."""
    if name in qir.models.names():
        return qir.models.path(name)
    return export_onnx(name, folder / f"{name}.onnx")


def random_images(module: Module) -> tuple[str, Array]:
    """Name of the input, and noise of its shape."""
    value = module.graph.inputs[0]
    assert isinstance(value.type, TensorType)
    assert value.type.shape is not None
    shape = [IMAGES, *(dim if isinstance(dim, int) else 224 for dim in value.type.shape[1:])]
    return value.name, np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def calibrated(path: Path, images: Array, method: str = "minmax") -> Module:
    """The network with calibrated fake-quant nodes, weights 4 or 8 bits, activations 8."""
    module = qir.load(path)
    insert = "insert-fake-quant{weight_widths=4|8,activation_widths=8}"
    steps = f"{SIMPLIFY},{insert},calibrate{{method={method}}},fit-bias"
    run_passes(module, steps, data=images)
    return module


def exported(
    module: Module, bits: int, path: Path, images: Array, *, profile: str = "qcdq", correct: bool = False
) -> Path:
    """The file with every weight at a width, with the channel-wise affine correction or without."""
    names = quantizers(module.graph)
    apply_policy(module, Policy({name: bits if name.endswith(".weight") else 8 for name in names}))
    if correct:
        PassManager([CorrectChannels()]).run(module, PassContext(calibration_data=images))
    return export(module, path, data=images, profile=profile).model


def statically_quantized(source: Path, name: str, images: Array, path: Path) -> Path:
    """ONNX Runtime's quantizer on the folded network."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = iter([{name: images[i : i + 1]} for i in range(len(images))])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.feeds, None)

    module = qir.load(source)
    run_passes(module, SIMPLIFY)
    folded = path.with_suffix(".folded.onnx")
    qir.save(module, folded)
    quantize_static(
        folded,
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return path


def integer_share(path: Path) -> float:
    """Multiply-accumulates of integer kernels over all, in the graph after ONNX Runtime's optimizations.

    A layer runs on integers when an integer kernel reads the constant that its weight is made of.
    """
    with tempfile.TemporaryDirectory() as folder:
        optimized = Path(folder) / "optimized.onnx"
        OrtSession(path, save_optimized=optimized)
        nodes = [node for node in qir.load(optimized).graph if node.op in INTEGER_OPS]
    read = {value.name for node in nodes for value in node.operands if value is not None and value.is_constant}
    integer = total = 0
    for node in qir.load(path).graph:
        macs = op_of(node).macs(node, batch=1) or 0
        total += macs
        integer += macs * (macs > 0 and not read.isdisjoint(sources(node.operands[1])))
    return integer / total if total else 0.0


def sources(value: Value) -> Iterator[str]:
    """Names of a weight and of the values that it is made of, up to its constant."""
    yield value.name
    while value.producer is not None and value.producer.operands:
        value = value.producer.operands[0]
        yield value.name


def times(rows: list[Row], name: str, image: Array, repeats: int) -> list[float]:
    """Median milliseconds of one image, the sessions taking turns."""
    sessions = [OrtSession(row.path) for row in rows]
    measured: list[list[float]] = [[] for _ in rows]
    for _ in range(repeats + 2):
        for session, found in zip(sessions, measured, strict=True):
            start = time.process_time()
            session.run({name: image})
            found.append((time.process_time() - start) * 1000)
    return [statistics.median(found[2:]) for found in measured]


def table(source: Path, label: str, folder: Path, repeats: int) -> Iterator[str]:
    """Lines of one network."""
    name, images = random_images(qir.load(source))
    module = calibrated(source, images)
    rows = [Row("float", source)]
    rows.append(Row("quantize_static 8/8", statically_quantized(source, name, images, folder / f"{label}.static.onnx")))
    rows += [
        Row(f"qir qcdq {bits}/8", exported(module, bits, folder / f"{label}.{bits}.onnx", images))
        for bits in WEIGHT_WIDTHS
    ]
    packed = exported(module, 4, folder / f"{label}.packed.onnx", images, profile="qcdq-packed")
    rows.append(Row("qir qcdq-packed 4/8", packed))
    for row, milliseconds in zip(rows, times(rows, name, images[:1], repeats), strict=True):
        size, share = row.path.stat().st_size, integer_share(row.path)
        yield f"{label:16} {row.label:22} {milliseconds:8.2f} ms {size:12,} bytes  integer {share:6.1%}"


def on_photos(folder: Path, place: Path) -> Iterator[str]:
    """Lines of EfficientNet-Lite0: right answers and agreement with the float network, over both halves."""
    from real_networks import crops, efficientnet_lite0, photos

    source = efficientnet_lite0(folder)
    images, labels = photos(folder)
    name = qir.load(source).graph.inputs[0].name
    answers = {"float": predicted(source, name, images)}
    files = {"float": source}
    for half in range(2):
        seen = crops(images[half::2], CROPS, seed=half)
        for bits in WEIGHT_WIDTHS:
            label, path = f"qir qcdq {bits}/8", place / f"efficientnet.{half}.{bits}.onnx"
            module = calibrated(source, seen, method="mse")
            files[label] = exported(module, bits, path, seen, correct=True)
            answers.setdefault(label, np.zeros_like(labels))[1 - half :: 2] = predicted(
                path, name, images[1 - half :: 2]
            )
    for label, found in answers.items():
        right, same = int((found == labels).sum()), int((found == answers["float"]).sum())
        size, share = files[label].stat().st_size, integer_share(files[label])
        yield (
            f"efficientnet-lite0 {label:16} right {right}/{len(labels)}, as float {same}/{len(labels)} "
            f"{size:12,} bytes  integer {share:6.1%}"
        )


def predicted(path: Path, name: str, images: Array) -> Array:
    """The class that a file names for each image."""
    session = OrtSession(path)
    return np.concatenate([next(iter(session.run({name: image[None]}).values())).argmax(1) for image in images])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=NETWORKS)
    parser.add_argument("--models", nargs="*", type=Path, default=[], help="ONNX files with one image input")
    parser.add_argument("--photos", type=Path, help="folder for EfficientNet-Lite0 and the photos, fetched if missing")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        sources = [(name, network_file(name, place)) for name in options.networks]
        sources += [(path.stem, path) for path in options.models]
        for label, source in sources:
            for line in table(source, label, place, options.repeats):
                print(line, flush=True)
        for line in on_photos(options.photos, place) if options.photos else ():
            print(line, flush=True)


if __name__ == "__main__":
    main()
