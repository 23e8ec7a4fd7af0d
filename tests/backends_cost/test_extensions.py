"""Cost models and targets of other packages come in through entry points."""

import sys
import types
from importlib.metadata import EntryPoint

import pytest

from qir.backends import ConvShape, Cost, CostModel, load_target
from qir.backends.cost_models.validation import Strict
from qir.backends.target import Target


class _Parameters(Strict):
    macs_per_cycle: float


class _Flat(CostModel[_Parameters]):
    kind = "flat"
    parameters_type = _Parameters

    def matrix_cost(self, shape: ConvShape, weight_bits: int, activation_bits: int) -> Cost:
        cycles = shape.macs / self.parameters.macs_per_cycle
        return Cost(cycles=cycles, compute_cycles=cycles, bit_operations=shape.macs * weight_bits * activation_bits)


def _flat_target() -> Target:
    return Target.model_validate(
        {
            "name": "flat-npu",
            "weight_widths": (8,),
            "activation_widths": (8,),
            "memories": [{"name": "dram", "bits_per_cycle": 64}],
            "cost": {"kind": "flat", "parameters": {"macs_per_cycle": 4.0}},
        }
    )


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("flat_plugin")
    module.Flat, module.flat_target = _Flat, _flat_target
    monkeypatch.setitem(sys.modules, "flat_plugin", module)
    points = {
        "qir.cost_models": EntryPoint("flat", "flat_plugin:Flat", "qir.cost_models"),
        "qir.targets": EntryPoint("flat-npu", "flat_plugin:flat_target", "qir.targets"),
    }

    def entry_points(group: str, name: str | None = None) -> list[EntryPoint]:
        point = points[group]
        return [point] if name in {None, point.name} else []

    monkeypatch.setattr("qir.backends.cost_models.entry_points", entry_points)
    monkeypatch.setattr("qir.backends.target.entry_points", entry_points)


@pytest.mark.usefixtures("plugin")
def test_model_and_target_of_another_package_are_used() -> None:
    cost = load_target("flat-npu").cost_model().layer_cost(ConvShape(4, 4, 2, 2), 8, 8)
    assert cost.cycles == 16
