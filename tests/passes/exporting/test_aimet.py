"""The encodings file, read by aimet-onnx: its QDQ network computes what ours computes.

aimet-onnx lives in an environment of its own; QIR_AIMET_PYTHON names its interpreter:
`python -m venv /tmp/aimet && /tmp/aimet/bin/pip install aimet-onnx==2.42.0`.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from qir.backends.execution.session import OrtSession
from qir.passes import export

PYTHON = os.environ.get("QIR_AIMET_PYTHON")
CONVERT = """
import sys, onnx
from aimet_onnx.quantsim import encodings_to_onnx_qdq
onnx.save(encodings_to_onnx_qdq(sys.argv[1], sys.argv[2]), sys.argv[3])
"""
LOAD = """
import json, sys, onnx
from aimet_onnx.quantsim import QuantizationSimModel, load_encodings_to_sim
sim = QuantizationSimModel(onnx.load(sys.argv[1]))
mismatches = load_encodings_to_sim(sim, sys.argv[2], strict=False)
enabled = [name for name, quantizer in sim.qc_quantize_op_dict.items() if quantizer.enabled]
print(json.dumps([[mismatch.quantizer_name for mismatch in mismatches], enabled]))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="QIR_AIMET_PYTHON names no interpreter with aimet-onnx"),
]


def aimet(script: str, *arguments: Path) -> str:
    done = subprocess.run(
        [str(PYTHON), "-c", script, *map(str, arguments)], check=True, capture_output=True, text=True, timeout=300
    )
    return done.stdout


@pytest.mark.parametrize(("weight", "activation"), [(8, 8), (4, 8), (4, 4), (16, 16)])
def test_its_qdq_network_computes_what_the_simulation_computes(
    calibrated, simulation, samples, tmp_path, weight, activation
):
    module = calibrated(weight, activation, widths="4|8|16", output_widths="all")
    report = export(module, tmp_path / "model.quant.onnx", profile="encodings", data=samples)
    aimet(CONVERT, report.model, report.encodings, tmp_path / "qdq.onnx")
    found = OrtSession(tmp_path / "qdq.onnx", optimization="disable").run({"input": samples})
    for name, output in simulation(module).items():
        assert (np.abs(found[name] - output) > 1e-5 * np.abs(output).max()).sum() == 0


def test_every_entry_lands_on_a_quantizer_of_its_simulation(calibrated, samples, tmp_path):
    module = calibrated(8, 8)
    report = export(module, tmp_path / "model.quant.onnx", profile="encodings", data=samples)
    entries = json.loads(report.encodings.read_text())
    names = {entry["name"] for table in ("activation_encodings", "param_encodings") for entry in entries[table]}
    mismatches, enabled = json.loads(aimet(LOAD, report.model, report.encodings).splitlines()[-1])
    assert names <= set(enabled)
    assert not names & set(mismatches)
