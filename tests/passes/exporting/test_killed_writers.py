"""Several files are one commit: whoever is killed between two of them, a reader finds one export or is told."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import qir
from qir.errors import ExportError, ModelFileError
from qir.graph import Graph, Node
from qir.guide import read_guide
from qir.module import Module
from qir.onnx_io import files
from qir.passes import export
from qir.support import atomic_write
from qir.tensor import Tensor
from qir.types import DType, TensorType

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are killed with POSIX signals")


def network(number):
    """Two external tensors that hold one number."""
    graph = Graph("g")
    value = graph.add_input("x", TensorType(DType.FLOAT32, (4096,)))
    for index in range(2):
        weight = graph.add_constant(f"w{index}", Tensor.of(np.full(4096, number, np.float32)))
        value = graph.insert(Node("Add", [value, weight], [f"v{index}"])).result
        value.type = TensorType(DType.FLOAT32, (4096,))
    graph.set_outputs([value])
    return Module(graph, opsets={"": 21})


def held(path):
    """The number that a written network holds; its tensors agree."""
    numbers = {float(n) for value in qir.load(path).graph.constants for n in np.unique(value.constant.numpy())}
    assert len(numbers) == 1
    return numbers.pop()


def killed_at(step, write):
    """Run `write` in a child that ends, as if it was killed, in place of its n-th rename."""
    child = os.fork()
    if child == 0:
        calls, plain = [], Path.replace

        def replace(self, target):
            calls.append(target)
            if len(calls) == step:
                os._exit(9)
            return plain(self, target)

        Path.replace = replace
        write()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def failing_at(monkeypatch, step):
    """Make the n-th rename fail."""
    calls, plain = [], Path.replace

    def replace(self, target):
        calls.append(target)
        if len(calls) == step:
            raise OSError(28, "No space left on device")
        return plain(self, target)

    monkeypatch.setattr(Path, "replace", replace)


@forks
@pytest.mark.parametrize("step", [1, 2])
def test_a_save_that_is_killed_between_its_files_leaves_the_old_network(tmp_path, step):
    path = tmp_path / "m.onnx"
    qir.save(network(1), path, external=True)
    assert killed_at(step, lambda: qir.save(network(2), path, external=True)) == 9
    assert held(path) == 1
    qir.save(network(3), path, external=True)
    assert held(path) == 3
    assert not [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")]


@pytest.fixture
def windows(monkeypatch):
    """Renames as on Windows: no file that is open or mapped is replaced."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("open files are asked of Linux")
    plain = Path.replace

    def replace(self, target):
        opened = [os.path.realpath(entry) for entry in Path("/proc/self/fd").iterdir()]
        mapped = [line.rpartition(" ")[2] for line in Path("/proc/self/maps").read_text().splitlines()]
        if str(Path(target).resolve()) in {*opened, *mapped}:
            raise PermissionError(13, "Permission denied")
        return plain(self, target)

    monkeypatch.setattr(Path, "replace", replace)


@pytest.mark.usefixtures("windows")
@pytest.mark.parametrize("number", [1, 2])
def test_a_network_with_mapped_data_is_saved_over_itself_where_mapped_files_cannot_be_replaced(tmp_path, number):
    path = tmp_path / "m.onnx"
    qir.save(network(1), path, external=True)
    module = qir.load(path)
    qir.save(module if number == 1 else network(2), path, external=True)
    assert held(path) == number
    del module


@pytest.mark.usefixtures("windows")
def test_a_large_model_is_saved_over_itself_where_mapped_files_cannot_be_replaced(tmp_path, monkeypatch):
    for name in ("mapped.onnx", "m.onnx"):
        qir.save(network(1), tmp_path / name)
    monkeypatch.setattr(files, "MAPPED_FROM", 1)
    mapped = qir.load(tmp_path / "mapped.onnx")
    with pytest.raises(ModelFileError, match="Permission denied"):
        qir.save(mapped, tmp_path / "mapped.onnx")
    monkeypatch.setattr(files, "MAPPED_FROM", files.mapped_from("nt"))
    path = tmp_path / "m.onnx"
    module = qir.load(path)
    module.doc_string = "new"
    qir.save(module, path)
    assert qir.load(path).doc_string == "new"


def test_the_data_of_the_older_network_go_with_it(tmp_path):
    path = tmp_path / "m.onnx"
    qir.save(network(1), path, external=True)
    (tmp_path / "other.onnx.0123456789abcdef.data").touch()
    first = {entry.name for entry in tmp_path.iterdir()}
    qir.save(network(2), path, external=True)
    second = {entry.name for entry in tmp_path.iterdir()}
    assert len(second) == 3
    assert first & second == {"m.onnx", "other.onnx.0123456789abcdef.data"}
    qir.save(network(2), path, external=False)
    assert {entry.name for entry in tmp_path.iterdir()} == {"m.onnx", "other.onnx.0123456789abcdef.data"}


def test_data_of_another_network_are_found_out(tmp_path):
    for number in (1, 2):
        qir.save(network(number), tmp_path / str(number) / "m.onnx", external=True)
    (data,) = (tmp_path / "1").glob("*.data")
    (other,) = (tmp_path / "2").glob("*.data")
    data.unlink()
    other.rename(tmp_path / "1" / other.name)
    with pytest.raises(ModelFileError, match="missing"):
        qir.load(tmp_path / "1" / "m.onnx")


@pytest.mark.parametrize("step", [1, 2, 3])
def test_an_export_that_fails_between_its_files_puts_the_old_ones_back(
    calibrated, samples, tmp_path, monkeypatch, step
):
    path = tmp_path / "m.quant.onnx"
    export(calibrated(8, 8), path, data=samples)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    failing_at(monkeypatch, step)
    with pytest.raises(ExportError, match=r"No space left.*older files stay"):
        export(calibrated(4, 4), path, data=samples)
    monkeypatch.undo()
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
    read_guide(tmp_path / "m.guide.json")


@pytest.mark.parametrize("name", ["m.guide.json", "m.weights.bin"])
def test_files_of_two_exports_are_found_out(calibrated, samples, tmp_path, name):
    for folder, bits in (("a", 8), ("b", 4)):
        export(calibrated(bits, bits), tmp_path / folder / "m.quant.onnx", data=samples)
    read_guide(tmp_path / "a" / "m.guide.json")
    (tmp_path / "b" / name).replace(tmp_path / "a" / name)
    with pytest.raises(qir.QirError, match="export again"):
        read_guide(tmp_path / "a" / "m.guide.json")


@forks
def test_what_a_killed_process_left_goes_and_what_others_write_stays(tmp_path):
    path = tmp_path / "x.txt"
    child = os.fork()
    if child == 0:
        atomic_write._temporary(path).mkdir()
        atomic_write._temporary(path).touch()
        os._exit(0)
    os.waitpid(child, 0)
    alive = atomic_write._temporary(tmp_path / "y.txt").with_name(
        f".x.txt.{atomic_write._MACHINE}-{os.getpid()}-{'0' * 16}"
    )
    elsewhere = tmp_path / f".x.txt.{'0' * 8}-1-{'0' * 16}"
    old = tmp_path / f".x.txt.{'1' * 8}-1-{'0' * 16}"
    strange = tmp_path / ".x.txt.backup"
    for entry in (alive, elsewhere, old, strange):
        entry.touch()
    os.utime(old, (time.time() - 1e6,) * 2)
    with atomic_write.atomic_write(path) as temporary:
        temporary.write_text("x")
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name, alive.name, elsewhere.name, strange.name}


ENDLESS_SAVE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_killed_writers import network
import qir
networks = [network(number) for number in range(1, 6)]
print("ready", flush=True)
while True:
    for made in networks:
        qir.save(made, sys.argv[2], external=True)
"""


@forks
@pytest.mark.slow
def test_fifty_killed_saves_mix_nothing(tmp_path):
    path, generator = tmp_path / "m.onnx", random.Random(0)
    for _ in range(50):
        command = [sys.executable, "-P", "-c", ENDLESS_SAVE, str(Path(__file__).parent), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            time.sleep(0.02 + 0.2 * generator.random())
            process.send_signal(signal.SIGKILL)
        assert held(path) in range(1, 6)
    qir.save(network(9), path, external=True)
    assert held(path) == 9
    assert not [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")]


@forks
@pytest.mark.slow
def test_fifty_killed_exports_mix_nothing_unseen(calibrated, samples, tmp_path):
    path, generator = tmp_path / "m.quant.onnx", random.Random(0)
    modules = [calibrated(8, 8), calibrated(4, 4)]
    export(modules[0], path, data=samples)
    told = 0
    for round_ in range(50):
        step = generator.randint(1, 3)
        assert killed_at(step, lambda module=modules[round_ % 2]: export(module, path, data=samples)) == 9
        qir.load(path)
        try:
            read_guide(tmp_path / "m.guide.json")
        except qir.QirError:
            told += 1
    assert told < 50
    export(modules[1], path, data=samples)
    read_guide(tmp_path / "m.guide.json")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.guide.json", "m.quant.onnx", "m.weights.bin"]
