"""Cost tables of whole networks: totals, illegal and unknown entries, reports."""

from pathlib import Path

import numpy as np
import pytest

import qir
from qir.backends import cost_table, load_target
from qir.backends.costs.layers.cost import Cost
from qir.backends.costs.tables.reports import (
    critical_path,
    explain_costs,
    model_bytes,
    peak_memory,
    ratios,
    transfer_matrix,
)
from qir.backends.costs.tables.rows import CostRow, HeldTensor, HeldWeight, NetworkFacts
from qir.backends.costs.tables.table import CostTable
from qir.errors import TargetError
from qir.policy import Policy

MODELS = Path(__file__).resolve().parents[3] / "models" / "trained"


@pytest.fixture(scope="module")
def lenet() -> CostTable:
    return cost_table(qir.load(MODELS / "lenet_fashion_mnist.onnx"), "npu-148")


def _row(name: str, cycles: float, step: int) -> CostRow:
    return CostRow(name, "Conv", name, None, None, (8,), (8,), ((Cost(cycles, cycles),),), step=step)


def test_totals_are_the_sums_of_the_rows(lenet: CostTable) -> None:
    for activation_bits, weight_bits in ((8, 8), (4, 4), (2, 1)):
        policy = lenet.uniform(activation_bits, weight_bits)
        for metric in ("cycles", "energy_pj", "total_bytes", "bit_operations"):
            wanted = sum(getattr(row.cost, metric) for row in lenet.rows(policy))
            assert lenet.cost([policy], metric)[0] == pytest.approx(wanted)


def test_many_policies_cost_as_one_by_one(lenet: CostTable) -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 3, (9000, len(lenet.widths)), dtype=np.int8)
    whole = lenet.cost_codes(codes)
    for index in (0, 1, 4095, 4096, 8999):
        policy = {name: lenet.widths[name][code] for name, code in zip(lenet.widths, codes[index], strict=True)}
        assert lenet.cost([policy])[0] == whole[index]


def test_policies_of_every_form_cost_the_same(lenet: CostTable) -> None:
    wide, narrow = lenet.uniform(8, 8), lenet.uniform(4, 4)
    turned = dict(reversed(wide.items()))
    costs = lenet.cost([wide, turned, Policy(wide), narrow, Policy(narrow)])
    assert costs[0] == costs[1] == costs[2] > costs[3] == costs[4]
    assert Policy(wide)["input"] == wide["input"]
    with pytest.raises(KeyError):
        Policy(wide)["inputs"]


def test_what_is_not_a_list_of_policies_is_refused(lenet: CostTable) -> None:
    wide = lenet.uniform(8, 8)
    for policies, message in (
        (wide, "found one policy"),
        ([8], "found int among the policies"),
        ([wide | {"input": 8.5}], "8.5 bits"),
        ([wide | {"input": 300}], "300 bits"),
        ([{}], "leaves out quantizer 'input'"),
    ):
        with pytest.raises(TargetError, match=message):
            lenet.cost(policies)
    with pytest.raises(TargetError, match="along channels"):
        lenet.codes([wide | {"input": (8, 4)}])


def test_illegal_pairs_cost_infinity_and_raise_in_rows(lenet: CostTable) -> None:
    policy = lenet.uniform(8, 4)
    assert lenet.cost([policy])[0] == np.inf
    with pytest.raises(TargetError, match="cannot multiply 8-bit"):
        lenet.rows(policy)


def test_wrong_policies_are_named(lenet: CostTable) -> None:
    policy = lenet.uniform(8, 8)
    name = next(iter(policy))
    with pytest.raises(TargetError, match="the table holds"):
        lenet.cost([policy | {name: 3}])
    with pytest.raises(TargetError, match=r"no quantizer 'inputs'.*did you mean"):
        lenet.cost([policy | {"inputs": 8}])
    with pytest.raises(TargetError, match="metric"):
        lenet.cost([policy], "cycle")


def test_channels_of_two_widths_cost_in_proportion(lenet: CostTable) -> None:
    policy = lenet.uniform(8, 8)
    name = next(name for name in policy if name.endswith(".weight"))
    full = lenet.cost([policy])[0]
    pruned = lenet.cost([policy | {name: (8, 0)}])[0]
    layer = next(row.cycles for row in lenet.rows(policy) if f"{row.node}.weight" == name)
    assert full - pruned == pytest.approx(layer / 2)


def test_unknown_costs_are_never_zero_in_silence() -> None:
    unknown = CostRow("odd", "Mystery", "odd", None, None, (32,), (0,), ((None,),), known=False)
    table = CostTable([_row("conv", 5.0, 0), unknown], {}, "x")
    with pytest.raises(TargetError, match="cost of odd is unknown"):
        table.cost([{}])
    assert table.cost([{}], unknown="ignore")[0] == 5
    assert table.unknown == ("odd",)
    assert np.isnan(unknown.matrix("cycles")).all()


def test_critical_path_takes_the_longer_branch() -> None:
    rows = [_row(name, cycles, step) for step, (name, cycles) in enumerate([("a", 1), ("b", 5), ("c", 2), ("d", 1)])]
    before = {0: frozenset(), 1: frozenset({0}), 2: frozenset({0}), 3: frozenset({1, 2})}
    table = CostTable(rows, {}, "x", NetworkFacts(before))
    found = critical_path(table, {})
    assert found.cycles == 7
    assert found.nodes == ("a", "b", "d")


def test_peak_memory_is_the_largest_cut() -> None:
    tensors = (HeldTensor(80, "q", 32, 0, 1), HeldTensor(8, None, 32, 1, 2), HeldTensor(16, "q", 32, 2, 3))
    table = CostTable([], {"q": (4, 8)}, "x", NetworkFacts(tensors=tensors))
    assert peak_memory(table, [{"q": 8}, {"q": 4}]).tolist() == [80 + 32, 40 + 32]


def test_model_size_counts_packed_bits_scales_and_float_constants() -> None:
    weights = (HeldWeight(100, "w", 10), HeldWeight(10, None, 0))
    table = CostTable([], {"w": (1, 8)}, "x", NetworkFacts(weights=weights))
    assert model_bytes(table, [{"w": 1}, {"w": 8}]).tolist() == [(100 + 320 + 320) / 8, (800 + 320 + 320) / 8]


def test_ratios_of_uniform_policies(lenet: CostTable) -> None:
    eight, four = (ratios(lenet, lenet.uniform(b, b)) for b in (8, 4))
    assert eight["haq_latency"] == 1
    assert eight["haq_weights"] == pytest.approx(4)
    assert eight["hawq_bops"] == pytest.approx(16)
    assert four["haq_weights"] == pytest.approx(8)
    assert four["haq_latency"] < 1


def test_explanation_says_where_fewer_bits_stop_helping() -> None:
    module = qir.load(MODELS / "lenet_fashion_mnist.onnx")
    table = cost_table(module, "bitfusion-e")
    layer = next(row.name for row in table if row.op == "Conv")
    found = explain_costs(table, layer)
    assert found.bound_by[8, 8]
    assert any("change nothing" in line for line in found.stops)
    with pytest.raises(TargetError, match="no layer"):
        explain_costs(table, "absent")


def test_policies_are_costed_on_other_targets() -> None:
    module = qir.load(MODELS / "lenet_fashion_mnist.onnx")
    tables = {name: cost_table(module, name) for name in ("bismo-16x16x256", "bismo-ultra96")}
    policies = {
        "bismo-16x16x256": tables["bismo-16x16x256"].uniform(4, 2),
        "bismo-ultra96": tables["bismo-ultra96"].uniform(2, 4),
    }
    matrix = transfer_matrix(tables, policies)
    assert matrix.shape == (2, 2)
    assert np.isfinite(matrix).all()


@pytest.mark.parametrize("network", ["lenet_fashion_mnist", "residual_fashion_mnist", "resnet20_fashion_mnist"])
def test_every_node_of_the_shipped_networks_is_costed(network: str) -> None:
    module = qir.load(MODELS / f"{network}.onnx")
    for name in ("npu-148", "systolic-16x16", "ethos-u55-128-like"):
        table = cost_table(module, name)
        assert not table.unknown
        assert peak_memory(table, [table.uniform(8, 8)])[0] > 0
        assert critical_path(table, table.uniform(8, 8)).cycles <= table.cost([table.uniform(8, 8)])[0] + 1e-6


def test_a_target_is_an_object_a_name_or_a_file(tmp_path: Path) -> None:
    module, target = qir.load(MODELS / "lenet_fashion_mnist.onnx"), load_target("npu-148")
    target.save(tmp_path / "mine.json")
    tables = [cost_table(module, given) for given in (target, "npu-148", tmp_path / "mine.json")]
    costs = [float(table.cost([table.uniform(8, 4)])[0]) for table in tables]
    assert costs[0] == costs[1] == costs[2] > 0
