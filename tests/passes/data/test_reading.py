"""The one loader: what is read once is kept, labels, and what is said of data."""

import numpy as np
import pytest
import torch

from qir.errors import DataError
from qir.graph import Graph, Node
from qir.module import Module
from qir.passes.data.reading import read_samples
from qir.passes.data.recording import Recorded
from qir.passes.data.samples import batches, fitting_samples
from qir.tensor import Tensor
from qir.types import DType, TensorType

VALUES = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 3, 4, 4)).astype(np.float32)


def all_of(module, data):
    return np.concatenate([feed["x"] for feed in batches(module, data, batch=3)])


class Reader:
    """An ONNX Runtime CalibrationDataReader, which hands out the same memory again and again."""

    def __init__(self):
        self.left, self.memory = list(VALUES), np.zeros((1, 4), np.float32)

    def get_next(self):
        if not self.left:
            return None
        self.memory[:] = self.left.pop(0)
        return {"x": self.memory}


def loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.from_numpy(VALUES)), batch_size=3)


@pytest.mark.parametrize(
    "make", [Reader, loader, lambda: (row[None] for row in VALUES), lambda: iter([{"x": VALUES}])],
    ids=["reader", "loader", "generator", "iterator"],
)  # fmt: skip
def test_what_can_be_read_once_is_read_again(takes, make):
    module = takes(x=("N", 4))
    samples = read_samples(make(), module)
    np.testing.assert_array_equal(all_of(module, samples), VALUES)
    np.testing.assert_array_equal(all_of(module, samples), VALUES)
    np.testing.assert_array_equal(samples.images, VALUES)


def test_a_shuffling_loader_gives_every_step_the_same_order(takes):
    data = torch.utils.data.TensorDataset(torch.from_numpy(VALUES), torch.arange(8))
    samples = read_samples(
        torch.utils.data.DataLoader(data, batch_size=2, shuffle=True), takes(x=("N", 4)), labelled=True
    )
    np.testing.assert_array_equal(samples.images, VALUES[samples.labels])


def test_a_record_reads_no_further_than_it_is_asked_and_keeps_little_in_memory():
    read = []

    def items():
        for number in range(100):
            read.append(number)
            yield {"x": np.full(1000, number), "y": np.array(number)}

    record = Recorded(items(), memory=20_000)
    assert next(iter(record))["x"][0] == 0
    assert read == [0]
    assert [int(item["y"]) for item in record] == [int(item["x"][-1]) for item in record] == list(range(100))
    assert record._room >= 0


def test_labels_of_files_and_maps_are_found(takes, tmp_path):
    module = takes(x=("N", 4))
    labels = np.arange(8) % 3
    np.savez(tmp_path / "s.npz", images=VALUES, labels=labels)
    for data in (tmp_path / "s.npz", {"x": VALUES, "labels": labels}, {"x": VALUES, "y": labels}):
        found = read_samples(data, module, labelled=True)
        np.testing.assert_array_equal(found.images, VALUES)
        np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": VALUES}, "lacks labels"),
        ({"images": VALUES, "labels": np.zeros(3, np.int64)}, r"8 samples but labels of shape \(3,\)"),
        ({"images": VALUES, "labels": np.arange(8) / 2}, "float64 are not class numbers"),
    ],
)
def test_samples_without_their_labels_are_refused(takes, arrays, message):
    with pytest.raises(DataError, match=message):
        read_samples(arrays, takes(x=("N", 4)), split="retraining", labelled=True)
    assert read_samples(arrays, takes(x=("N", 4))).labels is None


def with_statistics(mean, variance):
    graph = Graph("g")
    x = graph.add_input("x", TensorType(DType.FLOAT32, ("N", 3, 4, 4)))
    numbers = [np.ones(3), np.zeros(3), np.full(3, mean), np.full(3, variance)]
    constants = [graph.add_constant(f"c{i}", Tensor.of(v.astype(np.float32))) for i, v in enumerate(numbers)]
    node = graph.append(Node("BatchNormalization", (x, *constants), name="bn"))
    node.result.type = x.type
    graph.set_outputs([node.result])
    return Module(graph, opsets={"": 15})


def test_pixels_for_a_network_that_saw_0_to_1_are_warned_of():
    module = with_statistics(0.5, 1 / 12)
    (warning,) = read_samples(IMAGES, module).understood.warnings
    assert "'bn'" in warning
    assert "0 to 255, or 0 to 1" in warning
    assert not read_samples(IMAGES / 255, module).understood.warnings
    assert not read_samples(IMAGES, with_statistics(127.5, 255**2 / 12)).understood.warnings


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (IMAGES, "whole numbers from 0 to 255, like pixels"),
        (np.full((4, 3, 4, 4), np.nan), "NaN or infinities"),
        (np.concatenate([IMAGES[:3] / 255, np.zeros((2, 3, 4, 4))]), "2 of the first 5 samples are one number"),
        (np.repeat(IMAGES[:1] / 255, 4, 0), "first 4 samples are all the same"),
    ],
    ids=["pixels", "NaN", "constant", "same"],
)
def test_what_cannot_be_right_is_said(takes, data, message):
    (warning,) = read_samples(data, takes(x=("N", 3, 4, 4))).understood.warnings
    assert message in warning


def test_images_with_channels_last_are_refused_with_what_to_do(takes):
    with pytest.raises(DataError, match=r"they are NHWC, the network takes NCHW.*transpose\(0, 3, 1, 2\)"):
        read_samples(IMAGES.transpose(0, 2, 3, 1), takes(x=("N", 3, 4, 4)))


def test_labels_beyond_the_classes_are_said(takes):
    data = {"x": VALUES, "labels": np.arange(8)}
    (warning,) = read_samples(data, takes(x=("N", 4))).understood.warnings
    assert "labels 0 to 7; the network has the classes 0 to 3" in warning


def test_files_of_preprocessing_say_how_far_arrays_reach(takes, tmp_path):
    (tmp_path / "preprocessing.json").write_text('{"mean": [0.5], "std": [0.5]}')
    (warning,) = read_samples(IMAGES, takes(x=("N", 3, 4, 4)), network=tmp_path / "n.onnx").understood.warnings
    assert "by preprocessing.json images reach -1 to 1" in warning


def test_large_arrays_stay_in_their_file(takes, tmp_path):
    values = np.random.default_rng(0).random((2**12, 2**11), np.float32)
    np.save(tmp_path / "large.npy", values)
    samples = read_samples(tmp_path / "large.npy", takes(x=("N", 2**11)))
    assert {len(part) for part in samples.source.items} == {64}
    np.testing.assert_array_equal(samples.images, values)
    (feed,) = batches(takes(x=("time", "batch", 2**11)), np.zeros((3, 4, 2**11)))
    assert feed["x"].shape == (3, 4, 2**11)


def test_long_sounds_are_taken_few_at_a_time_where_the_network_leaves_their_length_open(takes):
    module = takes(x=("N", "time"))
    values, feeds = list(module.graph.inputs), [{"x": np.zeros((1, 2**20), np.float32)}] * 3
    assert fitting_samples(module, feeds, values, 64, memory=2**24) == 4
    assert fitting_samples(module, None, values, 64, memory=2**24) == 64
