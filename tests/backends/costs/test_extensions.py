"""The cost model and the target that CONTRIBUTING shows work when another package brings them."""

import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

import qir
from qir.backends import ConvShape, Target, cost_table, load_target, target_names
from qir.backends.costs.models import COST_MODELS
from qir.cli.main import make_app
from qir.errors import TargetError

ROOT = Path(__file__).resolve().parents[3]
LENET = ROOT / "models" / "trained" / "lenet_fashion_mnist.onnx"


def _block(language: str) -> str:
    """The code that CONTRIBUTING shows under its section on cost models."""
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## A cost model and a target")[2]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package as `pip install` leaves it: the module, and the entry points next to it."""
    (tmp_path / "toy_npu.py").write_text(_block("python"), encoding="utf-8")
    groups = tomllib.loads(_block("toml"))["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups.items()]
    folder = tmp_path / "toy_npu-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-npu\nVersion: 1.0\n", encoding="utf-8")
    (folder / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("toy_npu", None)


def test_example_has_at_most_thirty_lines_of_code() -> None:
    lines = [line for line in _block("python").splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 30


@pytest.mark.usefixtures("installed")
def test_model_and_target_of_another_package_are_used() -> None:
    assert "toy-npu" in target_names()
    assert "toy" in COST_MODELS
    cost = load_target("toy-npu").cost_model().layer_cost(ConvShape(64, 64, 8, 8), 4, 8)
    assert cost.cycles == 64 * 64 * 64 / 128 / 2
    assert cost.bound_by == "compute"
    table = cost_table(qir.load(LENET), "toy-npu")
    assert table.cost([table.uniform(8, 4)])[0] < table.cost([table.uniform(8, 8)])[0]


@pytest.mark.usefixtures("installed")
def test_the_command_knows_them_and_their_mistakes() -> None:
    result = CliRunner().invoke(make_app(), ["cost", str(LENET), "--target", "toy-npu"])
    assert result.exit_code == 0
    assert "toy-npu" in result.output
    with pytest.raises(TargetError, match="did you mean 'toy-npu'"):
        load_target("toy-npus")
    data = load_target("toy-npu").model_dump()
    data["cost"]["parameters"]["macs_per_cycle"] = -1
    with pytest.raises(TargetError, match="macs_per_cycle"):
        Target.model_validate(data).cost_model()
