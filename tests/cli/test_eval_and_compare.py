"""`qir eval`, `compare` and `explain`: networks side by side, what two quantizations decide differently, and why."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

import qir
import qir.models
from qir.errors import QirError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two quantizations of LeNet, their saved records, and labelled samples."""
    folder = tmp_path_factory.mktemp("made")
    samples = qir.models.fashion_mnist("calibration").take(64)
    np.savez(folder / "x.npz", images=samples.images, labels=samples.labels)
    for name, budgets in (("a", {}), ("b", {"latency": "0.5x"})):
        how = {"target": "npu-148", "data": samples.images, "budgets": budgets, "compare": False}
        done = qir.quantize(qir.models.path("lenet"), output=folder / f"{name}.quant.onnx", **how)
        done.save(folder / f"{name}.json")
    return folder


def test_accuracy_is_what_onnx_runtime_gives(answer, made):
    rows = answer("eval", "lenet", made / "a.quant.onnx", "--data", made / "x.npz")
    with np.load(made / "x.npz") as held:
        images, labels = held["images"], held["labels"]
    for row, file in zip(rows, (qir.models.path("lenet"), made / "a.quant.onnx"), strict=True):
        session = onnxruntime.InferenceSession(file)
        scores = session.run(None, {session.get_inputs()[0].name: images})[0]
        assert row["accuracy"] == pytest.approx((scores.argmax(1) == labels).mean())
        assert row["disk_bytes"] == file.stat().st_size
        assert row["microseconds"] > 0
    assert rows[0]["agreeing"] == 1.0


def test_a_file_that_onnx_runtime_does_not_load_has_no_latency(answer, shell, made, tmp_path):
    shell("export", made / "a.quant.onnx", "--profile", "qonnx", "-o", tmp_path / "q.onnx")
    row = answer("eval", "lenet", tmp_path / "q.onnx", "--data", made / "x.npz")[1]
    assert row["microseconds"] is None
    assert row["refused"]
    assert row["agreeing"] > 0.9


def test_files_and_saved_records_tell_the_same_bits_apart(answer, made):
    files = answer("compare", made / "a.quant.onnx", made / "b.quant.onnx")
    records = answer("compare", made / "a.json", made / "b.json")
    assert files["differing"] == records["differing"]
    assert {"quantizer": "fc1.weight", "first": 8, "second": 1} in files["differing"]
    assert records["figures"]["cycles"][0] == "24,111"


def test_a_float_network_cannot_be_compared(shell, made):
    with pytest.raises(QirError, match="quantiz"):
        shell("compare", qir.models.path("lenet"), made / "a.quant.onnx")


def test_a_saved_record_explains_a_layer(answer, shell, made):
    weight = answer("explain", made / "b.json", "fc1")[1]
    assert (weight["quantizer"], weight["bits"], weight["decision"]) == ("fc1.weight", 1, "fc1.input")
    assert weight["sensitivities"]["1"] > weight["sensitivities"]["8"]
    assert weight["spent"]["latency"][0] <= weight["spent"]["latency"][1]
    said = shell("explain", made / "b.json", "fc1").stdout
    assert "allows (fc1.input, fc1.weight) in (2, 1), (4, 4), (8, 8)" in said
    assert "no budget was given" in shell("explain", made / "a.json", "fc1.input").stdout
    with pytest.raises(QirError, match="--save"):
        shell("explain", made / "b.quant.onnx", "fc1")


def test_a_saved_record_has_a_page(answer, shell, made, tmp_path):
    found = answer("report", made / "b.json", "-o", tmp_path / "page.html")
    assert found["bytes"] == (tmp_path / "page.html").stat().st_size
    assert "fc1" in (tmp_path / "page.html").read_text(encoding="utf-8")
    with pytest.raises(QirError, match="one record"):
        shell("report", made / "a.json", made / "b.json")
