"""Files that are not ONNX but were given as such: what they are, and the line that makes an ONNX file of them."""

from __future__ import annotations

import io
import mmap
import zipfile
from collections.abc import Callable

_HEAD = 1 << 16
_TORCH = 'torch.onnx.export(model, (example,), "model.onnx", dynamo=True)'

_STARTS: tuple[tuple[int, bytes, str, str], ...] = (
    (4, b"TFL3", "a TensorFlow Lite model", "python -m tf2onnx.convert --tflite model.tflite --output model.onnx"),
    (4, b"ORTM", "a model in ONNX Runtime's own format", "give the .onnx file that it was converted from"),
    (
        0,
        b"\x89HDF\r\n\x1a\n",
        "an HDF5 file, as Keras writes",
        'keras.models.load_model("model.h5").export("model.onnx", format="onnx")',
    ),
    (0, b"GGUF", "a GGUF file of llama.cpp: weights without a graph", "export the network that it was made from"),
    (0, b"\x93NUMPY", "a NumPy array", "give data with --data, and the network as an ONNX file"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, not the file itself", "git lfs pull"),
    (0, b"\x80\x02", "a PyTorch checkpoint (pickle)", f"load it into the network's class, then {_TORCH}"),
    (0, b"\x80\x03", "a Python pickle", f"load it in Python; for a PyTorch network then {_TORCH}"),
    (0, b"\x80\x04", "a Python pickle", f"load it in Python; for a PyTorch network then {_TORCH}"),
    (0, b"\x1f\x8b", "an archive (gzip)", "unpack it, and give the .onnx file in it"),
)
"""Offset, bytes there, what the file is, what to do."""


def foreign_file(data: bytes | mmap.mmap) -> str | None:
    """Return what bytes that are not ONNX model are, with the line that exports them.

    None where they are not recognized.
    """
    head = bytes(data[:_HEAD])
    for offset, mark, what, how in _STARTS:
        if head[offset : offset + len(mark)] == mark:
            return f"this is {what}: {how}"
    tests: tuple[Callable[[bytes], str | None], ...] = (_page, _safetensors, _tensorflow)
    if head.startswith(b"PK\x03\x04"):
        return _archive(data)
    return next((found for test in tests if (found := test(head)) is not None), None)


def _archive(data: bytes | mmap.mmap) -> str:
    """PyTorch's files, Keras's and NumPy's are zip archives: their members tell them apart."""
    try:
        with zipfile.ZipFile(io.BytesIO(bytes(data))) as file:
            names = file.namelist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):  # ValueError: names that are not text
        return "this is a damaged zip archive: download or write it again, and give the .onnx file"
    leaves = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in leaves:
        line = 'torch.onnx.export(torch.jit.load("model.pt"), (example,), "model.onnx", dynamo=False)'
        return f"this is a TorchScript file: {line}"
    if "data.pkl" in leaves:
        return f"this is a PyTorch checkpoint: load it into the network's class, then {_TORCH}"
    if "archive_format" in leaves or "serialized_exported_program.json" in leaves:
        line = 'torch.onnx.export(torch.export.load("model.pt2"), f="model.onnx", dynamo=True)'
        return f"this is a program of torch.export: {line}"
    if {"config.json", "model.weights.h5"} <= leaves:
        line = 'keras.models.load_model("model.keras").export("model.onnx", format="onnx")'
        return f"this is a Keras model: {line}"
    if leaves and all(name.endswith(".npy") for name in leaves):
        return "this is a .npz file of arrays: give data with --data, and the network as an ONNX file"
    inside = next((name for name in names if name.endswith(".onnx")), "the .onnx file in it")
    return f"this is a zip archive: unpack it, and give {inside}"


def _page(head: bytes) -> str | None:
    text = head[:512].lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "this is an HTML page: download the file itself (the raw link), not the page that shows it"
    return None


def _safetensors(head: bytes) -> str | None:
    """Eight bytes of length, then so much JSON."""
    if len(head) > 9 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") < 1 << 30:
        line = "optimum-cli export onnx --model FOLDER OUTPUT"
        return f"this is a safetensors file, weights without a graph: for a model of Hugging Face {line}"
    return None


def _tensorflow(head: bytes) -> str | None:
    """Recognize a SavedModel, which begins with its schema version and a graph, or a frozen graph, with a node."""
    if head[:3] == b"\x08\x01\x12" and any(mark in head for mark in (b"serve", b"StatefulPartitionedCall", b"NoOp")):
        line = "python -m tf2onnx.convert --saved-model FOLDER --output model.onnx"
        return f"this is the file of a TensorFlow SavedModel: {line}, with the folder that it lies in"
    if head[:1] == b"\x0a" and any(mark in head for mark in (b"Placeholder", b"Const", b"VarHandleOp")):
        line = "python -m tf2onnx.convert --graphdef model.pb --inputs x:0 --outputs y:0 --output model.onnx"
        return f"this is a graph of TensorFlow (GraphDef): {line}"
    return None
