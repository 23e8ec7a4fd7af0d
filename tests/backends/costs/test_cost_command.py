"""`qir cost` and `qir target` print tables, explain layers, write delay tables and refuse bad input."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import qir
from qir.backends.costs.tables.delay_files import read_delay_table
from qir.cli.main import make_app
from qir.errors import MissingExtraError, QirError
from qir.graph import Graph, Node
from qir.module import Module
from qir.ops import infer_graph
from qir.tensor import Tensor
from qir.types import DType, TensorType

LENET = str(Path(__file__).resolve().parents[3] / "models" / "trained" / "lenet_fashion_mnist.onnx")


def _run(*arguments: str) -> str:
    verb = () if arguments and arguments[0] in ("target", "targets") else ("cost",)
    result = CliRunner().invoke(make_app(), [*verb, *arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.mark.named_nodes
def test_table_names_layers_and_totals() -> None:
    output = _run(LENET, "--target", "npu-148")
    assert "fc1" in output
    assert "cycles" in output
    assert "illustrative" in output


def test_table_and_explanation_of_every_layer(tmp_path: Path) -> None:
    path = tmp_path / "delays.csv"
    output = _run(LENET, "--target", "bismo-16x16x256", "--explain", "all", "--export", str(path))
    assert "bound by" in output
    assert len(read_delay_table(path).layers) == 4


def test_lists_targets_and_schema() -> None:
    assert "bitfusion" in _run("targets")
    assert "weight_widths" in _run("targets", "--schema")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LENET, "--target", "npu-149"), "did you mean 'npu-148'"),
        ((LENET, "--shape", "inputs=1,1,28,28"), "did you mean 'input'"),
        ((LENET, "--shape", "input=one"), "expected name="),
        ((LENET, "--explain", "absent"), "no layer"),
        ((LENET, "--referee", "vella", "--target", "ethos-u55-128-like"), "did you mean 'vela'"),
        ((LENET, "--referee", "vela", "--target", "npu-148"), "no referee"),
        (("target", "import", "absent.csv", "out.csv"), "cannot be read"),
        (("target", "fit", "npu-148", "absent.csv"), "cannot be read"),
        ((LENET, "--export", "table.txt"), "ends in .csv"),
        ((LENET, "--export", f"{LENET}/table.csv"), "cannot be written"),
        (("target", "measure", LENET, "table.txt"), "ends in .csv"),
        ((LENET, "--policy", "absent.json"), "cannot be read"),
        ((LENET, "--policy", LENET), "cannot be read"),
        (("absent.onnx",), "absent.onnx"),
        ((LENET, "--target", "nvidia-t4"), "nvidia-t4.csv"),
    ],
)
def test_bad_input_is_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(QirError, match=message):
        _run(*arguments)


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """Latencies as HAWQ-V3 publishes them, without the first and the last layer."""
    path = tmp_path / "ILP.json"
    path.write_text('{"latency_int4": [0.2, 0.1], "latency_int8": [0.3, 0.2]}', encoding="utf-8")
    return path


@pytest.mark.named_nodes
def test_published_latencies_become_a_table_of_the_networks_layers(published: Path, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    without = ("--without", "/conv1/Conv", "--without", "/fc2/Gemm")
    _run("target", "import", str(published), str(out), "--network", LENET, *without)
    assert read_delay_table(out).at("/fc1/Gemm", 8, 8) == 0.2
    with pytest.raises(QirError, match="2 layers for 4 names"):
        _run("target", "import", str(published), str(out), "-n", LENET)
    with pytest.raises(QirError, match="did you mean '/conv1/Conv'"):
        _run("target", "import", str(published), str(out), "-n", LENET, "--without", "conv1/Conv")


@pytest.mark.named_nodes
def test_layers_that_a_published_table_leaves_out_are_unknown(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    without = ("--without", "/conv1/Conv", "--without", "/fc2/Gemm")
    _run("target", "import", str(published), "nvidia-t4.csv", "-n", "lenet", *without)
    output = " ".join(_run(LENET, "--target", "nvidia-t4").split())
    assert "unknown cost, not in the totals: /conv1/Conv, /fc2/Gemm" in output


@pytest.mark.named_nodes
@pytest.mark.parametrize("suffix", [".json", ".npy"])
def test_delay_tables_change_their_layout(tmp_path: Path, suffix: str) -> None:
    first, second, third = (tmp_path / name for name in ("a.npy", f"b{suffix}", "c.csv"))
    _run(LENET, "--target", "bismo-16x16x256", "--export", str(first))
    _run("target", "import", str(first), str(second))
    _run("target", "import", str(second), str(third), "--network", LENET)
    assert read_delay_table(third).at("/fc1/Gemm", 8, 8) == read_delay_table(first).at("2", 8, 8)


def test_a_target_is_fitted_to_measurements_alone(tmp_path: Path) -> None:
    lines = ["layer,weight_bits,activation_bits,delay,in_channels,out_channels,height,width,kernel,stride,padding,"]
    lines[0] += "groups,batch"
    for name, channels, cycles in (("a", 32, 100), ("b", 64, 400), ("c", 128, 1600)):
        lines.append(f"{name},8,8,{cycles},{channels},{channels},8,8,1x1,1x1,0x0x0x0,1,1")
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    saved = tmp_path / "fitted.json"
    output = _run("target", "fit", "systolic-16x16", str(tmp_path / "mine.csv"), "-o", str(saved))
    assert "pointwise: 3 measurements, median error" in output
    assert saved.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("[8]", "expected quantizer"), ('{"inputs": 8}', "did you mean 'input'"), ('{"input": 3}', "3 bits; the table")],
)
def test_policies_that_do_not_fit_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "policy.json").write_text(text, encoding="utf-8")
    with pytest.raises(QirError, match=message):
        _run(LENET, "-t", "npu-148", "--policy", str(tmp_path / "policy.json"))


@pytest.mark.named_nodes
def test_sizes_with_a_name_take_their_number_everywhere(tmp_path: Path) -> None:
    """A sequence of products whose second dimension is the batch, as recurrent networks have them."""
    graph = Graph("sequence")
    value = graph.add_input("x", TensorType(DType.FLOAT32, ("batch", "steps", 8)))
    turned = graph.insert(Node("Transpose", (value,), ("t",), name="turn", attributes={"perm": (1, 0, 2)})).result
    weight = graph.add_constant("w", Tensor.of(np.zeros((8, 16), np.float32)))
    graph.set_outputs([graph.insert(Node("MatMul", (turned, weight), ("y",), name="product")).result])
    module = Module(graph, opsets={"": 21})
    infer_graph(module)
    path = tmp_path / "sequence.onnx"
    qir.save(module, path)
    shown = _run(str(path), "--target", "bismo-16x16x256")
    assert "unknown cost" in shown
    assert "give the shape of x: qir cost --shape x=1,steps,8" in shown
    for shape, rows in (("x=1,32,8", 32), ("x=4,32,8", 128)):
        output = _run(str(path), "--target", "bismo-16x16x256", "--shape", shape, "--explain", "product")
        assert "unknown cost" not in output
        assert f"8/8 bits: {rows * 8 + 16 * 8 / 2:,.0f} cycles" in output


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ("input=1,3,28,28", "has 3 channels; its weights are made for 1"),
        ("input=1,1,28", "3 sizes; the input has 4 dimensions"),
        ("input=1,1,0,28", "size 0"),
    ],
)
def test_impossible_sizes_are_refused(shape: str, message: str) -> None:
    with pytest.raises(QirError, match=message):
        _run(LENET, "--shape", shape)


def test_a_quantized_file_is_costed_at_its_own_widths(tmp_path: Path) -> None:
    graph = Graph("quantized")
    value = graph.add_input("x", TensorType(DType.FLOAT32, (1, 8)))
    codes = np.arange(-16, 16, dtype=np.int8).reshape(8, 4)
    held = {"s": np.float32(0.1), "zx": np.uint8(128), "zw": np.int8(0), "codes": codes}
    scale, zero, middle, stored_weight = (
        graph.add_constant(name, Tensor.of(np.asarray(array))) for name, array in held.items()
    )
    stored = graph.insert(Node("QuantizeLinear", (value, scale, zero), ("q",))).result
    data = graph.insert(Node("DequantizeLinear", (stored, scale, zero), ("d",))).result
    weight = graph.insert(Node("DequantizeLinear", (stored_weight, scale, middle), ("w",))).result
    graph.set_outputs([graph.insert(Node("MatMul", (data, weight), ("y",), name="product")).result])
    module = Module(graph, opsets={"": 21})
    infer_graph(module)
    qir.save(module, tmp_path / "quantized.onnx")
    with pytest.raises(QirError, match="cannot multiply 8-bit activations by"):
        _run(str(tmp_path / "quantized.onnx"), "--target", "npu-148")
    output = _run(str(tmp_path / "quantized.onnx"), "--target", "bismo-16x16x256")
    assert "as in the file" in output
    assert "DequantizeLinear" not in output


def test_whole_names_are_printed_into_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    output = _run(LENET, "--target", "bismo-16x16x256")
    assert "(dram.activations)" in output
    assert "…" not in output


def test_referee_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QIR_VELA", "/absent/vela")
    with pytest.raises(MissingExtraError, match=r"qir\[vela\]"):
        _run(LENET, "--referee", "vela", "--target", "ethos-u55-128-like")
