"""`qir cost` prints a table, explains a layer, writes delay tables and refuses bad input."""

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from qir.backends.delay_table import read_delay_table
from qir.cli.cost import register
from qir.errors import QirError

LENET = str(Path(__file__).resolve().parents[2] / "models" / "lenet_fashion_mnist.onnx")


def _run(*arguments: str) -> str:
    app = typer.Typer()
    app.callback()(lambda: None)
    register(app)
    result = CliRunner().invoke(app, ["cost", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


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
    assert "bitfusion" in _run("--list")
    assert "weight_widths" in _run("--schema")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LENET, "--target", "npu-149"), "did you mean 'npu-148'"),
        ((LENET, "--shape", "inputs=1,1,28,28"), "did you mean 'input'"),
        ((LENET, "--shape", "input=one"), "expected name="),
        ((LENET, "--explain", "absent"), "no layer"),
        ((LENET, "--batch", "0"), "batch 0"),
        ((), "no model"),
    ],
)
def test_bad_input_is_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(QirError, match=message):
        _run(*arguments)
