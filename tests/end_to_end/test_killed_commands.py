"""Commands that SIGKILL ends at any moment: a store misses at most the evaluation in flight, files are of one run."""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import signal
import sys
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qir
from qir.cli.main import main
from qir.errors import QirError
from qir.guide import read_guide
from qir.search import Store

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed with POSIX signals"),
    pytest.mark.filterwarnings("ignore"),
]
KILLS = 50


@pytest.fixture
def folder(tmp_path):
    """A network of two layers, and samples with labels."""
    random_ = np.random.default_rng(0)
    nodes, tensors = [], []
    for name, value, shape in (("a", "x", (6, 8)), ("b", "a.out", (3, 6))):
        tensors.append(numpy_helper.from_array(random_.normal(size=shape).astype(np.float32), f"{name}.w"))
        nodes.append(helper.make_node("Gemm", [value, f"{name}.w"], [f"{name}.sum"], name, transB=1))
        nodes.append(helper.make_node("Relu", [f"{name}.sum"], [f"{name}.out"], f"{name}.relu"))
    graph = helper.make_graph(
        nodes[:3],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor_value_info("b.sum", TensorProto.FLOAT, ["N", 3])],
        tensors,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(made, tmp_path / "m.onnx")
    samples = random_.normal(size=(96, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=samples, labels=np.arange(96) % 3)
    return tmp_path


def command(folder, verb):
    options = ["--method", "random", "--store", folder / "s.db", "--input-widths", "all", "-d", folder / "x.npz"]
    more = ["--evaluations", "15"] if verb == "search" else []
    budget = ["-t", "npu-148", "-b", "latency=0.8x"]
    return [verb, folder / "m.onnx", *options, *more, *budget, "-o", folder / "out" / "m.quant.onnx"]


def start(arguments, measured, imported=None):
    """Run a command in a child; each value that was measured leaves a byte in a file before it is stored.

    `imported` is a file for the names of the modules that the command imports.
    """
    child = os.fork()
    if child:
        return child
    code, put = 1, Store.put

    def logged(self, *given):
        with measured.open("a") as file:
            file.write("x")
        put(self, *given)

    Store.put = logged
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    sys.argv = ["qir", *map(str, arguments)]
    try:
        main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        if imported is not None:
            imported.write_text("\n".join(sys.modules))
        os._exit(code)


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def import_all(names):
    """Import what a command imports: its children then spend their time at work, where the kills are to come."""
    for name in names:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


@pytest.mark.parametrize("verb", ["search", "quantize"])
def test_fifty_kills_lose_at_most_the_evaluation_in_flight(folder, verb):
    arguments, measured, generator = command(folder, verb), folder / "measured", random.Random(0)
    assert ended(start(arguments, measured, folder / "imported")) == 0
    import_all((folder / "imported").read_text().split())
    forget_stored(folder)
    started = time.monotonic()
    assert ended(start(arguments, measured)) == 0
    whole = time.monotonic() - started
    killed = mixed = lost = stored = 0
    for _ in range(KILLS):
        forget_stored(folder)
        measured.write_text("")
        child = start(arguments, measured)
        time.sleep(whole * generator.random())
        os.kill(child, signal.SIGKILL)
        killed += ended(child) == -signal.SIGKILL
        kept = len(Store(folder / "s.db")) if (folder / "s.db").exists() else 0
        assert measured.stat().st_size - kept in {0, 1}
        stored, lost = stored + kept, lost + measured.stat().st_size - kept
        qir.load(folder / "out" / "m.quant.onnx")
        try:
            read_guide(folder / "out" / "m.guide.json")
        except QirError:
            mixed += 1  # renames apart, and told
    print(f"\n{verb}, {whole:.1f} s: {killed} of {KILLS} killed; {stored} evaluations stored, {lost} lost; ", end="")
    print(f"{mixed} found between two files and told")
    assert killed > KILLS // 2
    assert ended(start(arguments, measured)) == 0
    read_guide(folder / "out" / "m.guide.json")
    assert not [entry.name for entry in (folder / "out").iterdir() if entry.name.startswith(".")]


def forget_stored(folder):
    for path in folder.glob("s.db*"):
        path.unlink()
