"""QONNX files that Brevitas wrote: executed, read back, exported again.

Brevitas lives in an environment of its own; QIR_BREVITAS_PYTHON names its interpreter:
`python -m venv E; E/bin/pip install brevitas==0.13.4 onnxoptimizer onnxscript`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import qir
from qir.backends.execution.session import OrtSession
from qir.backends.qonnx.reference import QonnxReference
from qir.backends.torch.module import TorchModule
from qir.fake_quant import quantizers
from qir.passes import PassContext, export, raise_quantized

PYTHON = os.environ.get("QIR_BREVITAS_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="QIR_BREVITAS_PYTHON names no interpreter with Brevitas, onnxoptimizer"),
]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Path of Brevitas' file, samples, and what Brevitas computes."""
    folder = tmp_path_factory.mktemp("brevitas")
    path, samples = folder / "model.onnx", folder / "samples.npz"
    script = Path(__file__).with_name("export_brevitas.py")
    run = subprocess.run([PYTHON, str(script), str(path), str(samples)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    data = np.load(samples)
    return path, data["x"], data["y"]


def test_our_executor_computes_what_brevitas_computes(written):
    path, x, y = written
    module = qir.load(path)
    (found,) = QonnxReference(module).run({module.graph.inputs[0].name: x}).outputs.values()
    np.testing.assert_allclose(found, y, rtol=0, atol=1e-5 * np.abs(y).max())


def test_the_file_is_read_back_and_exported(written, tmp_path):
    path, x, y = written
    context = PassContext()
    module = raise_quantized(qir.load(path), context)
    assert not context.reports["raise-quantized"].left
    bits = {name: node.bits for name, node in quantizers(module.graph).items()}
    weights = {"conv1.weight": 4, "conv2.weight": 3, "conv3.weight": 1, "fc.weight": 8}
    assert bits == weights | {name: width for name, width in bits.items() if name not in weights}
    assert {width for name, width in bits.items() if name not in weights} == {8, 4, 5, 3, 2}
    with torch.no_grad():
        (floats,) = TorchModule(module, quantize_bias=False)(torch.from_numpy(x))
    np.testing.assert_array_equal(floats.numpy(), y)
    for profile in ("qcdq", "qonnx", "finn-thresholds"):
        report = export(module, tmp_path / f"{profile}.quant.onnx", profile=profile, data=x)
        print(f"{profile}: {report.mismatches} of {report.codes} codes off the {report.reference}")
        assert report.mismatches == 0
    feeds = {module.graph.inputs[0].name: x}
    (fused,) = OrtSession(tmp_path / "qcdq.quant.onnx").run(feeds).values()
    off = float(np.abs(fused - y).max() / np.abs(y).max())
    print(
        f"int32 biases move the logits by up to {off:.1%}, {(fused.argmax(1) != y.argmax(1)).sum()} of {len(y)} classes"
    )
