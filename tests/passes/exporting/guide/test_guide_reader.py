"""The reader in `examples/` needs numpy and json only and runs every network to the bit."""

from __future__ import annotations

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qir
from qir.backends import load_target
from qir.backends.costs.target import ExportSpec
from qir.backends.integer.reference import IntegerReference
from qir.errors import ExportError
from qir.fake_quant import FakeQuant, quantizers
from qir.graph import Node
from qir.guide import guide_schema, read_guide
from qir.passes import PassContext, PassManager, export, parse_pipeline, run_passes
from qir.passes.correction.power_of_two_scales import PowerOfTwoScales
from qir.passes.exporting.build_guide import build_guide

ROOT = Path(__file__).parents[4]
READER = ROOT / "examples" / "read_guide.py"


OTHER_NETWORKS = (
    "clipped addition", "two quantizers", "shared weight", "padding and slices", "depth to space",
    "dilated and strided", "averages", "one dimension", "three dimensions", "attention", "rows",
    "transposed convolution", "products",
)  # fmt: skip


def differing(reader, guide: Path, reference: IntegerReference, feeds: dict) -> dict[str, int]:
    """Codes that differ between the reader and the reference, by tensor, one sample after the other."""
    network, found = reader.Network(guide), {}
    for index in range(len(next(iter(feeds.values())))):
        feed = {name: array[index : index + 1] for name, array in feeds.items()}
        run, read = reference.run(feed), network.run(feed)
        for name in read.keys() & run.codes.keys():
            found[name] = found.get(name, 0) + int((read[name] != run.codes[name]).sum())
        for port in network.guide["outputs"]:
            scale, zero = network.grid(network.holders[port["tensor"]])
            values = ((read[port["tensor"]] - zero) * scale).astype(np.float32)
            found[port["name"]] = found.get(port["name"], 0) + int((values != run.outputs[port["name"]]).sum())
    return found


@pytest.mark.parametrize("widths", [(8, 8), (4, 6), (1, 2), (3, 4)])
@pytest.mark.parametrize("seed", [0, 3, 6])
@pytest.mark.parametrize("kind", ["float32", "dyadic"])
def test_the_whole_network_runs_to_the_bit(reader, random_network, tmp_path, seed, widths, kind) -> None:
    network, module = random_network(seed, *widths)
    report = export(module, tmp_path / "m.quant.onnx", data=network.images(4), requantization=kind)
    reference = IntegerReference(qir.load(report.model), requantization=kind)
    found = differing(reader, report.guide, reference, {"input": network.images(2, seed=5)})
    assert len(found) >= 8
    assert not any(found.values())


@pytest.mark.parametrize("kind", ["float32", "dyadic"])
@pytest.mark.parametrize("name", OTHER_NETWORKS)
def test_networks_of_every_operator_run_to_the_bit(reader, small_network, tmp_path, name, kind) -> None:
    module, feeds = small_network(name)
    report = export(module, tmp_path / "m.quant.onnx", data=[feeds], requantization=kind)
    reference = IntegerReference(qir.load(report.model), requantization=kind)
    found = differing(reader, report.guide, reference, feeds)
    assert len(found) >= 2
    assert not any(found.values())


@pytest.mark.parametrize(
    ("bounds", "steps"),
    [
        ((0, 6), "power-of-two-scales"),
        ((-1, 1.5), "infer-types"),
        ((0.5, 3), "infer-types"),
        ((0, 6), "symmetric-activations{everywhere=true}"),
    ],
)
def test_a_clip_that_fused_into_an_addition_bounds_its_codes(reader, small_network, tmp_path, bounds, steps) -> None:
    module, feeds = small_network("clipped addition", bounds=bounds, more=steps)
    report = export(module, tmp_path / "m.quant.onnx", data=[feeds])
    (addition,) = (step for step in read_guide(report.guide).steps if step.op == "Add")
    grid = next(t.grid for t in read_guide(report.guide).tensors if t.name == addition.outputs[0].tensor)
    low, high = (np.rint(np.float32(b) / np.float32(grid.scale[0])) + grid.zero_point[0] for b in bounds)
    assert addition.outputs[0].clamp == (max(low, grid.low_code), min(high, grid.high_code))
    assert not any(differing(reader, report.guide, IntegerReference(qir.load(report.model)), feeds).values())


@pytest.mark.named_nodes
def test_one_convolution_that_feeds_two_quantizers_has_two_outputs(reader, small_network, tmp_path) -> None:
    module, feeds = small_network("two quantizers")
    addition = next(node for node in module.graph if node.op == "Add")
    first = addition.operands[0].producer
    second = Node(first.op, first.inputs, ("wider",), name="wider", domain=first.domain, attributes=first.attributes)
    module.graph.insert(second, before=addition)
    FakeQuant(second).calibration = FakeQuant(first).calibration * np.float32(1.5)
    addition.set_input(0, second.result)
    report = export(module, tmp_path / "m.quant.onnx", data=[feeds])
    guide = read_guide(report.guide)
    step = next(step for step in guide.steps if step.name == "a.node")
    tensors = {tensor.name: tensor.quantizer for tensor in guide.tensors}
    assert {tensors[output.tensor] for output in step.outputs} == {first.name, "wider"}
    readers = {name for other in guide.steps for name in other.inputs}
    assert {output.tensor for output in step.outputs} <= readers
    assert not any(differing(reader, report.guide, IntegerReference(qir.load(report.model)), feeds).values())


def test_what_no_integers_compute_is_named_so(small_network, tmp_path) -> None:
    module, feeds = small_network("islands")
    guide = read_guide(export(module, tmp_path / "m.quant.onnx", data=[feeds]).guide)
    kinds = {step.op: step.kind for step in guide.steps}
    assert kinds["Softmax"] == "float"
    assert kinds["If"] == "control-flow"
    assert kinds["Conv"] == "integer"


@pytest.mark.named_nodes
def test_every_step_of_a_residual_network_is_in_the_guide(exported) -> None:
    _, module, report = exported(5, 4, 4)
    guide = json.loads(report.guide.read_text())
    assert guide["guide_version"] == 4
    assert guide["requantization"]["kind"] == "float32"
    layers = [layer["name"] for layer in guide["layers"]]
    steps = guide["steps"]
    assert [step["layer"] for step in steps if step["layer"]] == layers
    nodes = [node.name for node in module.graph]
    places = [nodes.index(step["name"]) for step in steps]
    assert places == sorted(places)
    known = {port["tensor"] for port in guide["inputs"]} | {entry["name"] for entry in guide["constants"]}
    for step in steps:
        assert {name for name in step["inputs"] if name} <= known
        known |= {output["tensor"] for output in step["outputs"]}
    buffers = guide["memory"]["tensors"]
    assert guide["memory"]["lower_bound"] <= guide["memory"]["peak"]
    assert all(0 <= buffer["first"] <= buffer["last"] < len(steps) for buffer in buffers)
    assert all(buffer["bytes"] == -(-buffer["elements"] * buffer["bits"] // 8) for buffer in buffers)
    offsets = {buffer["name"]: buffer["offset"] for buffer in buffers}
    for tensor in guide["tensors"]:
        assert tensor["offset"] == offsets.get(tensor["view_of"] or tensor["name"])


def test_weights_that_layers_share_are_stored_once(small_network, tmp_path) -> None:
    module, feeds = small_network("shared weight")
    report = export(module, tmp_path / "m.quant.onnx", data=[feeds])
    guide = read_guide(report.guide)
    assert len({layer.packed_weight.sha256 for layer in guide.layers}) == 1
    assert len(guide.layers) == 2
    (constant,) = guide.constants
    assert constant.packed == guide.layers[0].packed_weight
    data = report.weights.read_bytes()[constant.packed.offset :][: constant.packed.length]
    assert hashlib.sha256(data).hexdigest() == constant.packed.sha256


def test_long_arrays_lie_in_the_weights_file(reader, small_network, tmp_path) -> None:
    module, feeds = small_network("many channels")
    report = export(module, tmp_path / "m.quant.onnx", data=[feeds])
    assert report.guide.stat().st_size < 20_000
    entry = next(step.bias for step in read_guide(report.guide).steps if step.bias is not None)
    assert entry.dtype == "int32"
    assert not any(differing(reader, report.guide, IntegerReference(qir.load(report.model)), feeds).values())


def test_costs_of_the_target_stand_at_every_step(random_network, tmp_path) -> None:
    _, module = random_network(0, 8, 8)
    target = load_target("bitfusion-e")
    guide, _ = build_guide(module, weights_file="w.bin", target=target)
    assert guide.unknown_costs == []
    assert guide.total_cycles == pytest.approx(sum(step.cost.cycles for step in guide.steps if step.cost))
    assert guide.latency_seconds == pytest.approx(guide.total_cycles / target.clock_hz)
    assert all(layer.cost.bytes_moved["dram"] > 0 and layer.cost.energy_pj for layer in guide.layers)
    assert guide.total_energy_pj == pytest.approx(sum(sum(s.cost.energy_pj.values()) for s in guide.steps if s.cost))


@pytest.mark.named_nodes
def test_the_targets_arithmetic_stands_in_the_guide(random_network) -> None:
    _, module = random_network(0, 8, 8)
    target = load_target("bitfusion-e").model_copy(update={"export": ExportSpec(requantization="dyadic")})
    guide, _ = build_guide(module, weights_file="w.bin", target=target)
    assert guide.requantization.kind == "dyadic"
    multipliers = [o.multiplier for step in guide.steps if step.layer for o in step.outputs if o.multiplier]
    assert len(multipliers) >= 3
    assert all(2**30 <= mantissa < 2**31 for found in multipliers for mantissa in found.mantissa[0])
    with pytest.raises(
        ExportError, match=r"layer 'n0_conv': its ratio of scales .* is not a power of two: run power-of-"
    ):
        build_guide(module, weights_file="w.bin", requantization="power-of-two")
    PassManager([PowerOfTwoScales()]).run(module, PassContext())
    guide, _ = build_guide(module, weights_file="w.bin", requantization="power-of-two")
    assert all(o.multiplier.exponent for step in guide.steps for o in step.outputs if o.multiplier)


def test_the_sums_stay_inside_their_proven_bounds(reader, exported) -> None:
    _, _, report = exported(3, 4, 4)
    network = reader.Network(report.guide)
    steps = {step["layer"]: step for step in network.guide["steps"]}
    for layer in network.guide["layers"]:
        low, high = layer["accumulator"]
        assert -(2 ** (layer["accumulator_bits"] - 1)) <= low <= high < 2 ** (layer["accumulator_bits"] - 1)
        step = steps[layer["name"]]
        if layer["op"] != "Gemm":
            continue
        weight = network.integers(step["inputs"][1], {})
        rows = weight if step["attributes"].get("transB", 0) else weight.T
        grid, bias = layer["input"], network.numbers(step["bias"])
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
    assert len(text.splitlines()) < 150


@pytest.mark.parametrize(("scheme", "bits"), [("potq", 3), ("uniform", 1), ("wrpn", 4), ("uniform-asymmetric", 5)])
def test_weights_on_other_grids_are_recomputed_too(reader, random_network, tmp_path, scheme, bits) -> None:
    network, _ = random_network(5, 8, 8)
    module = network.module()
    run_passes(module, "insert-fake-quant")
    for node in quantizers(module.graph).values():
        if node.source.is_constant:
            node.set_scheme(scheme)
            node.widths = (bits,)
            node.bits = bits
    calibrated = PassContext(calibration_data=network.images(16))
    PassManager(parse_pipeline("calibrate{method=minmax,weights=minmax}")).run(module, calibrated)
    written = export(module, tmp_path / "m.quant.onnx", data=network.images(2))
    found = differing(reader, written.guide, IntegerReference(qir.load(written.model)), {"input": network.images(2)})
    assert len(found) >= 8
    assert not any(found.values())
    guide = read_guide(written.guide)
    assert all((entry.table is not None) == (scheme == "potq") for entry in guide.constants)


def test_thresholds_give_the_codes_of_multipliers(reader, exported) -> None:
    _, _, report = exported(3, 3, 4)
    network = reader.Network(report.guide)
    steps = {step["layer"]: step for step in network.guide["steps"]}
    compared = 0
    for layer in network.guide["layers"]:
        if layer["thresholds"] is None:
            continue
        step, (low, high) = steps[layer["name"]], layer["accumulator"]
        rows = network.packed(layer["thresholds"]["packed"]) + layer["thresholds"]["low_sum"]
        (output,) = step["outputs"]
        grid, multiplier = network.grid(network.holders[output["tensor"]]), output["multiplier"]
        sums = np.random.default_rng(0).integers(low, high + 1, (len(rows), 500))
        counted = (sums[..., None] >= rows[:, None]).sum(-1) + layer["thresholds"]["low_code"]
        ratio = network.numbers(multiplier["float32"][0]).astype(np.float32).reshape(-1, 1)
        codes = np.clip(np.rint(sums.astype(np.float32) * ratio) + grid[1].reshape(()), *output["clamp"])
        assert np.array_equal(counted, codes), layer["name"]
        compared += 1
    assert compared >= 3


def test_the_reader_prints_the_outputs(exported) -> None:
    _, _, report = exported(5, 4, 4)
    done = subprocess.run([sys.executable, READER, report.guide], capture_output=True, text=True, check=True)
    assert "of shape [1, 5]" in done.stdout


def test_damaged_weights_are_noticed(reader, exported) -> None:
    network, _, report = exported(0, 4, 4)
    data = bytearray(report.weights.read_bytes())
    data[0] ^= 1
    report.weights.write_bytes(bytes(data))
    with pytest.raises(SystemExit, match="damaged"):
        reader.Network(report.guide).run({"input": network.images(1)})


def test_the_published_schema_is_current() -> None:
    """`python -m qir.guide > qir/guide.schema.json` writes it."""
    assert json.loads((ROOT / "qir" / "guide.schema.json").read_text()) == json.loads(json.dumps(guide_schema()))


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
