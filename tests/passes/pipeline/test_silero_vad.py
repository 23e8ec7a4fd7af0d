"""Silero VAD: nested branches, a recurrent cell whose state is an input; from the file as it is shipped."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import qir
import qir.onnx_io
from qir.backends import load_target
from qir.fake_quant import quantizers
from qir.passes import PassContext, PassManager, VerifyEach, apply_policy, bit_constraints, export, parse_pipeline
from qir.passes.simplify.canonicalize import SIMPLIFY

MODEL = os.environ.get("QIR_SILERO_VAD", "")
FREEZE = "freeze-inputs{values=[sr:16000],shapes=[input:1x576,state:2x1x128]},infer-types"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not MODEL,
        reason="QIR_SILERO_VAD names silero_vad.onnx: pip download --no-deps silero-vad==6.2.3, and unzip the wheel",
    ),
]


def signal(windows: int) -> np.ndarray:
    """A hum of harmonics that comes and goes, with noise: float32 [windows, 576], each 512 samples after the last."""
    time = np.arange(windows * 512 + 64) / 16000
    tones = (140, 280, 420, 700, 1200, 2500)
    hum = sum(np.sin(2 * np.pi * tone * time * (1 + 0.02 * np.sin(5 * time))) / k for k, tone in enumerate(tones, 1))
    loud = 0.5 + 0.5 * np.sign(np.sin(2 * np.pi * 1.3 * time))
    noise = np.random.default_rng(0).normal(size=time.size) * 0.01
    wave = (0.2 * hum * loud + noise).astype(np.float32)
    return np.stack([wave[i * 512 : i * 512 + 576] for i in range(windows)])


@pytest.fixture(scope="module")
def feeds() -> list[dict[str, np.ndarray]]:
    session = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    state, found = np.zeros((2, 1, 128), np.float32), []
    for window in signal(40):
        found.append({"input": window[None], "state": state})
        state = session.run(None, {**found[-1], "sr": np.asarray(16000)})[1]
    return found


def test_branches_go_and_outputs_stay_the_same(feeds) -> None:
    module = qir.load(MODEL)
    PassManager(parse_pipeline(f"{FREEZE},{SIMPLIFY}"), [VerifyEach()]).run(module)
    assert not any(node.op == "If" for node in module.graph.walk())
    assert sum(node.op == "LSTM" for node in module.graph) == 1
    before = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    after = onnxruntime.InferenceSession(qir.onnx_io.to_bytes(module), providers=["CPUExecutionProvider"])
    for feed in feeds:
        wanted = before.run(None, {**feed, "sr": np.asarray(16000)})
        for found, true in zip(after.run(None, feed), wanted, strict=True):
            np.testing.assert_allclose(found, true, atol=1e-6)


def test_convolutions_and_the_cell_are_quantized_and_exported(feeds, tmp_path: Path) -> None:
    module, target = qir.load(MODEL), load_target("npu-148")
    steps = f"{FREEZE},{SIMPLIFY},insert-fake-quant,propagate-constraints,calibrate"
    context = PassContext(target=target, calibration_data=feeds)
    PassManager(parse_pipeline(steps), [VerifyEach()]).run(module, context)
    assert [("state" in reason) for reason in context.reports["insert-fake-quant"].values()] == [True]
    suffixes = {name.rpartition(".")[2] for name in quantizers(module.graph) if "LSTM" in name}
    assert suffixes == {"input", "state", "weight", "recurrence"}
    constraints = bit_constraints(module, target.operand_rules())
    apply_policy(module, constraints.uniform(8))
    report = export(module, tmp_path / "vad.onnx", target=target, data=feeds)
    assert report.mismatches == 0
    assert "QLinearConv" in report.integer_nodes
    assert any("LSTM" in reason for _, reason in report.emulated)
    before = onnxruntime.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    after = onnxruntime.InferenceSession(str(report.model), providers=["CPUExecutionProvider"])
    errors = [
        abs(float(after.run(None, feed)[0][0, 0] - before.run(None, {**feed, "sr": np.asarray(16000)})[0][0, 0]))
        for feed in feeds
    ]
    print(f"speech probability, 8 bits: mean error {np.mean(errors):.4f}, largest {max(errors):.4f}")
    assert np.mean(errors) < 0.05
