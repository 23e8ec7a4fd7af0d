"""Each kind of thing can come from another package: one entry point, and qir knows it by name."""

import sys

import numpy as np
import pytest

import qir
from qir import models
from qir.backends import cost_table, load_target, target_names
from qir.backends.costs.models import COST_MODELS
from qir.errors import QirError
from qir.fake_quant import FakeQuant
from qir.graph import Graph, Value
from qir.module import Module
from qir.passes import PassManager, available_passes, export, find_pass, parse_pipeline
from qir.passes.data.samples import batches
from qir.passes.data.sources import READERS
from qir.passes.infrastructure.registry import PASSES
from qir.passes.lowering.profiles.profiles import find_profile, profile_names
from qir.quantizers import get_scheme, scheme_names
from qir.registry import Registry
from qir.search import METHODS, Decision, Problem, recipe, reward, solve
from qir.search.environment.rewards import REWARDS, RewardInputs
from qir.search.metrics.measuring import METRICS, measure
from qir.search.network.preparation import load_network, prepare
from qir.search.recipes.table import RECIPES
from qir.types import DType, TensorType

SOURCE = """
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from qir.backends import Cost, CostModel, load_target
from qir.backends.costs.layers.validation import Strict
from qir.passes import Pass
from qir.passes.data.kinds.source import Source
from qir.passes.data.sources import Reader
from qir.passes.lowering.profiles.profiles import find_profile
from qir.quantizers.affine.uniform import Uniform
from qir.search.problem.sensitivity import Sensitivity
from qir.search.recipes.table import recipe
from qir.search.solvers.run import Outcome


@dataclass(frozen=True)
class CountNodes(Pass):
    name: ClassVar[str] = "count-nodes"

    def run(self, module, context):
        context.reports[self.name] = len(module.graph)
        return False


class Free(Strict):
    pass


class FreeModel(CostModel[Free]):
    kind = "free-of-charge"
    parameters_type = Free

    def matrix_cost(self, shape, weight_bits, activation_bits):
        return Cost(cycles=1.0, compute_cycles=1.0)


def lucky_chip():
    base = load_target("npu-148")
    cost = base.cost.model_copy(update={"kind": "free-of-charge", "parameters": {}})
    return base.model_copy(update={"name": "lucky-chip", "cost": cost})


@dataclass(frozen=True)
class Plain(Uniform):
    name: ClassVar[str] = "plain-uniform"


PLAIN = Plain()


def narrowest(run):
    row = np.zeros(len(run.problem.decisions), dtype=int)
    return Outcome(row=row)


def ones(network, constraints, images):
    found = {(name, bits): 1.0 for name in constraints.options for bits in constraints.options[name]}
    return Sensitivity("ones", found, 0)


def doubled(inputs, factor=2.0):
    return factor * inputs.accuracy


DOUBLED = replace(recipe("zeroq"), name="zeroq-twice", metric="ones", metric_options={})
def dotted(path, module, preprocessing, most):
    rows = [[line.count("."), len(line)] for line in path.read_text().splitlines()]
    return Source((np.asarray(rows, np.float32),), "lines of dots", len(rows))


DOTS = Reader(dotted)
RENAMED = find_profile("qcdq").model_copy(update={"name": "renamed-qcdq"})
"""

POINTS = {
    "qir.passes": ("count-nodes", "CountNodes"),
    "qir.cost_models": ("free-of-charge", "FreeModel"),
    "qir.targets": ("lucky-chip", "lucky_chip"),
    "qir.schemes": ("plain-uniform", "PLAIN"),
    "qir.methods": ("narrowest", "narrowest"),
    "qir.metrics": ("ones", "ones"),
    "qir.rewards": ("doubled", "doubled"),
    "qir.recipes": ("zeroq-twice", "DOUBLED"),
    "qir.profiles": ("renamed-qcdq", "RENAMED"),
    "qir.readers": ("dots", "DOTS"),
}
LOOKUPS = {
    "qir.passes": find_pass,
    "qir.cost_models": COST_MODELS.__getitem__,
    "qir.targets": load_target,
    "qir.schemes": get_scheme,
    "qir.methods": METHODS.__getitem__,
    "qir.metrics": METRICS.__getitem__,
    "qir.rewards": reward,
    "qir.recipes": recipe,
    "qir.profiles": find_profile,
    "qir.readers": READERS.__getitem__,
}


def install(folder, monkeypatch, source, points):
    """A package as `pip install` leaves it: the module, and the entry points next to it."""
    (folder / "brought.py").write_text(source, encoding="utf-8")
    info = folder / "brought-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brought\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"[{group}]\n{name} = brought:{attribute}\n" for group, (name, attribute) in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.syspath_prepend(folder)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, SOURCE, POINTS)
    yield
    sys.modules.pop("brought", None)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).uniform(0, 1, (8, 1, 28, 28)).astype(np.float32)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("group", POINTS)
def test_a_misspelt_name_gets_the_nearest_and_may_be_one_of_another_package(group):
    name = POINTS[group][0]
    assert LOOKUPS[group](name) is not None
    with pytest.raises(QirError, match=f"did you mean '{name}'"):
        LOOKUPS[group](f"{name}x")


@pytest.mark.parametrize("group", POINTS)
def test_without_the_package_the_name_is_unknown(group):
    with pytest.raises(QirError, match=f"'{POINTS[group][0]}' is unknown"):
        LOOKUPS[group](POINTS[group][0])


@pytest.mark.usefixtures("installed")
def test_names_list_what_other_packages_bring():
    lists = {
        "qir.passes": available_passes(),
        "qir.cost_models": COST_MODELS,
        "qir.targets": target_names(),
        "qir.schemes": scheme_names(),
        "qir.methods": METHODS,
        "qir.metrics": METRICS,
        "qir.rewards": REWARDS,
        "qir.recipes": RECIPES,
        "qir.profiles": profile_names(),
        "qir.readers": READERS,
    }
    assert all(POINTS[group][0] in list(names) for group, names in lists.items())
    assert profile_names()[0] == "qcdq"


@pytest.mark.usefixtures("installed")
def test_a_network_goes_all_the_way_through_a_foreign_pass_target_scheme_metric_and_profile(tmp_path, images):
    module = load_network(models.path("lenet"))
    found = PassManager(parse_pipeline("count-nodes")).run(module)
    assert not found
    assert found.reports["count-nodes"] == len(module.graph)
    constraints = prepare(module, "lucky-chip", images, insert="weight_scheme=plain-uniform")
    assert {FakeQuant(node).scheme_name(8) for node in module.graph.fake_quants()} >= {"plain-uniform"}
    rows = cost_table(module, "lucky-chip").rows(cost_table(module, "lucky-chip").uniform(8, 8))
    assert 1.0 in {row.cost.cycles for row in rows}
    assert set(measure("ones", module, constraints, images).values.values()) == {1.0}
    written = export(module, tmp_path / "m.quant.onnx", target="lucky-chip", profile="renamed-qcdq", data=images)
    assert written.profile == "renamed-qcdq"
    assert not written.mismatches


@pytest.mark.usefixtures("installed")
def test_a_foreign_method_solves_and_a_foreign_reward_and_recipe_count(images):
    problem = Problem([Decision("a", (2, 8)), Decision("b", (4, 8))], sensitivity=[[3.0, 1.0], [2.0, 1.0]])
    assert dict(solve(problem, "narrowest").policy) == {"a": 2, "b": 4}
    assert reward("doubled", factor=3.0)(RewardInputs(accuracy=0.5)) == 1.5
    result = recipe("zeroq-twice").run(models.path("lenet"), target="lucky-chip", data=images, budget={"size": "0.9x"})
    assert result.policy


@pytest.mark.usefixtures("installed")
def test_files_with_the_ending_of_a_foreign_reader_are_samples(tmp_path):
    graph = Graph()
    graph.add_inputs([Value("x", TensorType(DType.FLOAT32, (None, 2)))])
    (tmp_path / "lines.dots").write_text("a.b\n....\n", encoding="utf-8")
    (feed,) = batches(Module(graph), tmp_path / "lines.dots")
    assert feed["x"].tolist() == [[1.0, 3.0], [4.0, 4.0]]


def test_what_cannot_be_imported_or_is_of_another_kind_is_named(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, "import nowhere_at_all\n", {"qir.passes": ("count-nodes", "CountNodes")})
    with pytest.raises(QirError, match=r"pass 'count-nodes', entry point 'brought:CountNodes': ModuleNotFoundError"):
        find_pass("count-nodes")
    (tmp_path / "brought.py").write_text("CountNodes = 3\n", encoding="utf-8")
    sys.modules.pop("brought", None)
    with pytest.raises(QirError, match=r"3 is not a subclass of qir.passes.Pass"):
        find_pass("count-nodes")
    sys.modules.pop("brought", None)


def test_shipped_names_are_not_imported_before_they_are_asked_for():
    asked = Registry("thing", "qir.nothing", {"far": "qir.nowhere:thing"}, accepts=callable, expected="a function")
    assert list(asked) == ["far"]
    assert "far" in asked
    with pytest.raises(ModuleNotFoundError):
        asked["far"]


def test_a_program_adds_its_own_and_may_define_it_anew_but_takes_no_name():
    def make(number):
        class Own(qir.passes.Pass):
            name = "own-pass"
            value = number

            def run(self, module, context):
                return False

        return Own

    passes = Registry("pass", "qir.passes", {}, accepts=lambda found: isinstance(found, type), expected="a class")
    passes.add("own-pass", make(1))
    passes.add("own-pass", make(2))
    assert passes["own-pass"].value == 2
    with pytest.raises(QirError, match="the name is taken"):
        passes.add("own-pass", PASSES["repeat"])
    with pytest.raises(QirError, match="3 is not a class"):
        passes.add("three", 3)
