"""The reader in `examples/` needs numpy and json only and recomputes every layer to the bit."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from qir.backends.integer_reference import IntegerReference
from qir.guide import guide_schema

ROOT = Path(__file__).parents[2]
READER = ROOT / "examples" / "read_guide.py"


@pytest.fixture(scope="module")
def reader():
    spec = importlib.util.spec_from_file_location("read_guide", READER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("widths", [(8, 8), (4, 6), (1, 2), (3, 8)])
@pytest.mark.parametrize("seed", [0, 3, 5])
def test_every_layer_is_recomputed_to_the_bit(reader, exported, seed, widths) -> None:
    network, module, report = exported(seed, *widths)
    run = IntegerReference(module).run({"input": network.images(3)})
    guide = json.loads(report.guide.read_text())
    nodes = {node.name: node for node in module.graph}
    compared = 0
    for layer in guide["layers"]:
        dequantize = nodes[layer["node"]].operands[0].producer
        if layer["output"] is None or dequantize is None or dequantize.op != "DequantizeLinear":
            continue
        name = layer["output"]["quantizer"]
        expected = run.codes.get(f"{name}.clipped", run.codes[f"{name}.codes"])
        found = reader.recompute(layer, report.guide.parent, run.codes[dequantize.operands[0].name])
        assert np.array_equal(found, expected), layer["name"]
        compared += 1
    assert compared >= 3


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
        assert ((rows * worst).sum(1) + bias).max() == high


def test_the_reader_is_short_and_needs_numpy_and_json_only() -> None:
    text = READER.read_text()
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported <= {"numpy", "json", "sys", "zlib", "pathlib"}
    assert len(text.splitlines()) < 100


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
