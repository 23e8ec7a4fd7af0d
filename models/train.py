"""`python -m qir.models.train lenet`: trains a shipped network anew and writes its ONNX file and its card."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from qir.errors import QirError
from qir.models.data.fashion_mnist import TRAIN_RANGES, fashion_mnist, float_training_indices, read_full
from qir.models.data.samples import Samples
from qir.models.shipped import file_stem, names
from qir.models.training import Recipe, count_correct, train

RECIPES = {
    "lenet": Recipe("lenet", "fashion-mnist", 3, 128, 0.01, "adam", 0.01, seed=0),
    "resnet-20": Recipe("resnet-20", "fashion-mnist", 10, 128, 0.15, "sgd", 5e-4, seed=0, shift=2),
    "residual": Recipe("residual", "fashion-mnist", 6, 128, 0.15, "sgd", 5e-4, seed=0, shift=2),
}
"""The recipe of each shipped network."""


def main(arguments: list[str] | None = None) -> int:
    """Trains, exports, measures and writes; returns the exit code (2 for a QirError)."""
    parser = argparse.ArgumentParser(prog="python -m qir.models.train", description=__doc__)
    parser.add_argument("network", choices=names())
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder of the two files")
    parser.add_argument("--epochs", type=int, help="another number of epochs than the recipe's")
    parser.add_argument("--seed", type=int, help="another seed than the recipe's")
    parser.add_argument("--data", help="folder of the full Fashion-MNIST")
    options = parser.parse_args(arguments)
    recipe = RECIPES[options.network]
    recipe = replace(recipe, epochs=options.epochs or recipe.epochs)
    recipe = recipe if options.seed is None else replace(recipe, seed=options.seed)
    try:
        make(options.network, recipe, options.out, options.data)
    except QirError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def make(name: str, recipe: Recipe, out: Path, data: str | None = None) -> Path:
    """Trains the network by the recipe and writes `<stem>.onnx` and `<stem>.json` into `out`.

    Args:
        name: name of the shipped network.
        recipe: how to train it.
        out: an existing folder.
        data: folder of the full Fashion-MNIST; by default as in `fashion_mnist_full`.

    Returns:
        The ONNX file.

    Raises:
        DataError: the full Fashion-MNIST is not there.
    """
    import torch

    from qir.models.builders import build
    from qir.models.exporting import OPSET, export_network

    pixels, labels = read_full("train", data)
    indices = float_training_indices()
    samples = Samples.from_pixels(pixels[indices][:, None], labels[indices], "fashion-mnist-full/train")
    start = time.process_time()
    network = train(build(recipe.network, seed=recipe.seed, channels=1), samples, recipe, _print_epoch)
    seconds = time.process_time() - start
    file = out / f"{file_stem(name)}.onnx"
    network = network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    export_network(network, torch.zeros(1, 1, 28, 28), file)
    content = {
        "name": name,
        "file": file.name,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "bytes": file.stat().st_size,
        "command": f"python -m qir.models.train {name}",
        "recipe": asdict(recipe),
        "input": {"shape": ["batch", 1, 28, 28], "normalisation": "pixel / 255"},
        "trained_on": {
            "set": "Fashion-MNIST, official training images, without search-validation",
            "images": len(indices),
            "left_out": list(TRAIN_RANGES["search-validation"]),
        },
        "splits": {split: list(bounds) for split, bounds in TRAIN_RANGES.items()},
        "accuracy": {split: _accuracy(file, split) for split in ("search-validation", "test")},
        "training_cpu_seconds": round(seconds, 1),
        "torch": torch.__version__,
        "opset": OPSET,
    }
    _write_card(file.with_suffix(".json"), content)
    print(json.dumps(content["accuracy"]))
    return file


def _accuracy(file: Path, split: Any) -> dict[str, float | int]:
    samples = fashion_mnist(split)
    correct = count_correct(file, samples.images, samples.labels)
    rate = correct / len(samples)
    return {
        "correct": correct,
        "images": len(samples),
        "rate": rate,
        "standard_error": round(math.sqrt(rate * (1 - rate) / len(samples)), 5),
    }


def _write_card(file: Path, content: dict[str, Any]) -> None:
    temporary = file.with_name(file.name + ".partial")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(file)


def _print_epoch(epoch: int, loss: float) -> None:
    print(f"epoch {epoch}: mean loss {loss:.4f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
