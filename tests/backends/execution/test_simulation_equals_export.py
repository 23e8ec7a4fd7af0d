"""What torch simulates is what ONNX Runtime computes from the exported file."""

import numpy as np
import pytest
import torch

import qir
from qir.backends.execution.session import OrtSession
from qir.backends.torch.module import TorchModule
from qir.fake_quant import quantizers
from qir.models.shipped import path
from qir.passes import export, run_passes

PIPELINE = "fold-constants,fold-batchnorm,insert-fake-quant{weight_widths=4|8,activation_widths=4|8},calibrate"
IMAGES = np.random.default_rng(0).random((64, 1, 28, 28), np.float32)


@pytest.fixture(scope="module")
def lenet():
    module = qir.load(path("lenet"))
    run_passes(module, PIPELINE, data=IMAGES)
    return module


@pytest.mark.parametrize("bits", [8, 4])
def test_logits_agree(lenet, tmp_path, bits):
    module = lenet.clone()
    for node in quantizers(module.graph).values():
        if bits in node.widths:
            node.bits = bits
    report = export(module, tmp_path / "lenet.quant.onnx", data=IMAGES)
    (wanted,) = OrtSession(report.model, optimization="disable").run({module.graph.inputs[0].name: IMAGES}).values()
    with torch.no_grad():
        (found,) = TorchModule(module)(torch.from_numpy(IMAGES))
        (float_bias,) = TorchModule(module, quantize_bias=False)(torch.from_numpy(IMAGES))
    last = list(quantizers(module.graph).values())[-1]
    step = float(np.diff(np.unique(wanted)).min())
    different = (np.abs(found.numpy() - wanted) > step / 2).mean()
    assert different <= 2e-3, f"share of logits that differ by a step of {last.name}"
    assert different <= (np.abs(float_bias.numpy() - wanted) > step / 2).mean() + 2e-3
