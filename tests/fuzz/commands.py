"""Whole commands on damaged files: a verb, its valid files, and one of them mutated."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from kinds import FORMS
from mutations import BYTES, MUTATIONS, TEXT, change_words, mutated
from seeds import SAMPLES, calibrated, exported, model, quantized, seed_files

import qir
from qir.cli.main import main

Files = dict[str, Path]


def _small(files: Files, folder: Path) -> Path:
    files["model"] = folder / "m.onnx"
    files["model"].write_bytes(model().SerializeToString())
    return files["model"]


def _data(files: Files, folder: Path, rng: random.Random) -> Path:
    files["data"] = folder / rng.choice(["x.npy", "x.npz"])
    if files["data"].suffix == ".npy":
        np.save(files["data"], SAMPLES)
    else:
        np.savez(files["data"], x=SAMPLES, labels=np.arange(4) % 2)
    return files["data"]


def _copy(files: Files, name: str, source: Path, folder: Path) -> Path:
    files[name] = folder / source.name
    shutil.copy(source, files[name])
    return files[name]


def _target(files: Files, root: Path, folder: Path, rng: random.Random) -> Path:
    return _copy(files, "target", rng.choice(seed_files(root, "target")), folder)


def opt(root: Path, folder: Path, rng: random.Random) -> tuple[list[object], Files]:
    files: Files = {}
    source = _copy(files, "model", rng.choice([*seed_files(root, "onnx"), *seed_files(root, "text")]), folder)
    pipeline = "canonicalize,inline-functions,fold-constants,fold-batchnorm,eliminate-dead-code,infer-types"
    if rng.random() < 0.2:
        pipeline = change_words(pipeline.encode(), rng).decode(errors="replace")
    output = folder / rng.choice(["out.onnx", "out.qir"])
    data = ["-d", _data(files, folder, rng)] if rng.random() < 0.3 else []
    return ["opt", source, "-p", pipeline, *data, "-o", output], files


def quantize(root: Path, folder: Path, rng: random.Random) -> tuple[list[object], Files]:
    files: Files = {}
    _small(files, folder)
    arguments = ["quantize", files["model"], "-d", _data(files, folder, rng), "-o", folder / "out" / "m.quant.onnx"]
    if rng.random() < 0.4:
        arguments += ["-t", _target(files, root, folder, rng)]
    if rng.random() < 0.5:
        arguments += ["-b", rng.choice(["latency=0.7x", "size=0.5x", "latency=1e999", "latency=nanx", "size=-1", "x"])]
    if rng.random() < 0.2:
        arguments += ["--store", _copy(files, "store", seed_files(root, "store")[0], folder)]
    return arguments, files


def export(root: Path, folder: Path, rng: random.Random) -> tuple[list[object], Files]:
    files: Files = {}
    if rng.random() < 0.5:
        files["model"] = folder / "m.qir"
        files["model"].write_text(qir.print_module(calibrated()), encoding="utf-8")
    else:
        _copy(files, "model", exported(root, rng.choice(["qcdq", "qoperator", "qonnx", "finn-thresholds"])), folder)
    if rng.random() < 0.2:
        _copy(files, "model", exported(root, "encodings"), folder)
        _copy(files, "encodings", seed_files(root, "encodings")[0], folder)
    profile = rng.choice(["qcdq", "qoperator", "qonnx", "encodings", "qdq-int4", "float"])
    data = ["-d", _data(files, folder, rng)] if rng.random() < 0.5 else []
    return ["export", files["model"], "--profile", profile, *data, "-o", folder / "out" / "m.quant.onnx"], files


def verify(root: Path, folder: Path, rng: random.Random) -> tuple[list[object], Files]:
    files: Files = {}
    _copy(files, "model", exported(root, rng.choice(["qcdq", "qoperator", "qonnx", "encodings"])), folder)
    if rng.random() < 0.3:
        guide = exported(root, "qcdq").with_name("m.guide.json")
        _copy(files, "guide", guide, folder)
    arguments: list[object] = ["verify", files["model"]]
    if rng.random() < 0.5:
        arguments += ["-d", _data(files, folder, rng)]
    if rng.random() < 0.3:
        files["against"] = folder / "float.onnx"
        files["against"].write_bytes(model().SerializeToString())
        arguments += ["--against", files["against"]]
    return arguments, files


def cost(root: Path, folder: Path, rng: random.Random) -> tuple[list[object], Files]:
    files: Files = {}
    if rng.random() < 0.3:
        delays = _copy(files, "delays", rng.choice(seed_files(root, "delays")), folder)
        return ["target", "import", delays, folder / "again.csv"], files
    if rng.random() < 0.5:
        _small(files, folder)
    else:
        _copy(files, "model", rng.choice(seed_files(root, "quantized_onnx")), folder)
    arguments: list[object] = ["cost", files["model"], "--explain", "all"]
    if rng.random() < 0.5:
        arguments += ["-t", _target(files, root, folder, rng)]
    if rng.random() < 0.4:
        arguments += ["-p", _copy(files, "policy", rng.choice(seed_files(root, "policy")), folder)]
    return arguments, files


def report(root: Path, folder: Path, rng: random.Random) -> tuple[list[object], Files]:
    files: Files = {}
    path = rng.choice([*seed_files(root, "result"), quantized(root) / "milp.json"])
    return ["report", _copy(files, "result", path, folder), "-o", folder / "r.html"], files


def run_job(root: Path, folder: Path, rng: random.Random) -> tuple[list[object], Files]:
    """`qir run` of a job file that costs a network."""
    files: Files = {}
    _small(files, folder)
    files["job"] = _copy(files, "job", seed_files(root, "job_file")[0], folder)
    return ["run", files["job"]], {"job": files["job"]}


VERBS: dict[str, Callable[[Path, Path, random.Random], tuple[list[object], Files]]] = {
    verb.__name__: verb for verb in (opt, quantize, export, verify, cost, report, run_job)
}

_SUFFIXES = {
    ".onnx": MUTATIONS,
    ".qir": TEXT,
    ".npz": BYTES,
    ".db": BYTES,
    ".toml": TEXT,
    **FORMS,
    ".encodings": FORMS[".json"],
}


def run(arguments: list[object]) -> tuple[int, str]:
    """Exit code of a command in this process, and what it printed; what it raises is raised."""
    printed = io.StringIO()
    heard = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before, sys.argv = sys.argv, ["qir", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            main()
    except SystemExit as end:
        return int(end.code or 0), printed.getvalue()
    finally:
        sys.argv = before
        for number, handler in heard.items():
            signal.signal(number, handler)
    return 0, printed.getvalue()


def try_command(root: Path, folder: Path, name: str, index: int) -> str:
    """Run a verb on its files, one of them mutated; the same for the same index.

    Raises:
        AssertionError: another exit code than those of the documentation, or a message of more than a few lines.
    """
    rng = random.Random(f"{name} {index}")
    arguments, files = VERBS[name](root, folder, rng)
    path = files[rng.choice(sorted(files))]
    path.write_bytes(mutated(path.read_bytes(), _SUFFIXES[path.suffix], rng))
    code, printed = run(arguments)
    allowed = {0, 1, 2} if name == "verify" else {0, 2}
    assert code in allowed, f"exit code {code}: {printed[-500:]}"
    assert "Traceback" not in printed, printed[-500:]
    if code == 2:
        assert "rror" in printed, f"no error is named: {printed[-500:]!r}"
        return "refused"
    return "done"
