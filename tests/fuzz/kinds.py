"""What qir does with a file of each kind: it reads it whole and uses what it read; a `QirError` is an answer."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path

import numpy as np
from mutations import BYTES, JSON, MUTATIONS, TEXT, Mutation, mutated
from PIL import Image
from seeds import IDENTITY, IMAGE, calibrated, model, seed_files

import qir
import qir.search
from qir.onnx_io import to_bytes
from qir.passes.data.kinds.preprocessing import OWN
from qir.policy import Policy
from qir.types import DType, TensorType


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        read: reads a file and uses what it holds; raises `QirError` for what it cannot read.
        mutations: what happens to the files; of other forms by the file's suffix (`FORMS`).
    """

    read: Callable[[Path], object]
    mutations: tuple[Mutation, ...]


FORMS: dict[str, tuple[Mutation, ...]] = {".json": JSON, ".csv": TEXT, ".txt": TEXT, ".npy": BYTES}


def _onnx(path: Path) -> None:
    module = qir.load(path)
    text = qir.print_module(module)
    again = qir.parse(text)
    for other in (again, qir.load(to_bytes(module))):
        lines = zip_longest(qir.print_module(other).splitlines(), text.splitlines())
        assert not (different := [pair for pair in lines if pair[0] != pair[1]]), different[:2]
    for value in module.graph.values():
        if value.constant is not None:
            value.constant.numpy()
    qir.save(again, path.with_name("again.onnx"), external=True)
    qir.verify(module)


def _quantized(path: Path) -> None:
    from qir.passes import run_passes

    module = qir.load(path)
    run_passes(module, "raise-quantized")
    qir.cost(module, "npu-148")


def _text(path: Path) -> None:
    module = qir.parse(path.read_text(encoding="utf-8", errors="replace"))
    assert qir.print_module(qir.parse(qir.print_module(module))) == qir.print_module(module)
    to_bytes(module)
    qir.verify(module)


def _guide(path: Path) -> None:
    from qir.guide import read_guide

    read_guide(path).to_json()


def _target(path: Path) -> None:
    from qir.backends import ConvShape, load_target

    target = load_target(path)
    shape = ConvShape(in_channels=4, out_channels=4, height=6, width=6, kernel=(3, 3), stride=(1, 1), padding=(1, 1),
                      groups=1, batch=1, fully_connected=False)  # fmt: skip
    for activation_bits, weight_bits in target.operand_rules().legal_pairs():
        target.cost_model().layer_cost(shape, weight_bits=weight_bits, activation_bits=activation_bits)
    qir.cost(calibrated(), target)
    target.save(path.with_name("again.json"))


def _store(path: Path) -> None:
    from qir.search import Store
    from qir.search.evaluation.parallel import Measured

    with contextlib.closing(Store(path)) as store:
        assert len(store) >= 0
        store.evaluations()
        store.get(IDENTITY, Policy({"l0": 2, "l1": 2, "l2": 2}))
        store.get_sensitivity(IDENTITY)
        store.put(IDENTITY, Policy({"l0": 9, "l1": 2, "l2": 2}), Measured(1.0, 0.1, None))


def _delays(path: Path) -> None:
    from qir.backends.costs.tables.delay_files import import_delays

    table = import_delays(path)
    for layer in table.layers:
        str(layer)
    for suffix in (".csv", ".json"):
        again = path.with_name(f"again{suffix}")
        table.write(again)
        assert import_delays(again).delays == table.delays


@cache
def _encoded() -> qir.Module:
    module = qir.load(model().SerializeToString())
    module.metadata["qir.profile"] = "encodings"
    return module


def _encodings(path: Path) -> None:
    from qir.passes.raising.encodings import apply_encodings, read_encodings

    module = _encoded().clone()
    apply_encodings(module, read_encodings(path))
    qir.verify(module)


@cache
def _network(*shape: int | None, dtype: DType = DType.FLOAT32) -> qir.Module:
    graph = qir.Graph("g")
    graph.set_outputs([graph.add_input("x", TensorType(dtype, shape))])
    return qir.Module(graph, opsets={"": 21})


def _samples(path: Path, network: qir.Module) -> None:
    from qir.passes.data.reading import read_samples
    from qir.passes.data.samples import batches

    samples = read_samples(path, network)
    for feed in batches(network, samples, batch=2):
        for array in feed.values():
            np.asarray(array).sum()


def _images(path: Path) -> None:
    folder = path.with_name("images")
    folder.mkdir()
    shutil.copy(path, folder / path.name)
    _samples(folder, _network(None, *IMAGE))
    _samples(folder, _network(None, 3, None, None))


def _arrays(path: Path) -> None:
    _samples(path, _network(None, *IMAGE))


def _sounds(path: Path) -> None:
    folder = path.with_name("sounds")
    folder.mkdir()
    shutil.copy(path, folder / path.name)
    _samples(folder, _network(None, 64))


def _ids(path: Path) -> None:
    _samples(path, _network(None, None, dtype=DType.INT64))


def _preprocessing(path: Path) -> None:
    folder = path.with_name("images")
    folder.mkdir()
    shutil.copy(path, folder / OWN)
    Image.fromarray(np.arange(63, dtype=np.uint8).reshape(7, 9)).save(folder / "a.png")
    _samples(folder, _network(None, *IMAGE))


def _job(path: Path) -> None:
    done = qir.search.Quantized.load(path)
    assert str(done)
    assert done.certificate
    done.report(path.with_name("page.html"))
    done.save(path.with_name("again.json"))


def _job_file(path: Path) -> None:
    from qir.cli.job_files import read_job

    verb, words = read_job(path)
    assert verb
    assert all(isinstance(word, str) for word in words)


def _result(path: Path) -> None:
    from qir.search.problem.result import read_result

    result = read_result(path)
    assert result.certificate
    assert result.lines("accuracy")
    result.best_after(3)
    result.save(path.with_name("again.json"))


def _pipeline(path: Path) -> None:
    from qir.passes import parse_pipeline

    for made in parse_pipeline(path.read_text(encoding="utf-8", errors="replace")):
        str(made)


def _run(path: Path) -> None:
    from qir.passes import replay
    from qir.passes.infrastructure.reproducer import MODULE_FILE, RUN_FILE

    qir.save(_encoded(), path.with_name(MODULE_FILE))
    path.replace(path.with_name(RUN_FILE))
    replay(path.parent)


def _checkpoint(path: Path) -> None:
    from qir.backends.training.checkpoint import load_checkpoint

    load_checkpoint(path, "mine")


def _foreign(path: Path) -> None:
    qir.load(path)


KINDS: dict[str, Kind] = {
    "onnx": Kind(_onnx, MUTATIONS),
    "quantized_onnx": Kind(_quantized, MUTATIONS),
    "text": Kind(_text, TEXT),
    "guide": Kind(_guide, JSON),
    "target": Kind(_target, JSON),
    "store": Kind(_store, BYTES),
    "delays": Kind(_delays, BYTES),
    "encodings": Kind(_encodings, JSON),
    "image": Kind(_images, BYTES),
    "array": Kind(_arrays, BYTES),
    "sound": Kind(_sounds, BYTES),
    "ids": Kind(_ids, TEXT),
    "preprocessing": Kind(_preprocessing, JSON),
    "job": Kind(_job, JSON),
    "job_file": Kind(_job_file, TEXT),
    "result": Kind(_result, JSON),
    "pipeline": Kind(_pipeline, TEXT),
    "run": Kind(_run, JSON),
    "checkpoint": Kind(_checkpoint, BYTES),
    "foreign": Kind(_foreign, BYTES),
}
"""Kinds whose files are read in this process; policies are read by `qir cost` only (`commands`)."""


def try_file(root: Path, folder: Path, name: str, index: int) -> object:
    """Mutate a file of a kind, the same one for the same index, write it into an empty folder, and read it."""
    rng = random.Random(f"{name} {index}")
    path = rng.choice(seed_files(root, name))
    kind = KINDS[name]
    data = mutated(path.read_bytes(), FORMS.get(path.suffix, kind.mutations), rng)
    damaged = folder / path.name
    damaged.write_bytes(data)
    return kind.read(damaged)
