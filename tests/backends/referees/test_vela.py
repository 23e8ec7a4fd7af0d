"""Vela's report is read and joined; with Vela and LiteRT at hand, the int8 form compiles and computes the network.

Both live in environments of their own: `python -m venv E; E/bin/pip install ethos-u-vela==5.2.0`, QIR_VELA=E/bin/vela;
`python -m venv L; L/bin/pip install ai-edge-litert`, QIR_LITERT_PYTHON=L/bin/python.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import qir
from qir.backends import cost_table, load_target
from qir.backends.costs.layers.cost import Cost
from qir.backends.costs.tables.rows import CostRow
from qir.backends.costs.tables.table import CostTable
from qir.backends.execution.session import OrtSession
from qir.backends.vela.compiler import VelaLayer, compile_network, read_report, vela_command
from qir.backends.vela.referee import (
    OTHER,
    Compared,
    OpFit,
    compare_layers,
    fit_ops,
    predicted,
    rank_correlation,
    referee,
    tflite_bytes,
)
from qir.errors import MissingExtraError, TargetError
from qir.passes import PassContext, PassManager, parse_pipeline, run_passes

MODELS = Path(__file__).resolve().parents[3] / "models" / "trained"
LITERT = os.environ.get("QIR_LITERT_PYTHON")
REPORT = """Original Operator,NNG Operator,Target,Staging Usage,Op Cycles,NPU,SRAM AC,DRAM AC,MAC Count,Name
Conv2D,Conv2D,NPU,1,120,100,20,120,640,conv
Conv2D,Relu,NPU,1,0,0,0,0,0,conv
Mean,Mean,NPU,1,30,30,0,0,0,pool_intermediate
Transpose,Transpose,NPU,1,7,7,0,0,0,flat.channels-first
"""
RUN = """
import sys, numpy as np
from ai_edge_litert.interpreter import Interpreter
model = Interpreter(model_path=sys.argv[1])
model.allocate_tensors()
[source], [result] = model.get_input_details(), model.get_output_details()
scale, zero = source["quantization"]
outputs = []
for image in np.load(sys.argv[2]):
    codes = np.rint(image.transpose(1, 2, 0)[None] / scale) + zero
    model.set_tensor(source["index"], np.clip(codes, -128, 127).astype(np.int8))
    model.invoke()
    outputs.append((model.get_tensor(result["index"]).astype(np.float32) - result["quantization"][1])
                   * result["quantization"][0])
np.save(sys.argv[3], np.concatenate(outputs))
"""


def _table() -> CostTable:
    rows = [
        CostRow(name, op, name, None, None, (8,), (8,), ((Cost(cycles, cycles),),), step=step)
        for step, (name, op, cycles) in enumerate([("conv", "Conv", 100.0), ("pool", "GlobalAveragePool", 40.0)])
    ]
    return CostTable(rows, {}, "x")


def test_report_is_read_and_joined_by_layer(tmp_path: Path) -> None:
    (tmp_path / "n_per-layer.csv").write_text(REPORT, encoding="utf-8")
    layers = read_report(tmp_path / "n_per-layer.csv")
    assert layers[0] == VelaLayer("conv", "Conv2D", 120.0, 100.0, {"sram": 20.0, "dram": 120.0}, 640.0)
    rows = compare_layers(_table(), {}, layers)
    assert [(row.node, row.op, row.cycles, row.referee_cycles) for row in rows] == [
        ("conv", "Conv", 100.0, 120.0),
        ("pool", "GlobalAveragePool", 40.0, 30.0),
        ("flat.channels-first", OTHER, 0.0, 7.0),
    ]


def test_reports_of_other_versions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "n_per-layer.csv").write_text("Name,Cycles\nconv,1\n", encoding="utf-8")
    with pytest.raises(TargetError, match="version 5"):
        read_report(tmp_path / "n_per-layer.csv")


def test_fit_finds_efficiency_and_constant_by_op() -> None:
    rows = [Compared(str(c), "Conv", c, c / 0.5 + 100, is_layer=True) for c in (100.0, 200.0, 400.0)]
    rows += [Compared("add", "Add", 50.0, 25.0, is_layer=False), Compared("fused", "Mul", 5.0, 0.0, is_layer=False)]
    fits = fit_ops(rows)
    assert fits["Conv"].efficiency == pytest.approx(0.5)
    assert fits["Conv"].constant == pytest.approx(100)
    assert fits["Add"] == OpFit(2.0, 0.0)
    assert predicted(rows, fits) == pytest.approx(sum(row.referee_cycles for row in rows))
    assert rank_correlation(rows) == pytest.approx(1)


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QIR_VELA", "/absent/vela")
    with pytest.raises(MissingExtraError, match="ethos-u-vela"):
        vela_command()


def test_targets_without_a_compiler_are_refused() -> None:
    module = qir.load(MODELS / "lenet_fashion_mnist.onnx")
    with pytest.raises(TargetError, match="has no referee"):
        referee(module, load_target("npu-148"), _table(), {})


def test_what_the_compiler_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = tmp_path / "vela"
    command.write_text("#!/bin/sh\necho 'Traceback' >&2\necho 'RuntimeError: too wide' >&2\nexit 1\n", encoding="utf-8")
    command.chmod(0o755)
    monkeypatch.setenv("QIR_VELA", str(command))
    with pytest.raises(TargetError, match="for ethos-u55-128: RuntimeError: too wide: an operator"):
        compile_network(b"", "ethos-u55-128", "Ethos_U55_High_End_Embedded", "Shared_Sram")


@pytest.mark.slow
@pytest.mark.skipif("QIR_VELA" not in os.environ, reason="QIR_VELA names no command vela: see this file's first lines")
@pytest.mark.parametrize("name", ["ethos-u55-128-like", "ethos-u65-256-like", "ethos-u85-256-like"])
def test_layers_rank_as_vela_ranks_them_and_none_is_lost(name: str) -> None:
    module = qir.load(MODELS / "residual_fashion_mnist.onnx")
    run_passes(module, "fold-constants,fold-batchnorm")
    target = load_target(name)
    table = cost_table(module, target)
    rows = referee(module, target, table, table.uniform(8, 8))
    assert rank_correlation(rows) > 0.9
    assert {row.node for row in rows if row.is_layer and not row.referee_cycles} == set()


@pytest.mark.slow
@pytest.mark.skipif(LITERT is None, reason="QIR_LITERT_PYTHON names no interpreter: see this file's first lines")
@pytest.mark.parametrize("network", ["lenet_fashion_mnist", "residual_fashion_mnist", "resnet20_fashion_mnist"])
def test_int8_form_computes_the_network_in_litert(tmp_path: Path, network: str) -> None:
    module = qir.load(MODELS / f"{network}.onnx")
    images = np.random.default_rng(0).normal(size=(16, 1, 28, 28)).astype(np.float32)
    name = module.graph.inputs[0].name
    wanted = np.asarray(next(iter(OrtSession(module).run({name: images}).values())))
    pipeline = parse_pipeline("fold-constants,fold-batchnorm,insert-fake-quant,calibrate")
    PassManager(pipeline).run(module, PassContext(calibration_data=[{name: images}]))
    paths = [tmp_path / file for file in ("n.tflite", "x.npy", "y.npy")]
    paths[0].write_bytes(tflite_bytes(module))
    np.save(paths[1], images)
    subprocess.run([LITERT, "-c", RUN, *map(str, paths)], check=True, capture_output=True, timeout=300)
    found = np.load(paths[2])
    assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.999
    assert (wanted.argmax(1) == found.argmax(1)).mean() > 0.9
