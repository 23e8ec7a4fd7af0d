"""The QCDQ export: proven to run, equal to the simulation, nothing lost on failure."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

import qir
from qir.backends.execution.session import OrtSession
from qir.backends.torch.module import TorchModule
from qir.errors import ExportError
from qir.fake_quant import quantizers
from qir.guide import read_guide
from qir.packing import pack, unpack
from qir.passes import apply_policy, export
from qir.passes.analysis.arithmetic.quantizer import QuantizerArithmetic


@pytest.mark.parametrize("widths", [(8, 8, 8, 8), (4, 4, 4, 4), (2, 2, 2, 2), (8, 4, 2, 4)])
def test_onnx_runtime_computes_what_the_simulation_computes(lenet, splits, tmp_path, widths) -> None:
    module, constraints = lenet
    apply_policy(module, constraints.complete(dict(zip(constraints.decisions, widths, strict=True))))
    images = splits["search-validation"].images[:200]
    report = export(module, tmp_path / "model.quant.onnx", data=images)
    assert report.integer_nodes == ("QLinearConv", "QLinearConv", "QGemm", "QGemm")
    (found,) = OrtSession(report.model).run({"input": images}).values()
    with torch.no_grad():
        simulated = TorchModule(module)(torch.from_numpy(images))[0].numpy()
    step = quantizers(module.graph)["fc2.output"]
    one_code = float(np.ptp(step.calibration)) / 255
    assert np.abs(found - simulated).max() <= 1.01 * one_code
    assert (found != simulated).mean() < 1e-3
    assert (found.argmax(1) == simulated.argmax(1)).all()


def test_the_guide_holds_bits_and_codes_of_every_layer(lenet, splits, target, tmp_path) -> None:
    module, constraints = lenet
    apply_policy(module, constraints.complete(dict(zip(constraints.decisions, (8, 4, 2, 4), strict=True))))
    report = export(module, tmp_path / "model.quant.onnx", target=target, data=splits["calibration"].images[:64])
    guide = read_guide(report.guide)
    assert [(layer.input.bits, layer.weight.bits) for layer in guide.layers] == [(8, 8), (4, 4), (2, 1), (4, 4)]
    assert guide.total_cycles is not None
    for layer in guide.layers:
        entry = layer.packed_weight
        data = report.weights.read_bytes()[entry.offset : entry.offset + entry.length]
        codes = unpack(data, int(np.prod(entry.shape)), entry.bits, layer.weight.low_code, layer.weight.code_step)
        expected = QuantizerArithmetic(quantizers(module.graph)[layer.weight.quantizer]).stored
        assert (codes.reshape(entry.shape) == expected).all()


def test_the_guides_hash_and_the_policy_travel_in_the_models_metadata(lenet, splits, tmp_path) -> None:
    report = export(lenet[0], tmp_path / "model.quant.onnx", data=splits["calibration"].images[:64])
    metadata = qir.load(report.model).metadata
    assert metadata["qir.guide.sha256"] == hashlib.sha256(report.guide.read_bytes()).hexdigest()
    assert json.loads(metadata["qir.policy"])["conv1.weight"] == 8


def test_the_same_input_gives_the_same_bytes(lenet, splits, tmp_path) -> None:
    data = splits["calibration"].images[:64]
    first = export(lenet[0], tmp_path / "a" / "model.quant.onnx", data=data)
    second = export(lenet[0], tmp_path / "b" / "model.quant.onnx", data=data)
    for one, other in zip(
        (first.model, first.guide, first.weights), (second.model, second.guide, second.weights), strict=True
    ):
        assert one.read_bytes() == other.read_bytes()


def test_a_stale_weight_is_refused_and_the_old_file_stays(lenet, splits, tmp_path) -> None:
    module, _ = lenet
    report = export(module, tmp_path / "model.quant.onnx", data=splits["calibration"].images[:64])
    before = report.model.read_bytes()
    quantizers(module.graph)["fc1.weight"].is_stale = True
    with pytest.raises(ExportError, match=r"fc1.weight.*calibrate again"):
        export(module, tmp_path / "model.quant.onnx", data=splits["calibration"].images[:64])
    assert report.model.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.guide.json", "model.quant.onnx", "model.weights.bin"]


def test_a_network_without_quantizers_is_refused(tmp_path) -> None:
    module = qir.load(qir.models.path("lenet"))
    with pytest.raises(ExportError, match="no fake-quant nodes"):
        export(module, tmp_path / "model.onnx")


def test_an_unknown_profile_is_refused(lenet, tmp_path) -> None:
    with pytest.raises(ExportError, match="'flat' is unknown"):
        export(lenet[0], tmp_path / "model.onnx", profile="flat")


@pytest.mark.parametrize("bits", range(1, 9))
def test_packing_is_undone_by_unpacking(bits: int) -> None:
    low, step = (-1, 2) if bits == 1 else (-(2 ** (bits - 1)), 1)
    codes = low + step * np.random.default_rng(bits).integers(0, 2**bits, 1001)
    data = pack(codes, bits, low, step)
    assert len(data) == -(-1001 * bits // 8)
    assert (unpack(data, 1001, bits, low, step) == codes).all()
