"""Data that cannot be read are an error that names the file and says what to do."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from qir.errors import DataError
from qir.graph import Graph
from qir.module import Module
from qir.passes.data.kinds.array_files import read_arrays
from qir.passes.data.reading import read_samples
from qir.passes.data.samples import batches
from qir.types import DType, TensorType

VALUES = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)


def network(dtype=DType.FLOAT32):
    graph = Graph("g")
    graph.set_outputs([graph.add_input("x", TensorType(dtype, (None, 4)))])
    return Module(graph)


def damaged_zip(path):
    np.savez(path, x=VALUES)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0xFF
    path.write_bytes(data)


def damaged_deflate(path):
    np.savez_compressed(path, x=VALUES)
    data = bytearray(path.read_bytes())
    for at in range(60, 100):
        data[at] ^= 0xFF
    path.write_bytes(data)


def encrypted_zip(path):
    np.savez(path, x=VALUES)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1  # the flag "encrypted"
    path.write_bytes(data)


def unknown_compression(path):
    np.savez(path, x=VALUES)
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = data.index(signature) + offset
        data[at : at + 2] = struct.pack("<H", 77)
    path.write_bytes(data)


def claims_a_pebibyte(path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (281474976710656, 1), }"
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(16))


def claims_a_pebibyte_inside(path):
    claims_a_pebibyte(path)
    content = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content)


def header_of_python(path):
    header = b"(" * 8000 + b"\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


DAMAGED = {
    "zip": damaged_zip,
    "deflate": damaged_deflate,
    "encrypted": encrypted_zip,
    "compression": unknown_compression,
    "pebibyte": claims_a_pebibyte,
    "pebibyte inside": claims_a_pebibyte_inside,
    "header": header_of_python,
    "truncated": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00\x76"),
    "empty": lambda path: path.write_bytes(b""),
    "zip without end": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(40)),
    "structs": lambda path: path.write_bytes(b"") or np.savez(path, x=np.zeros(8, [("a", "<f4"), ("b", "<i4")])),
    "objects": lambda path: np.savez(path, x=np.array([1, "a", None], object)),
    "complex": lambda path: np.savez(path, x=VALUES.astype(np.complex64)),
    "dates": lambda path: np.savez(path, x=np.zeros((8, 4), "datetime64[s]")),
}


@pytest.mark.parametrize("make", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_files_are_named(tmp_path, make):
    path = tmp_path / "data.npz"
    make(path)
    with pytest.raises(DataError, match=r"data\.npz.*(numpy|less data)"):
        read_arrays(path)
    with pytest.raises(DataError, match=r"data\.npz"):
        read_samples(path, network())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes with names are POSIX")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npy")
    script = "import sys; from qir.passes.data.kinds.array_files import read_arrays; read_arrays(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, str(tmp_path / "pipe.npy")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "DataError" in done.stderr
    assert "not a regular file" in done.stderr


WRONG = {
    "strings": np.full((8, 4), "a"),
    "bytes": np.full((8, 4), b"a"),
    "structs": np.zeros((8, 4), [("a", "<f4")]),
    "objects": np.full((8, 4), None),
    "complex": VALUES + 1j,
    "dates": np.zeros((8, 4), "datetime64[s]"),
    "ragged": [[[1.0, 2.0], [3.0]]],
    "no samples": np.zeros((0, 4), np.float32),
    "nothing": [],
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG.keys())
def test_data_that_are_not_numbers_are_refused(data):
    with pytest.raises(DataError):
        list(batches(network(), data))


@pytest.mark.parametrize("kind", ["f2", "f8", "i1", "u1", "?"])
def test_real_numbers_of_every_kind_are_taken(kind):
    (feed,) = batches(network(), VALUES.astype(kind))
    assert feed["x"].dtype == np.float32


def test_small_floats_are_taken():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    (feed,) = batches(network(), VALUES.astype(ml_dtypes.bfloat16))
    assert feed["x"].dtype == np.float32


def test_strings_are_taken_where_the_network_takes_strings():
    (feed,) = batches(network(DType.STRING), np.full((8, 4), "a"))
    assert feed["x"].dtype == object
    with pytest.raises(DataError, match="string"):
        list(batches(network(DType.STRING), VALUES))


@pytest.mark.parametrize("arrays", [{"images": np.full((4, 2), "a"), "labels": np.arange(4)},
                                    {"images": np.zeros((4, 2)), "labels": np.full(4, "a")},
                                    {"images": np.float32(0), "labels": np.arange(4)}])  # fmt: skip
def test_samples_that_are_not_numbers_are_refused(tmp_path, arrays):
    np.savez(tmp_path / "s.npz", **arrays)
    with pytest.raises(DataError):
        read_samples(tmp_path / "s.npz", network(), labelled=True)
