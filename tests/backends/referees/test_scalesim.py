"""Systolic compute cycles equal SCALE-Sim's, to the cycle.

SCALE-Sim lives in an environment of its own (it needs numpy < 2.3 and pandas < 3); QIR_SCALESIM_PYTHON names its
interpreter: `python -m venv E; E/bin/pip install 'numpy<2.3' 'pandas<3' scalesim==3.0.0`.
"""

import csv
import os
import subprocess
from pathlib import Path

import pytest

from qir.backends import ConvShape, load_target

PYTHON = os.environ.get("QIR_SCALESIM_PYTHON")
LAYERS = [
    *((size, size, 3, 3, c, n, 1) for size, c, n in [(10, 3, 8), (12, 8, 16), (9, 16, 20), (8, 20, 33), (7, 17, 5)]),
    *((size, size, 3, 3, c, n, 2) for size, c, n in [(11, 4, 16), (13, 16, 17), (9, 9, 32)]),
    *((size, size, 1, 1, c, n, 1) for size, c, n in [(8, 16, 32), (7, 24, 40), (5, 33, 15), (6, 64, 10)]),
    *((1, 1, 1, 1, c, n, 1) for c, n in [(64, 10), (100, 33), (128, 64)]),
    (12, 12, 5, 5, 3, 12, 1),
]
CONFIG = """[general]
run_name = run
[architecture_presets]
ArrayHeight: 16
ArrayWidth: 16
IfmapSramSzkB: 1024
FilterSramSzkB: 1024
OfmapSramSzkB: 1024
IfmapOffset: 0
FilterOffset: 10000000
OfmapOffset: 20000000
Dataflow: {dataflow}
Bandwidth: 1000
ReadRequestBuffer: 512
WriteRequestBuffer: 512
[layout]
IfmapCustomLayout: False
IfmapSRAMBankBandwidth: 10
IfmapSRAMBankNum: 10
IfmapSRAMBankPort: 2
FilterCustomLayout: False
FilterSRAMBankBandwidth: 10
FilterSRAMBankNum: 10
FilterSRAMBankPort: 2
[sparsity]
SparsitySupport: False
SparseRep: ellpack_block
OptimizedMapping: False
BlockSize: 8
RandomNumberGeneratorSeed: 40
[run_presets]
InterfaceBandwidth: CALC
UseRamulatorTrace: False
"""


def _simulate(folder: Path, dataflow: str) -> list[int]:
    (folder / "run.cfg").write_text(CONFIG.format(dataflow=dataflow))
    rows = [f"layer{i}," + ",".join(map(str, layer)) + ",1:1," for i, layer in enumerate(LAYERS)]
    (folder / "topology.csv").write_text("name,h,w,kh,kw,c,n,s,sparsity,\n" + "\n".join(rows) + "\n")
    ones = ",".join(["1"] * 21)
    layout = [f"layer{i},{ones}," for i in range(len(LAYERS))]
    (folder / "layout.csv").write_text("name," + ones + ",\n" + "\n".join(layout) + "\n")
    command = [PYTHON, "-m", "scalesim.scale", "-c", "run.cfg", "-t", "topology.csv", "-l", "layout.csv", "-p", "out"]
    done = subprocess.run([*command, "-s", "N"], cwd=folder, check=False, capture_output=True, text=True, timeout=570)
    report = next(iter((folder / "out").rglob("COMPUTE_REPORT.csv")), None)
    assert report is not None, done.stdout[-2000:] + done.stderr[-2000:]
    with report.open() as lines:
        table = [{key.strip(): value for key, value in row.items() if key} for row in csv.DictReader(lines)]
    return [round(float(row["Total Cycles"]) - float(row["Stall Cycles"])) for row in table]


@pytest.mark.slow
@pytest.mark.skipif(PYTHON is None, reason="QIR_SCALESIM_PYTHON names no interpreter with scalesim")
@pytest.mark.parametrize(("dataflow", "short"), [("output", "os"), ("weight", "ws"), ("input", "is")])
def test_compute_cycles_equal_scalesim(tmp_path: Path, dataflow: str, short: str) -> None:
    target = load_target("systolic-16x16")
    parameters = target.cost.parameters | {"dataflow": dataflow, "packed": False}
    model = target.model_copy(update={"cost": target.cost.model_copy(update={"parameters": parameters})}).cost_model()
    ours = []
    for height, width, rows, columns, inputs, outputs, stride in LAYERS:
        shape = ConvShape(inputs, outputs, height, width, (rows, columns), (stride, stride))
        ours.append(model.layer_cost(shape, 8, 8).compute_cycles)
    assert ours == _simulate(tmp_path, short)
