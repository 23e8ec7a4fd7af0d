"""Files that are not ONNX, given by mistake: the message says what they are and which line exports them."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest

import qir
from qir.errors import ModelFileError

torch = pytest.importorskip("torch")  # makes the checkpoints that are mistaken for networks


def _torch(save, thing):
    file = io.BytesIO()
    save(thing, file)
    return file.getvalue()


def _zip(**members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "."), content)
    return file.getvalue()


def _array():
    file = io.BytesIO()
    np.savez(file, x=np.zeros(3))
    return file.getvalue()


def _field(number, content):
    """A field of bytes in protobuf's wire format."""
    return bytes([number << 3 | 2, len(content)]) + content


LAYER = torch.nn.Linear(4, 2)
CHECKPOINT = _torch(torch.save, LAYER.state_dict())
GRAPH_NODE = _field(1, _field(1, b"x") + _field(2, b"Placeholder"))
META_GRAPH = _field(2, _field(1, _field(4, b"serve")))
JSON = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'

FILES = {
    "checkpoint": (CHECKPOINT, r"PyTorch checkpoint.*torch\.onnx\.export"),
    "old checkpoint": (
        _torch(lambda thing, file: torch.save(thing, file, _use_new_zipfile_serialization=False), {"a": 1}),
        r"PyTorch checkpoint.*torch\.onnx\.export",
    ),
    "torchscript": (
        _torch(torch.jit.save, torch.jit.trace(LAYER, torch.zeros(1, 4))),
        r"TorchScript.*torch\.jit\.load",
    ),
    "pickle": (pickle.dumps([1, 2, 3], protocol=4), "Python pickle"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(40), r"TensorFlow Lite.*tf2onnx\.convert --tflite"),
    "graphdef": (GRAPH_NODE, r"GraphDef.*tf2onnx\.convert --graphdef"),
    "saved model": (b"\x08\x01" + META_GRAPH, r"SavedModel.*tf2onnx\.convert --saved-model"),
    "safetensors": (len(JSON).to_bytes(8, "little") + JSON + bytes(4), r"safetensors.*optimum-cli export onnx"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(64), r"HDF5.*keras.*export"),
    "keras": (_zip(config__json="{}", model__weights__h5="x"), r"Keras model.*export"),
    "zip": (_zip(net__onnx="x", readme__txt="y"), r"zip archive.*net\.onnx"),
    "npz": (_array(), r"npz.*--data"),
    "cut zip": (CHECKPOINT[:200], "damaged zip"),
    "page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "HTML page.*download"),
    "git lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "gguf": (b"GGUF" + bytes(60), "GGUF"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_of_another_format_is_named_with_the_line_that_exports_it(kind, tmp_path):
    content, said = FILES[kind]
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=f"model.onnx: this is .*{said}"):
        qir.load(path)


def test_anything_else_is_called_no_onnx_model(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff\xfe something else")
    with pytest.raises(ModelFileError, match=r"not an ONNX model|truncated"):
        qir.load(path)
