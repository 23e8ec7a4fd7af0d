"""Every stage of qir on ONNX files of any origin: what works, what is refused with a reason, what is wrong.

    python benchmarks real-networks out/networks && python benchmarks stages out/networks/*.onnx
    python benchmarks stages model.onnx --shape image=1,3,320,320 --value sr=16000

Each network is loaded and verified, printed and parsed back, simplified (its outputs held against ONNX Runtime's
without optimizations), costed on three targets, quantized from random data,
exported in five profiles, and every file written is verified; commands of the shell do what they can do. A cell holds
CPU seconds, `refused` (a `QirError`), `differs` (something that should be equal is not; of `verify`: the file breaks
its promise) or `FAILED` (another exception: a bug). Reasons follow the table.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import qir
from qir.backends.execution.session import OrtSession
from qir.cli.main import make_app
from qir.errors import DataError, QirError
from qir.passes import run_passes
from qir.passes.simplify.canonicalize import SIMPLIFY
from qir.tensor import numpy_dtype
from qir.types import TensorType

Array = np.ndarray[Any, np.dtype[Any]]
Stage = tuple[str, Callable[[], None]]

TARGETS = ("npu-148", "bitfusion-e", "ethos-u55-128-like")
PROFILES = ("qcdq", "qdq-int4", "qoperator", "qonnx", "encodings")

CLOSE = 1e-3
"""Largest difference of a simplified network's outputs, as a share of the largest output."""


class DiffersError(Exception):
    """Something that should be equal is not."""


def random_feed(path: Path, options: argparse.Namespace) -> dict[str, Array]:
    """Normal noise for float inputs, ones for masks, numbers below 100 for other integers; unknown dimensions are 2.

    Raises:
        DataError: an input is not a tensor.
    """
    generator, feed = np.random.default_rng(0), {}
    for value in qir.load(path).graph.inputs:
        if value.constant is not None:
            continue
        if not isinstance(value.type, TensorType):
            raise DataError(f"input {value.name!r} is {value.type}: only tensors are drawn")
        shape = tuple(dim if isinstance(dim, int) else 2 for dim in value.type.shape or ())
        shape = options.shape.get(value.name, shape)
        if value.name in options.value:
            made = np.full(shape, options.value[value.name])
        elif value.type.dtype.is_float:
            made = generator.normal(size=shape)
        else:
            made = np.ones(shape) if "mask" in value.name else generator.integers(0, 100, shape)
        feed[value.name] = np.asarray(made).astype(numpy_dtype(value.type.dtype))
    return feed


def stages(path: Path, folder: Path, options: argparse.Namespace) -> Iterator[Stage]:
    """Name and action of every stage; files are written to the folder."""
    module, feed = qir.load(path), random_feed(path, options)
    data, quantized = folder / "data.npz", folder / "q.onnx"
    np.savez(data, allow_pickle=False, **feed)

    def text() -> None:
        printed = qir.print_module(module)
        if qir.print_module(qir.parse(printed)) != printed:
            raise DiffersError("the text parses to another network")

    def simplify() -> None:
        expected, made = OrtSession(path, optimization="disable").run(feed), qir.load(path)
        run_passes(made, f"widen-floats,{SIMPLIFY}")
        check_same(expected, OrtSession(made).run(feed))

    yield "load", lambda: qir.verify(module)
    yield "text", text
    yield "simplify", simplify
    for target in TARGETS:
        yield f"cost {target}", _shell("cost", path, "--target", target)
    how = ("--data", data, "--target", TARGETS[0])
    budget = [] if options.budget is None else ["--budget", options.budget]
    yield "quantize", _shell("quantize", path, *how, "--before", options.before, *budget, "-o", quantized)
    for profile in PROFILES:
        file = folder / f"{profile}.onnx"
        yield profile, _shell("export", quantized, "--profile", profile, "--data", data, "-o", file)
        yield f"verify {profile}", _shell("verify", file, "--data", data)


def _shell(*words: object) -> Callable[[], None]:
    """A command of the shell, run in this process."""

    def run() -> None:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            ended = make_app()([str(word) for word in words], standalone_mode=False)
        if isinstance(ended, int) and ended:
            raise DiffersError(f"qir {words[0]} ends with exit code {ended}")

    return run


def check_same(expected: dict[str, Array], found: dict[str, Array]) -> None:
    for name, output in expected.items():
        values = output.astype(np.float64)
        far = float(np.abs(values - found[name]).max(initial=0))
        if not far <= CLOSE * max(float(np.abs(values).max(initial=0)), CLOSE):
            raise DiffersError(f"output {name!r} is off by {far:g}")


def row(path: Path, options: argparse.Namespace) -> tuple[dict[str, str], list[str]]:
    """Cells by stage, and the reasons of what did not work; nothing is exported where nothing was quantized."""
    cells, reasons = dict[str, str](), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        for name, run in stages(path, Path(folder), options):
            start = time.process_time()
            try:
                run()
                cells[name] = f"{time.process_time() - start:.1f}"
                continue
            except (QirError, DiffersError) as error:
                cells[name], reason = "refused" if isinstance(error, QirError) else "differs", str(error)
            except Exception as error:  # noqa: BLE001 - what this table looks for
                cells[name], reason = "FAILED", f"{type(error).__name__}: {error}"
            reasons.append(f"{path.stem}, {name}: {cells[name]}: {reason}")
            if name == "quantize":
                break
    return cells, reasons


def show(rows: dict[str, dict[str, str]], reasons: Sequence[str]) -> None:
    """Print networks by stage, and the reasons."""
    columns = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    table = Table("stage", *rows, title="CPU s of every stage")
    for name in columns:
        table.add_row(name, *(cells.get(name, "") for cells in rows.values()))
    console = Console(width=max(120, 30 + 14 * len(rows)))
    console.print(table)
    for reason in reasons:
        console.print(reason, markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """Run every stage on every file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--shape", action="append", default=[], help="shape of an input, name=1,3,224,224")
    parser.add_argument("--value", action="append", default=[], help="value of all elements of an input, name=16000")
    parser.add_argument("--before", default="", help="pipeline in front of quantize, freeze-inputs{values=[sr:16000]}")
    parser.add_argument("--budget", help="budget of quantize, latency=0.7x; without it the widest legal widths")
    options = parser.parse_args()
    shapes = (text.split("=") for text in options.shape)
    options.shape = {name: tuple(int(dim) for dim in dims.split(",") if dim) for name, dims in shapes}
    options.value = {name: float(number) for name, number in (text.split("=") for text in options.value)}
    rows, reasons = dict[str, dict[str, str]](), list[str]()
    for path in options.files:
        rows[path.stem], found = row(path, options)
        reasons += found
    show(rows, reasons)


if __name__ == "__main__":
    main()
