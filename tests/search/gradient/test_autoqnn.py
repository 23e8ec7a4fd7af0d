import numpy as np
import pytest
import torch

from qir.backends.torch.module import TorchModule
from qir.backends.torch.quantizers import get_torch_scheme
from qir.errors import DataError, SearchError
from qir.fake_quant import FakeQuant, make_fake_quant, quantizers
from qir.granularity import PerBlock
from qir.graph import Graph, Node
from qir.module import Module
from qir.quantizers import get_scheme
from qir.search.gradient.autoqnn import CANDIDATES, AutoQnn
from qir.search.gradient.autoqnn_protocol import AutoQnnProtocol
from qir.search.gradient.differentiable_cost import CostTerm, ExpectedCost, average_bits, precision_loss
from qir.search.gradient.learned_bits import FollowingBits, LearnedBits
from qir.search.gradient.relaxed import RunningGrid, SoftChoice, soft_weights, temperature
from qir.search.gradient.rounding import round_within
from qir.search.problem.parts import Decision, PairCost
from qir.search.problem.problem import Problem
from qir.tensor import Tensor
from qir.types import DType, TensorType

WIDTHS = (2, 3, 4, 5, 6, 7, 8)
FAST = AutoQnnProtocol(scheme_epochs=3, precision_epochs=6, batch=32, bits_rate=0.1)


def data(count=256):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 8)).astype(np.float32)
    return x, (x[:, 0] * x[:, 1] + x[:, 2] > 0).astype(np.int64)


def network(widths=WIDTHS):
    rng = np.random.default_rng(1)
    graph = Graph("small")
    value = graph.add_input("x", TensorType(DType.FLOAT32, ("batch", 8)))
    module = Module(graph)
    for index, (inputs, outputs) in enumerate([(8, 24), (24, 2)]):
        weight = graph.add_constant(
            f"w{index}", Tensor.of((rng.normal(size=(outputs, inputs)) * 0.4).astype(np.float32))
        )
        bias = graph.add_constant(f"b{index}", Tensor.of(np.zeros(outputs, np.float32)))
        made = []
        for name, operand, signed in ((f"x{index}", value, index == 0), (f"weight{index}", weight, True)):
            node = graph.insert(make_fake_quant(operand, name=name, bits=8, widths=widths, signed=signed))
            FakeQuant(node).calibration = np.tile(
                np.array([-3.0 if signed else 0.0, 3.0], np.float32), (len(widths), 1, 1)
            )
            made.append(node.result)
        layer = graph.insert(
            Node("Gemm", (*made, bias), (f"y{index}",), name=f"layer{index}", attributes={"transB": 1})
        )
        value = layer.result
        if index == 0:
            value = graph.insert(Node("Relu", (value,), ("a",), name="relu")).result
    graph.set_outputs([value], ["logits"])
    return module


@pytest.mark.parametrize("scheme", ["clipq", "potq", "resq", "zoomq", "lsq", "wrpn"])
def test_grids_of_unsigned_quantizers_hold_the_negative_values_they_see(scheme):
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    grid = RunningGrid(get_torch_scheme(scheme), False, None, 0.9)
    error = (grid.fake_quantize(x, 4, True) - x)[x < 0]
    assert error.square().mean() < 0.1
    positive = RunningGrid(get_torch_scheme(scheme), False, None, 0.9)
    positive.fake_quantize(x.relu(), 4, True)
    assert not positive.signed


def test_temperature_follows_equation_three():
    assert temperature(0, 10, 5.0, 2.0) == 5.0
    assert temperature(5, 10, 5.0, 2.0) == pytest.approx(1.25)
    assert temperature(10, 10, 5.0, 2.0) == 1e-3


def test_gumbel_draws_follow_the_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    winners = [int(soft_weights(logits, 1.0, generator).argmax()) for _ in range(4000)]
    share = np.bincount(winners, minlength=3) / 4000
    np.testing.assert_allclose(share, torch.softmax(logits, 0).numpy(), atol=0.03)


def test_soft_choice_equals_one_scheme_when_cold_and_the_mean_when_hot():
    x = torch.randn(200, generator=torch.Generator().manual_seed(0))
    grids = [RunningGrid(get_torch_scheme(name), True, None, 0.0) for name in ("clipq", "fixedq")]
    choice = SoftChoice(grids, [3, 3], torch.nn.Parameter(torch.tensor([1.0, 0.0])), torch.Generator())
    choice.eval()
    outputs = [grid.fake_quantize(x, 3, True) for grid in grids]
    choice.temperature = 1e-3
    torch.testing.assert_close(choice(x), outputs[0])
    choice.temperature = 1e6
    torch.testing.assert_close(choice(x), (outputs[0] + outputs[1]) / 2, rtol=1e-4, atol=1e-5)


def test_soft_choice_gradient_equals_finite_differences():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    upstream = torch.randn(50, generator=torch.Generator().manual_seed(1))
    grids = [RunningGrid(get_torch_scheme(name), True, None, 0.0) for name in ("clipq", "potq", "resq")]
    theta = torch.nn.Parameter(torch.tensor([0.3, -0.2, 0.1]))
    choice = SoftChoice(grids, [3] * 3, theta, torch.Generator()).eval()
    (choice(x) * upstream).sum().backward()
    for index in range(3):
        values = []
        for step in (1e-2, -1e-2):
            moved = theta.detach().clone()
            moved[index] += step
            moved_choice = SoftChoice(grids, [3] * 3, torch.nn.Parameter(moved), torch.Generator()).eval()
            values.append((moved_choice(x) * upstream).sum().item())
        assert theta.grad[index].item() == pytest.approx((values[0] - values[1]) / 2e-2, rel=2e-2, abs=1e-3)


@pytest.mark.parametrize("name", ["clipq", "zoomq", "uniform"])
def test_bits_have_the_gradient_of_equation_five(name):
    """Against finite differences of the smoothed quantizer: H is linear with slope 1 around its value."""
    generator = torch.Generator().manual_seed(0)
    x, upstream = torch.randn(400, generator=generator).double(), torch.randn(400, generator=generator).double()
    quantizer = LearnedBits(RunningGrid(get_torch_scheme(name), True, None, 0.0), WIDTHS, 4.0)
    (quantizer(x.float()) * upstream.float()).sum().backward()
    quantized = quantizer.grid.fake_quantize(x.float(), 4, False).double()
    span = float(x.max() - x.min())

    def smoothed(bits):
        step, here = span / 2**bits, span / 2**4
        return float((step * (quantized / here + (x / step - x / here)) * upstream).sum())

    expected = (smoothed(4 + 1e-5) - smoothed(4 - 1e-5)) / 2e-5
    assert quantizer.bits.grad.item() == pytest.approx(expected, rel=1e-3)


def test_bits_compute_with_the_nearest_legal_width_and_stay_in_bounds():
    quantizer = LearnedBits(RunningGrid(get_torch_scheme("potq"), True, None, 0.0), (1, 2, 3, 4), 9.0)
    assert quantizer.width == 4
    with torch.no_grad():
        quantizer.bits.fill_(2.4)
    assert quantizer.width == 2
    x = torch.randn(100)
    expected = get_scheme("potq").fake_quantize(x.numpy(), get_scheme("potq").fit_parameters(x.numpy(), 2, True))
    np.testing.assert_array_equal(quantizer(x).detach().numpy(), expected)
    with torch.no_grad():
        quantizer.bits.fill_(-3.0)
    quantizer.clamp()
    assert quantizer.bits.item() == 1.0
    quantizer.fix(3)
    assert quantizer.width == 3
    assert not quantizer.bits.requires_grad


def test_precision_loss_counts_values_and_has_its_gradient():
    bits = {"a": torch.tensor(4.0, requires_grad=True), "b": torch.tensor(2.0, requires_grad=True)}
    loss = precision_loss(average_bits(bits, {"a": 30, "b": 10}), 3.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.25)
    assert bits["a"].grad.item() == pytest.approx(2 * 0.5 * 0.75)
    assert bits["b"].grad.item() == pytest.approx(2 * 0.5 * 0.25)


def test_expected_cost_is_exact_at_widths_and_linear_between():
    term = CostTerm("a", "w", (2, 4, 8), (2, 8), np.array([[1.0, 2.0], [3.0, 5.0], [10.0, 20.0]]))
    cost = ExpectedCost([term, CostTerm(None, "w", (32,), (2, 8), np.array([[4.0, 8.0]]))])
    assert cost.at({"a": 4, "w": 8}) == 13.0
    assert cost.at({"a": 8, "w": 2}) == 14.0
    bits = {"a": torch.tensor(3.0, requires_grad=True), "w": torch.tensor(5.0, requires_grad=True)}
    value = cost(bits)
    value.backward()
    assert value.item() == pytest.approx((1 + 2 + 3 + 5) / 4 + 6)
    assert bits["a"].grad.item() == pytest.approx(((3 + 5) - (1 + 2)) / 2 / 2)
    assert bits["w"].grad.item() == pytest.approx(((2 - 1) + (5 - 3)) / 2 / 6 + 4 / 6)


def test_expected_cost_refuses_unknown_and_illegal_entries():
    with pytest.raises(SearchError, match="finite"):
        ExpectedCost([CostTerm("a", None, (2, 4), (32,), np.array([[1.0], [np.inf]]))])


def test_rounding_never_leaves_the_budget():
    widths = {"a": (2, 4, 8), "b": (2, 4, 8)}
    average = lambda w: (w["a"] + w["b"]) / 2  # noqa: E731
    assert round_within({"a": 3.6, "b": 3.2}, widths, average, 3.5) == {"a": 4, "b": 2}
    weighted = lambda w: 0.9 * w["a"] + 0.1 * w["b"]  # noqa: E731
    assert round_within({"a": 3.97, "b": 3.2}, widths, weighted, 3.9) == {"a": 4, "b": 2}
    assert round_within({"a": 3.1, "b": 3.2}, widths, weighted, 3.9) == {"a": 2, "b": 4}
    with pytest.raises(SearchError, match="smallest widths"):
        round_within({"a": 3.0, "b": 3.0}, widths, average, 1.0)


def test_algorithm_two_ends_within_the_target_and_can_be_written_back():
    images, labels = data()
    module = network()
    run = AutoQnn(module, images, labels, FAST)
    found = run.search_schemes(candidates=("fixedq", "zoomq", "clipq", "potq", "resq", "binary"), bits=3)
    assert set(found.schemes) == {"x0", "weight0", "x1", "weight1"}
    assert len(found.probabilities) == 3
    assert sum(found.probabilities[-1]["x0"].values()) == pytest.approx(1.0)
    assert "binary" not in found.probabilities[-1]["x0"]
    precision = run.learn_precision(found.schemes, target=3.5)
    assert precision.average <= 3.5 + 1e-9
    assert len(precision.losses) == 6
    assert precision.losses[3] < precision.losses[0]
    made = run.finish(found.schemes, precision.policy)
    nodes = quantizers(made.graph)
    assert {name: node.bits for name, node in nodes.items()} == dict(precision.policy)
    assert {name: node.scheme_name(node.bits) for name, node in nodes.items()} == found.schemes
    assert all(node.bits == 8 for node in quantizers(module.graph).values())
    (logits,) = TorchModule(made)(torch.from_numpy(images))
    assert (logits.argmax(1).numpy() == labels).mean() > 0.6


def test_levels_of_residual_binaries_are_written_back():
    images, labels = data(64)
    run = AutoQnn(network(), images, labels, FAST)
    schemes = dict.fromkeys(run.decided, "resq")
    precision = run.learn_precision(schemes, target=3.0, widths=(3,))
    weight = quantizers(run.finish(schemes, precision.policy).graph)["weight0"]
    scheme, constant = get_scheme("resq"), weight.source.constant.numpy()
    expected = scheme.fake_quantize(constant, run._grids["weight0"]._grid(3))
    np.testing.assert_allclose(scheme.fake_quantize(constant, weight.grid()), expected, atol=1e-5)


def test_all_eight_schemes_of_the_paper_compete_for_weights():
    """Section 5: binary, ternary and quaternary serve weights, not activations."""
    images, labels = data(64)
    found = AutoQnn(network((1, *WIDTHS)), images, labels, FAST).search_schemes().probabilities[-1]
    assert set(found["weight0"]) == set(found["weight1"]) == set(CANDIDATES)
    assert set(CANDIDATES) - set(found["x1"]) == {"binary", "ternary", "quaternary"}
    wider = AutoQnn(network(), images, labels, FAST).search_schemes().probabilities[-1]
    assert set(CANDIDATES) - set(wider["weight0"]) == {"binary"}  # 1 bit is not among its widths


def test_model_wide_search_shares_one_scheme_per_kind():
    images, labels = data(64)
    found = AutoQnn(network(), images, labels, FAST).search_schemes(granularity="model")
    assert found.schemes["weight0"] == found.schemes["weight1"]


def test_cost_can_take_the_place_of_average_bits():
    images, labels = data()
    run = AutoQnn(network(), images, labels, FAST)
    table = np.outer(WIDTHS, WIDTHS).astype(float)
    cost = ExpectedCost(
        [CostTerm(f"x{i}", f"weight{i}", WIDTHS, WIDTHS, table * (24 if i == 0 else 6)) for i in (0, 1)]
    )
    result = run.learn_precision({}, target=30 * 16.0, cost=cost)
    assert result.average <= 480.0
    assert cost.at({name: int(bits) for name, bits in result.policy.items()}) == pytest.approx(result.average)


def test_same_seed_same_result():
    images, labels = data(128)
    one, two = (AutoQnn(network(), images, labels, FAST).search_schemes() for _ in range(2))
    assert one.losses == two.losses
    assert one.probabilities == two.probabilities


def test_data_and_networks_that_do_not_fit_are_refused():
    images, labels = data(10)
    with pytest.raises(DataError, match="as many of both"):
        AutoQnn(network(), images, labels[:9])
    blocked = network()
    quantizers(blocked.graph)["weight0"].granularity = PerBlock(0, 4)
    with pytest.raises(SearchError, match="blocks of scales"):
        AutoQnn(blocked, images, labels).search_schemes()
    with pytest.raises(SearchError, match="granularity"):
        AutoQnn(network(), images, labels).search_schemes(granularity="channel")


def test_bits_that_follow_are_linear_between_the_widths_of_their_source():
    grid = RunningGrid(get_torch_scheme("uniform"), True, None, 0.0)
    source = LearnedBits(RunningGrid(get_torch_scheme("uniform"), False, None, 0.0), (2, 4, 8), 3.0)
    follower = FollowingBits(grid, source, {2: 1, 4: 4, 8: 8})
    assert follower.bits.item() == pytest.approx(2.5)
    follower.bits.backward()
    assert source.bits.grad.item() == pytest.approx(1.5)
    for learned, width, bits in ((2.0, 1, 1.0), (3.9, 4, 3.85), (4.0, 4, 4.0), (7.0, 8, 7.0), (8.0, 8, 8.0)):
        with torch.no_grad():
            source.bits.fill_(learned)
        assert follower.width == width
        assert follower.bits.item() == pytest.approx(bits)
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    source.bits.grad = None
    follower(x).square().sum().backward()
    assert source.bits.grad is not None
    assert list(follower.parameters()) == []
    only = FollowingBits(grid, source, {4: 8})
    assert only.bits.item() == 8.0


def test_the_cost_of_a_problem_is_exact_at_its_options_and_finite_at_illegal_pairs():
    problem = Problem(
        decisions=[Decision("a", (2, 4)), Decision("w", (2, 4, 8))],
        costs={"latency": [[1.0, 2.0], [0.0, 1.0, 5.0]]},
        pair_costs={"latency": [PairCost("a", "w", [[1.0, 2.0, np.inf], [2.0, 3.0, 4.0]])]},
        fixed_costs={"latency": 7.0},
        sensitivity=[[0.0] * 2, [0.0] * 3],
    )
    cost = ExpectedCost.of_problem(problem, "latency")
    for a in (2, 4):
        for w in (2, 4, 8):
            if (a, w) != (2, 8):
                assert cost.at({"a": a, "w": w}) == pytest.approx(problem.cost("latency", {"a": a, "w": w}))
    assert cost.at({"a": 2, "w": 8}) == pytest.approx(1 + 5 + 4 + 7)


def test_a_fixed_quantizer_keeps_the_ranges_that_its_weight_was_trained_at():
    images, labels = data(64)
    module = network()
    node = quantizers(module.graph)["weight1"]
    before = node.grid(8).scale
    node.widths = (8,)
    run = AutoQnn(module, images, labels, FAST)
    precision = run.learn_precision({}, 4.0)
    made = quantizers(run.finish(dict.fromkeys(run.decided, "uniform"), precision.policy).graph)["weight1"]
    np.testing.assert_array_equal(made.grid().scale, before)
    weights = [n.source.constant.numpy() for n in (node, made)]
    assert not np.array_equal(*weights)
