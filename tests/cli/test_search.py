"""`qir search`: settings are checked before work; with or without retraining, by a recipe, with one's own training."""

from __future__ import annotations

import json

import numpy as np
import pytest

import qir.models
from qir.errors import QirError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Labelled samples, and a module with a training function, in the current folder."""
    for split, count in (("calibration", 48), ("retraining", 32), ("search-validation", 50)):
        samples = qir.models.fashion_mnist(split).take(count)
        np.savez(tmp_path / f"{split}.npz", images=samples.images, labels=samples.labels)
    (tmp_path / "my_training.py").write_text(
        "def train(network, images, labels, correction=None):\n"
        "    open('trained', 'a').write(f'{len(images)} {len(labels)}\\n')\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


DATA = ("lenet", "--data", "calibration.npz", "-t", "npu-148", "-b", "latency=0.5x")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "guess"), "method .guess. is unknown"),
        (("--recipe", "hawq-v4"), "did you mean 'hawq-v3'"),
        (("--recipe", "hawq-v3", "--method", "milp"), "takes no --method"),
        (("--recipe", "hawq-v3", "--retrain", "short"), "takes no --retrain"),
        (("--recipe", "haq", "--retrain", "short"), "give them with --train"),
        (("--method", "milp", "--evaluations", "9"), "takes no --evaluations"),
        (("--method", "random", "--reward", "haq"), "unknown options"),
        (("--reward", "glory"), "reward 'glory' is unknown"),
        (("--retrain", "longer"), "retraining protocol 'longer'"),
        (("--training", "my_training"), "module:function"),
        (("--training", "my_training:learn"), "has no function 'learn'"),
        (("--store", "/nowhere/at/all/s.db"), "store"),
        (("-b", "energy=0.5x", "-t", "bits"), "no hardware is named"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(shell, folder, monkeypatch, options, said):
    monkeypatch.setattr("qir.search.job.stages.prepare", lambda *_, **__: pytest.fail("the work began"))
    with pytest.raises(QirError, match=said):
        shell("search", *DATA, *options)


def test_a_missing_package_is_named_before_any_work(shell, folder, monkeypatch):
    monkeypatch.setattr("qir.search.methods.is_installed", lambda _: False)
    with pytest.raises(QirError, match=r"qir\[search\]"):
        shell("search", *DATA, "--method", "nsga2")


def test_a_recipe_retrains_every_policy_by_the_protocol_that_is_named(shell, folder):
    options = ("--recipe", "haq", "--retrain", "releq-short", "--train", "retraining.npz", "--evaluations", "2")
    shell("search", *DATA, *options, "--result", "result.json")
    found = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert len(found["evaluations"]) == 2
    shell("search", *DATA, "--recipe", "haq", "--evaluations", "2", "--result", "plain.json")
    plain = json.loads((folder / "plain.json").read_text(encoding="utf-8"))
    assert [e["policy"] for e in plain["evaluations"]] == [e["policy"] for e in found["evaluations"]]
    assert [e["value"] for e in plain["evaluations"]] != [e["value"] for e in found["evaluations"]]


def test_a_recipe_chooses_the_bits_and_the_file_is_written(shell, folder):
    done = shell("search", *DATA, "--recipe", "zeroq", "--result", "r.json", "-o", "out/z.onnx")
    assert done.exit_code == 0
    assert json.loads((folder / "r.json").read_text())["method"] == "pareto-dp"
    assert (folder / "out" / "z.onnx").exists()


def test_the_users_own_function_trains_every_policy_and_the_winner(shell, folder):
    splits = ("--train", "retraining.npz", "--validation", "search-validation.npz")
    how = ("--method", "random", "--evaluations", "2", "--training", "my_training:train")
    assert shell("search", *DATA, *splits, *how, "-o", "out/t.onnx").exit_code == 0
    assert (folder / "trained").read_text().splitlines() == ["32 32"] * 3
