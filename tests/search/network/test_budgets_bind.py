"""A budget binds or is refused: sizes come from the samples, and what a cost does not count is told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qir import quantize
from qir.backends import cost_table, load_target
from qir.backends.costs.hardware import OpSupport
from qir.backends.costs.layers.open_sizes import SAMPLE_SHAPES
from qir.backends.costs.tables.table import CostTable
from qir.cli.options import parse_budgets
from qir.errors import InfeasibleError, QirError, SearchError
from qir.guide import read_guide
from qir.search import Budget, Decision, Problem, load_network, network_problem, prepare, recipe, solve
from qir.search.network.problem import read_budgets
from qir.search.problem.result import read_result

TARGET = load_target("npu-148")
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((16, 3, 12, 12)).astype(np.float32)


def weight(name, *shape):
    values = np.random.default_rng(len(name)).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return numpy_helper.from_array(values.astype(np.float32), name)


def conv(source, name, pads=(1, 1, 1, 1)):
    return helper.make_node("Conv", [source, f"{name}.w"], [name], name=name, pads=pads)


def write(path, nodes, shape, weights, domains=()):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])],
        weights,
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def three_convolutions(path, shape, middle=None):
    """Convolutions a, b, c; in front of b a node that is given, from `ar` to `m`."""
    nodes = [conv("x", "a"), helper.make_node("Relu", ["a"], ["ar"], name="ar"), *([middle] if middle else [])]
    nodes += [conv("m" if middle else "ar", "b"), helper.make_node("Relu", ["b"], ["br"], name="br"), conv("br", "c")]
    nodes += [helper.make_node("GlobalAveragePool", ["c"], ["p"], name="p")]
    nodes += [helper.make_node("Flatten", ["p"], ["y"], name="y")]
    weights = [weight("a.w", 8, 3, 3, 3), weight("b.w", 8, 8, 3, 3), weight("c.w", 8, 8, 3, 3)]
    return write(path, nodes, shape, weights, ["com.microsoft"] if middle else [])


def problem_of(path, images=IMAGES, target=TARGET, forget=False, input_widths="8", **budgets):
    module = load_network(path)
    constraints = prepare(module, target, images, input_widths=input_widths)
    if forget:
        del module.meta[SAMPLE_SHAPES]
    rng = np.random.default_rng(1)
    sensitivity = [sorted(rng.random(len(constraints.options[n])), reverse=True) for n in constraints.decisions]
    table = cost_table(module, target)
    return network_problem(module, constraints, table, budgets=read_budgets(budgets), sensitivity=sensitivity)


OPEN = [["N", 3, 12, 12], ["N", 3, "H", "W"], [None, 3, None, None], ["n", 3, "s", "s"]]


@pytest.mark.parametrize("shape", OPEN, ids=str)
def test_open_sizes_cost_what_the_sizes_of_the_samples_cost(shape, tmp_path):
    fixed = problem_of(three_convolutions(tmp_path / "fixed.onnx", [1, 3, 12, 12]))
    opened = problem_of(three_convolutions(tmp_path / "open.onnx", shape))
    policy = dict.fromkeys(fixed.names, 8)
    for name in fixed.cost_names:
        assert opened.cost(name, policy) == fixed.cost(name, policy) > 0
        assert not opened.left_out
    assert opened.references == fixed.references
    assert np.array_equal(opened.features, fixed.features)


def test_a_batch_that_is_reshaped_into_rows_is_costed_with_all_its_rows(tmp_path):
    nodes = [helper.make_node("Reshape", ["x", "rows"], ["q"], name="q")]
    nodes += [helper.make_node("Gemm", ["q", "a.w"], ["y"], name="a", transB=1)]
    weights = [weight("a.w", 4, 8), numpy_helper.from_array(np.array([-1, 8]), "rows")]
    samples = RNG.standard_normal((16, 12, 8)).astype(np.float32)
    made = {str(n): load_network(write(tmp_path / f"{n}.onnx", nodes, [n, 12, 8], weights)) for n in ("N", 1)}
    tables = {}
    for n, module in made.items():
        prepare(module, TARGET, samples)
        tables[n] = cost_table(module, TARGET)
    widest = tables["1"].uniform(8, 8)
    assert tables["N"].cost([widest])[0] == tables["1"].cost([widest])[0] > 0


@pytest.mark.parametrize("axes", [["T", "N", 8], ["seq_len", "batch_size", 8], ["N", "T", 8]], ids=str)
def test_the_batch_of_a_sequence_is_found_by_its_name(axes, tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "a.w"], ["y"], name="a")]
    module = load_network(write(tmp_path / "sequence.onnx", nodes, axes, [weight("a.w", 8, 4)]))
    steps_first = "atch" in axes[1] or axes[1] == "N"
    samples = RNG.standard_normal((20, 1, 8) if steps_first else (1, 20, 8)).astype(np.float32)
    prepare(module, TARGET, [samples])
    table = cost_table(module, TARGET)
    assert table.facts.sizes["x"] == samples.shape
    assert table.cost([table.uniform(8, 8)], "bit_operations")[0] == 20 * 8 * 4 * 64


def test_sizes_that_no_rule_gives_are_those_of_one_sample(tmp_path):
    middle = helper.make_node("QuickGelu", ["ar"], ["m"], name="m", domain="com.microsoft", alpha=1.7)
    made = problem_of(three_convolutions(tmp_path / "contrib.onnx", ["N", 3, "H", "W"], middle), latency="0.9x")
    plain = problem_of(three_convolutions(tmp_path / "plain.onnx", ["N", 3, "H", "W"]))
    policy = dict.fromkeys(made.names, 8)
    assert made.cost("bops", policy) == plain.cost("bops", dict.fromkeys(plain.names, 8))
    assert "QuickGelu" in made.left_out["latency"]


@pytest.mark.named_nodes
def test_what_a_budget_leaves_out_stands_in_result_certificate_summary_and_file(tmp_path):
    middle = helper.make_node("QuickGelu", ["ar"], ["m"], name="m", domain="com.microsoft", alpha=1.7)
    path = three_convolutions(tmp_path / "contrib.onnx", ["N", 3, "H", "W"], middle)
    result = solve(problem_of(path, latency="0.9x"), "milp")
    assert result.certificate.endswith("of the known part of latency")
    assert any("left out" in line and "m: the op QuickGelu" in line for line in result.lines("v"))
    assert any("1x3x12x12" in note for note in result.notes)
    result.save(tmp_path / "result.json")
    assert read_result(tmp_path / "result.json").left_out == result.left_out == {"latency": result.left_out["latency"]}


@pytest.mark.named_nodes
@pytest.mark.parametrize("name", ["latency", "energy", "bops", "peak-memory"])
def test_a_budget_on_a_cost_that_decisions_leave_unknown_is_refused(name, tmp_path):
    path = three_convolutions(tmp_path / "open.onnx", ["N", 3, "H", "W"])
    with pytest.raises(SearchError, match=r"would not bind") as caught:
        problem_of(path, forget=True, **{name: "0.6x"})
    if name != "peak-memory":
        assert "the cost of b, c" in str(caught.value)
        assert "--shape x=1,3,H,W" in str(caught.value)
        assert "freeze-inputs{shapes=[x:1x3xHxW]}" in str(caught.value)


@pytest.mark.named_nodes
def test_layers_that_the_target_cannot_run_are_named(tmp_path):
    refusing = TARGET.model_copy(update={"ops": {"Conv": OpSupport(supported=False)}})
    module = load_network(three_convolutions(tmp_path / "n.onnx", ["N", 3, 12, 12]))
    constraints = prepare(module, TARGET, IMAGES)
    table = cost_table(module, refusing)
    with pytest.raises(SearchError, match=r"b, c is unknown.*cannot run Conv"):
        network_problem(module, constraints, table, budgets=read_budgets({"latency": "0.6x"}))
    free = network_problem(module, constraints, table, budgets=read_budgets({"size": "0.6x"}))
    with pytest.raises(SearchError, match="cannot run Conv"):
        replace(free, budgets={"latency": Budget(ratio=0.5)})


def test_a_cost_that_the_target_does_not_give_is_refused(tmp_path):
    module = load_network(three_convolutions(tmp_path / "n.onnx", ["N", 3, 12, 12]))
    constraints = prepare(module, TARGET, IMAGES)
    table = cost_table(module, TARGET)
    rows = [
        replace(row, costs=tuple(tuple(c and replace(c, energy={}) for c in line) for line in row.costs))
        for row in table
    ]
    silent = CostTable(rows, table.widths, table.target, table.facts)
    with pytest.raises(SearchError, match="says nothing about energy"):
        network_problem(module, constraints, silent, budgets=read_budgets({"energy": "0.5x"}))


def decided(**changes):
    given = {
        "decisions": [Decision("a", (2, 8)), Decision("b", (2, 8))],
        "costs": {"same": [[3, 3], [4, 4]], "size": [[2, 8], [2, 8]]},
        "sensitivity": [[1, 0], [1, 0]],
    }
    return Problem(**{**given, **changes})


@pytest.mark.parametrize("method", ["milp", "pareto-dp", "greedy", "lagrangian", "exhaustive"])
def test_no_optimum_is_claimed_where_no_decision_changes_the_budget(method):
    result = solve(decided(budgets={"same": Budget(maximum=9)}), method)
    assert "optimal" not in result.certificate
    assert "no decision changes same: its budget limits nothing" in result.notes
    bound = solve(decided(budgets={"same": Budget(maximum=9), "size": Budget(maximum=10)}), method)
    assert "no decision changes same: its budget limits nothing" in bound.notes
    assert bound.costs["size"] == 10
    with pytest.raises(InfeasibleError, match="same"):
        solve(decided(budgets={"same": Budget(maximum=6)}), method)


def test_no_optimum_is_claimed_of_a_sensitivity_that_nothing_changes():
    result = solve(decided(budgets={"size": Budget(maximum=10)}, sensitivity=[[1, 1], [0, 0]]), "milp")
    assert "optimal" not in result.certificate
    assert any("sensitivity" in note for note in result.notes)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["latncy=0.5x"], "did you mean 'latency'"),
        (["speed=3"], "expected one of average-bits, bops, energy, latency, peak-memory, size"),
        (["latency=-1"], "above 0"),
        (["latency=nanx"], "above 0"),
        (["latency=0x"], "above 0"),
        (["latency=0"], "above 0"),
        (["latency=0.5x", "latency=0.4x"], "limited twice"),
        (["latency"], "name=limit"),
    ],
)
def test_budgets_that_limit_nothing_are_refused_when_read(texts, message):
    with pytest.raises(QirError, match=message):
        parse_budgets(texts)


def test_a_named_reference_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(SearchError, match="did you mean 'fp32'"):
        problem_of(three_convolutions(tmp_path / "n.onnx", ["N", 3, 12, 12]), size="0.1x fp23")


def test_a_weight_that_several_layers_read_is_stored_once(tmp_path):
    nodes, source = [], "x"
    for index in range(3):
        nodes.append(helper.make_node("Gemm", [source, "w"], [f"g{index}"], name=f"g{index}", transB=1))
        nodes.append(helper.make_node("Relu", [f"g{index}"], [f"r{index}"], name=f"r{index}"))
        source = f"r{index}"
    nodes.append(helper.make_node("Identity", [source], ["y"]))
    path = write(tmp_path / "shared.onnx", nodes, ["N", 16], [weight("w", 16, 16)])
    made = problem_of(path, RNG.standard_normal((16, 16)).astype(np.float32), input_widths="all")
    assert made.cost("size", dict.fromkeys(made.names, 8)) == 16 * 16 * 8
    assert made.cost("average-bits", dict.fromkeys(made.names, 8)) == 8


def test_quantize_keeps_a_latency_budget_of_a_network_with_open_sizes(tmp_path: Path):
    path = three_convolutions(tmp_path / "open.onnx", ["N", 3, "H", "W"])
    done = quantize(path, target=TARGET, data=IMAGES, budgets={"latency": "0.75x"}, output=tmp_path / "q.onnx")
    assert done.result is not None
    assert 0 < done.result.costs["latency"] <= done.result.limits["latency"]
    assert min(done.result.policy.values()) < 8
    guide = read_guide(done.written.guide)
    assert guide.cost_shapes == {"x": [1, 3, 12, 12]}
    assert guide.total_cycles == done.result.costs["latency"]


def test_recipes_cost_calibrated_networks_by_their_own_samples(tmp_path):
    module = load_network(three_convolutions(tmp_path / "open.onnx", ["N", 3, "H", "W"]))
    prepare(module, TARGET, IMAGES)
    del module.meta[SAMPLE_SHAPES]
    found = recipe("hawq-v3").run(module, target=TARGET, data=IMAGES, budget={"latency": "0.75x"}, metric_images=8)
    assert 0 < found.costs["latency"] <= found.limits["latency"]
    with pytest.raises(SearchError, match="did you mean 'latency'"):
        recipe("hawq-v3").run(module, target=TARGET, data=IMAGES, budget={"latenz": "0.75x"})


def test_quantize_refuses_peak_memory_before_it_measures(tmp_path):
    path = three_convolutions(tmp_path / "open.onnx", ["N", 3, "H", "W"])
    with pytest.raises(QirError, match="peak-memory are kept by searches that measure"):
        quantize(path, target=TARGET, data=IMAGES, budgets={"peak-memory": "0.7x"}, output=tmp_path / "q.onnx")


def test_a_budget_may_be_a_number_in_the_costs_unit():
    found = read_budgets({"average-bits": 4, "size": 2.5e6, "latency": "0.5x"})
    assert found == {"average-bits": Budget(maximum=4), "size": Budget(maximum=2.5e6), "latency": Budget(ratio=0.5)}
    with pytest.raises(SearchError, match="above 0"):
        read_budgets({"size": -1})
