"""Training by a recipe: deterministic, honest about what it saw, and usable from the shell."""

import json
from dataclasses import replace

import numpy as np
import pytest

from qir.errors import DataError
from qir.models import Samples, fashion_mnist, train
from qir.models.builders import build
from qir.models.data.fashion_mnist import DEBIAN_FOLDER
from qir.models.recipes import RECIPES, TrainingData, training_data
from qir.models.training import train as train_network

RETRAINING = fashion_mnist("retraining")


@pytest.fixture
def little_data(monkeypatch):
    measured = {"test": fashion_mnist("test").take(200)}
    data = TrainingData(RETRAINING.take(512), "everything else", measured)
    monkeypatch.setattr(train, "training_data", lambda name, path: data)


def test_a_recipe_gives_the_same_file_twice(tmp_path, little_data):
    recipe = replace(RECIPES["lenet-5"], epochs=1)
    first = train.make("lenet-5", recipe, tmp_path / "a").read_bytes()
    assert train.make("lenet-5", recipe, tmp_path / "b").read_bytes() == first
    assert train.make("lenet-5", replace(recipe, seed=1), tmp_path / "c").read_bytes() != first


def test_the_card_tells_the_command_that_differs_from_the_recipe(tmp_path, little_data, capsys):
    assert train.main(["lenet-5", "--epochs", "1", "--seed", "7", "--out", str(tmp_path)]) == 0
    card = json.loads((tmp_path / "lenet_5_fashion_mnist.json").read_text())
    assert card["command"] == "python -m qir.models.train lenet-5 --epochs 1 --seed 7"
    assert card["trained_on"]["images"] == 512
    assert card["accuracy"]["test"]["images"] == 200
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".json", ".onnx"]
    assert "epoch 1" in capsys.readouterr().out


def test_training_with_augmentation_lowers_the_loss():
    losses = []
    recipe = replace(RECIPES["residual"], epochs=2, max_lr=0.05)
    train_network(build("residual", channels=1), RETRAINING.take(640), recipe, lambda epoch, loss: losses.append(loss))
    assert losses[1] < losses[0]


def test_missing_data_is_exit_code_2_without_files(tmp_path, capsys):
    assert train.main(["lenet", "--data", str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) == 2
    assert "dataset-fashion-mnist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_network_that_is_not_shipped_needs_a_folder(capsys):
    with pytest.raises(SystemExit):
        train.main(["lenet-5"])
    assert "--out" in capsys.readouterr().err


@pytest.mark.skipif(not DEBIAN_FOLDER.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_fashion_training_data_are_58000_images():
    data = training_data("fashion-mnist")
    assert len(data.samples) == 58_000
    assert {split: len(samples) for split, samples in data.measured.items()} == {
        "search-validation": 2000,
        "test": 10_000,
    }


def test_cifar_training_data_leave_every_25th_image_out(monkeypatch):
    images = np.arange(100, dtype=np.float32).reshape(100, 1, 1, 1)
    samples = Samples(images, np.zeros(100, np.int64), "x")
    monkeypatch.setattr("qir.models.recipes.cifar10", lambda split, path: samples)
    data = training_data("cifar-10")
    assert data.measured["search-validation"].images.ravel().tolist() == [24, 49, 74, 99]
    assert len(data.samples) == 96


def test_unknown_data_set_is_a_data_error():
    with pytest.raises(DataError, match="cifar-10"):
        training_data("imagenet")
