"""The shipped slice of Fashion-MNIST and the reader of the full set."""

import gzip
import hashlib

import numpy as np
import pytest

from qir.errors import DataError
from qir.models import Samples, fashion_mnist, fashion_mnist_full
from qir.models.data.fashion_mnist import DEBIAN_FOLDER, SLICE_FILE, float_training_indices, write_slice

SIZES = {"calibration": 512, "retraining": 4000, "search-validation": 2000, "test": 10_000}
full_set = pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")


def hashes(samples):
    return [hashlib.sha256(image.tobytes()).digest() for image in samples.images]


def test_splits_have_the_documented_sizes_and_range():
    for split, size in SIZES.items():
        samples = fashion_mnist(split)
        assert samples.images.shape == (size, 1, 28, 28)
        assert samples.images.dtype == np.float32
        assert samples.labels.dtype == np.int64
        assert samples.images.min() == 0.0
        assert samples.images.max() == 1.0
        assert set(samples.labels.tolist()) == set(range(10))


def test_no_image_is_in_two_splits():
    found = [digest for split in SIZES for digest in hashes(fashion_mnist(split))]
    assert len(found) == len(set(found)) == sum(SIZES.values())


@full_set
def test_float_training_images_hold_none_of_search_validation_or_test():
    full = fashion_mnist_full("train")
    trained = set(hashes(Samples(full.images[float_training_indices()], full.labels[float_training_indices()], "x")))
    assert len(float_training_indices()) == 58_000
    assert trained.isdisjoint(hashes(fashion_mnist("search-validation")))
    assert trained.isdisjoint(hashes(fashion_mnist("test")))


@full_set
def test_shipped_test_split_is_the_official_test_set():
    official, shipped = fashion_mnist_full("test"), fashion_mnist("test")
    np.testing.assert_array_equal(official.images, shipped.images)
    np.testing.assert_array_equal(official.labels, shipped.labels)


@full_set
@pytest.mark.slow
def test_slice_is_written_with_the_same_bytes(tmp_path):
    write_slice(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == SLICE_FILE.read_bytes()


def test_unknown_split_names_the_splits():
    with pytest.raises(DataError, match="search-validation"):
        fashion_mnist("train")


def test_missing_full_set_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("QIR_FASHION_MNIST", str(tmp_path))
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        fashion_mnist_full()


def test_truncated_idx_file_is_a_data_error(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0")
    with pytest.raises(DataError, match="train-images-idx3-ubyte"):
        fashion_mnist_full(path=tmp_path)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(b"\0\0\x08\x01\0\0\0\x09abc")[:-9])
    with pytest.raises(DataError, match="fetch it again"):
        fashion_mnist_full(path=tmp_path)


def test_samples_refuse_other_types():
    with pytest.raises(DataError, match="float32"):
        Samples(np.zeros((1, 1, 2, 2)), np.zeros(1, np.int64), "x")
    with pytest.raises(DataError, match="labels"):
        Samples(np.zeros((2, 1, 2, 2), np.float32), np.zeros(1, np.int64), "x")


def test_take_keeps_the_order():
    samples = fashion_mnist("calibration").take(3)
    assert len(samples) == 3
    np.testing.assert_array_equal(samples.labels, fashion_mnist("calibration").labels[:3])
