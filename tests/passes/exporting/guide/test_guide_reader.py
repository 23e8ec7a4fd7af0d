"""The reader in `examples/` needs numpy and json only and recomputes every layer to the bit."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import qir
from qir.backends import load_target
from qir.backends.costs.target import ExportSpec
from qir.backends.integer.reference import IntegerReference
from qir.errors import ExportError
from qir.fake_quant import quantizers
from qir.guide import guide_schema
from qir.passes import PassContext, PassManager, export, parse_pipeline
from qir.passes.correction.power_of_two_scales import PowerOfTwoScales
from qir.passes.exporting.build_guide import build_guide

ROOT = Path(__file__).parents[4]
READER = ROOT / "examples" / "read_guide.py"


@pytest.fixture(scope="module")
def reader():
    spec = importlib.util.spec_from_file_location("read_guide", READER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("widths", [(8, 8), (4, 6), (1, 2), (3, 4)])
@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("kind", ["float32", "dyadic"])
def test_every_layer_is_recomputed_to_the_bit(reader, exported, seed, widths, kind) -> None:
    network, module, report = exported(seed, *widths)
    run = IntegerReference(module, requantization=kind).run({"input": network.images(3)})
    guide = json.loads(report.guide.read_text())
    nodes = {node.name: node for node in module.graph}
    compared = 0
    for layer in guide["layers"]:
        dequantize = nodes[layer["node"]].operands[0].producer
        if layer["output"] is None or dequantize is None or dequantize.op != "DequantizeLinear":
            continue
        name = layer["output"]["quantizer"]
        expected = run.codes.get(f"{name}.clipped", run.codes[f"{name}.codes"])
        found = reader.recompute(layer, report.guide.parent, run.codes[dequantize.operands[0].name], kind)
        assert np.array_equal(found, expected), layer["name"]
        assert (layer["thresholds"] is not None) == (layer["output"]["bits"] <= 4)
        if layer["thresholds"] and kind == "float32":
            by_thresholds = reader.recompute(
                layer, report.guide.parent, run.codes[dequantize.operands[0].name], "thresholds"
            )
            assert np.array_equal(by_thresholds, expected), layer["name"]
        compared += 1
    assert compared >= 3


def test_every_step_of_a_residual_network_is_in_the_guide(exported) -> None:
    _, module, report = exported(5, 4, 4)
    guide = json.loads(report.guide.read_text())
    assert guide["guide_version"] == 3
    assert guide["requantization"]["kind"] == "float32"
    layers = {layer["name"]: layer["node"] for layer in guide["layers"]}
    steps = guide["execution_order"]
    assert [step["layer"] for step in steps if step["layer"]] == list(layers)
    nodes = [node.name for node in module.graph]
    places = [nodes.index(step["node"]) for step in steps]
    assert places == sorted(places)
    buffers = guide["memory"]["tensors"]
    assert guide["memory"]["lower_bound"] <= guide["memory"]["peak"]
    assert all(0 <= buffer["first"] <= buffer["last"] < len(steps) for buffer in buffers)
    assert all(buffer["bytes"] == -(-buffer["elements"] * buffer["bits"] // 8) for buffer in buffers)
    assert {found["op"] for found in guide["rescalings"]} >= {"Concat", "Add"} & {step["op"] for step in steps}


def test_an_addition_is_recomputed_from_its_multipliers(exported) -> None:
    network, module, report = exported(5, 8, 8)
    run = IntegerReference(module, requantization="dyadic").run({"input": network.images(3)})
    nodes = {node.name: node for node in module.graph}
    additions = [e for e in json.loads(report.guide.read_text())["rescalings"] if e["op"] == "Add"]
    for entry in additions:
        codes = [run.codes[value.producer.operands[0].name].astype(np.int64) for value in nodes[entry["node"]].operands]
        mantissas, shift = entry["multiplier"]["mantissa"], entry["multiplier"]["shift"][0]
        total = sum(
            (code - grid["zero_point"][0]) * mantissa[0]
            for code, grid, mantissa in zip(codes, entry["inputs"], mantissas, strict=True)
        )
        found, rest = np.divmod(total, 1 << shift)
        half = 1 << (shift - 1)
        found = found + ((rest > half) | ((rest == half) & (found % 2 == 1))) + entry["output"]["zero_point"][0]
        name = entry["output"]["quantizer"]
        expected = run.codes.get(f"{name}.clipped", run.codes[f"{name}.codes"])
        low, high = (entry["output"][key] for key in ("low_code", "high_code"))
        followed = any(user.op == "Relu" for user in nodes[entry["node"]].result.users)
        low = max(low, entry["output"]["zero_point"][0]) if followed else low
        assert np.array_equal(np.clip(found, low, high), expected)
    assert additions


def test_costs_of_the_target_stand_at_every_step(random_network, tmp_path) -> None:
    _, module = random_network(0, 8, 8)
    target = load_target("bitfusion-e")
    guide, _ = build_guide(module, weights_file="w.bin", target=target)
    assert guide.unknown_costs == []
    assert guide.total_cycles == pytest.approx(sum(step.cost.cycles for step in guide.execution_order))
    assert guide.latency_seconds == pytest.approx(guide.total_cycles / target.clock_hz)
    assert all(layer.cost.bytes_moved["dram"] > 0 and layer.cost.energy_pj for layer in guide.layers)
    assert guide.total_energy_pj == pytest.approx(sum(sum(s.cost.energy_pj.values()) for s in guide.execution_order))


def test_the_targets_arithmetic_stands_in_the_guide(random_network) -> None:
    _, module = random_network(0, 8, 8)
    target = load_target("bitfusion-e").model_copy(update={"export": ExportSpec(requantization="dyadic")})
    guide, _ = build_guide(module, weights_file="w.bin", target=target)
    assert guide.requantization.kind == "dyadic"
    assert all(2**30 <= m < 2**31 for layer in guide.layers if layer.multiplier for m in layer.multiplier.mantissa[0])
    with pytest.raises(
        ExportError, match=r"layer 'n0_conv': its ratio of scales .* is not a power of two: run power-of-"
    ):
        build_guide(module, weights_file="w.bin", requantization="power-of-two")
    PassManager([PowerOfTwoScales()]).run(module, PassContext())
    guide, _ = build_guide(module, weights_file="w.bin", requantization="power-of-two")
    assert all(layer.multiplier.exponent for layer in guide.layers if layer.multiplier)


def test_the_sums_stay_inside_their_proven_bounds(reader, exported) -> None:
    _, _, report = exported(3, 4, 4)
    for layer in json.loads(report.guide.read_text())["layers"]:
        low, high = layer["accumulator"]
        assert -(2 ** (layer["accumulator_bits"] - 1)) <= low <= high < 2 ** (layer["accumulator_bits"] - 1)
        weight = reader.weights_of(layer, report.guide.parent).astype(np.int64)
        if layer["op"] != "Gemm":
            continue
        rows = weight if layer["attributes"].get("transB", 0) else weight.T
        grid, bias = layer["input"], np.asarray(layer["bias_codes"])
        ends = np.array([grid["low_code"], grid["high_code"]]) - grid["zero_point"][0]
        worst = np.where(rows > 0, ends[1], ends[0])
        assert ((rows * worst).sum(1) + np.maximum(bias, 0)).max() == high


def test_the_reader_is_short_and_needs_numpy_and_json_only() -> None:
    text = READER.read_text()
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported <= {"numpy", "json", "sys", "zlib", "pathlib"}
    assert len(text.splitlines()) < 100


@pytest.mark.parametrize(("scheme", "bits"), [("potq", 3), ("uniform", 1), ("wrpn", 4), ("uniform-asymmetric", 5)])
def test_weights_on_other_grids_are_recomputed_too(reader, random_network, tmp_path, scheme, bits) -> None:
    network, _ = random_network(5, 8, 8)
    module = network.module()
    PassManager(parse_pipeline("insert-fake-quant")).run(module, PassContext())
    for node in quantizers(module.graph).values():
        if node.operands[0].is_constant:
            node.set_attribute("scheme", scheme)
            node.set_attribute("widths", (bits,))
            node.set_attribute("bits", bits)
    calibrated = PassContext(calibration_data=network.images(16))
    PassManager(parse_pipeline("calibrate{method=minmax,weights=minmax}")).run(module, calibrated)
    written = export(module, tmp_path / "m.quant.onnx", data=network.images(2))
    run = IntegerReference(qir.load(written.model)).run({"input": network.images(2)})
    guide = json.loads(written.guide.read_text())
    compared = 0
    for layer in guide["layers"]:
        data, name = layer["input"]["quantizer"], layer["output"] and layer["output"]["quantizer"]
        if layer["op"] != "Conv" or f"{data}.codes" not in run.codes or layer["multiplier"] is None:
            continue
        found = reader.recompute(layer, written.guide.parent, run.codes[f"{data}.codes"])
        assert np.array_equal(found, run.codes[f"{name}.codes"]), layer["name"]
        compared += 1
    assert compared >= 3
    assert (guide["layers"][0]["weight"]["table"] is not None) == (scheme == "potq")


def test_the_reader_prints_every_layer(reader, exported, capsys) -> None:
    _, _, report = exported(5, 4, 4)
    reader.main(str(report.guide))
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(json.loads(report.guide.read_text())["layers"])
    assert sum("4 x 4 bits" in line for line in printed) >= 3


def test_damaged_weights_are_noticed(reader, exported) -> None:
    _, _, report = exported(0, 4, 4)
    data = bytearray(report.weights.read_bytes())
    data[0] ^= 1
    report.weights.write_bytes(bytes(data))
    with pytest.raises(SystemExit, match="damaged"):
        reader.main(str(report.guide))


def test_the_published_schema_is_current() -> None:
    """`python -m qir.guide > docs/guide.schema.json` writes it."""
    assert json.loads((ROOT / "docs" / "guide.schema.json").read_text()) == json.loads(json.dumps(guide_schema()))


def test_unknown_sizes_of_activations_are_named(random_network) -> None:
    _, module = random_network(0, 8, 8)
    assert build_guide(module, weights_file="w.bin")[0].memory_unknown == ""
    shape = module.graph.inputs[0].type.shape
    for value in module.graph.values():
        if not value.is_constant and not (value.producer and value.producer.is_fake_quant):
            value.type = qir.types.TensorType(qir.types.DType.FLOAT32, (None,) * len(shape))
    guide, _ = build_guide(module, weights_file="w.bin")
    assert guide.memory is None
    assert guide.memory_unknown.startswith("the sizes of input, ")
    assert "freeze-inputs" in guide.memory_unknown
