"""Searches on a network from the outside: the verb, and objectives on other processes."""

import json

import numpy as np
import pytest

import qir.models
from qir.backends import cost_table, load_target
from qir.fake_quant import FakeQuant
from qir.search import (
    AccuracyObjective,
    Budget,
    DaskCluster,
    LocalProcesses,
    load_network,
    network_problem,
    prepare,
    solve,
)
from qir.search.evaluation.accuracy import EvaluationProtocol, search_identity
from qir.search.evaluation.parallel import sent
from qir.search.metrics.outputs.output_error import NetworkOutputError


@pytest.fixture(scope="module")
def lenet():
    module, target = load_network(qir.models.path("lenet")), load_target("npu-148")
    samples = qir.models.fashion_mnist("calibration")
    constraints = prepare(module, target, samples.images[:32], input_widths="all")
    given = {"calibration": samples.take(16), "validation": qir.models.fashion_mnist("search-validation").take(100)}
    objective = AccuracyObjective(module, constraints, **given)
    table = cost_table(module, target)
    budgets = {"latency": Budget.parse("0.5x")}
    return network_problem(module, constraints, table, budgets=budgets, objective=objective)


def rebuilt(objective):
    """The objective as another process receives it."""
    receive, arguments = objective.__reduce__()
    return receive(*arguments)


def test_objectives_arrive_as_they_were_sent(lenet):
    policy = solve(lenet, "random", evaluations=1).policy
    objective = lenet.objective
    assert rebuilt(objective)(policy) == objective(policy)
    images = objective.calibration.images
    error = NetworkOutputError(objective.module, objective.constraints, images)
    assert rebuilt(error)(policy) == error(policy)
    assert sent(NetworkOutputError, objective.module, images=images)[1][2] == {"images": images}


def test_identities_follow_the_calibrated_network_and_every_split(lenet):
    objective = lenet.objective
    plan, first = EvaluationProtocol(), objective.validation
    identity = search_identity(objective.module, first, plan, objective.calibration)
    assert identity == search_identity(objective.module, first, plan, objective.calibration)
    assert identity["data"] != search_identity(objective.module, first, plan)["data"]
    assert (
        identity["protocol"] != search_identity(objective.module, first, EvaluationProtocol(hopeless=0.5))["protocol"]
    )
    changed = objective.module.clone()
    quantizer = FakeQuant(changed.graph.fake_quants()[0])
    quantizer.calibration = quantizer.calibration * 2
    assert identity["model"] != search_identity(changed, first, plan)["model"]


@pytest.mark.slow
def test_networks_are_measured_in_local_processes(lenet):
    alone = solve(lenet, "random", evaluations=6)
    with LocalProcesses(2) as workers:
        together = solve(lenet, "random", evaluations=6, executor=workers)
    assert [(e.policy, e.value) for e in alone.evaluations] == [(e.policy, e.value) for e in together.evaluations]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_networks_are_measured_on_dask(lenet):
    from distributed import LocalCluster

    alone = solve(lenet, "random", evaluations=6)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        executor = DaskCluster(cluster)
        together = solve(lenet, "random", evaluations=6, executor=executor)
        executor.close()
    assert [(e.policy, e.value) for e in alone.evaluations] == [(e.policy, e.value) for e in together.evaluations]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["milp", "evolution"])
def test_the_verb_searches_retrains_and_writes(method, tmp_path):
    from typer.testing import CliRunner

    from qir.cli.main import make_app

    for split, count in (("calibration", 64), ("retraining", 128), ("search-validation", 100)):
        samples = qir.models.fashion_mnist(split).take(count)
        np.savez(tmp_path / f"{split}.npz", images=samples.images, labels=samples.labels)
    np.save(tmp_path / "calibration.npy", qir.models.fashion_mnist("calibration").images[:64])
    arguments = ["search", str(qir.models.path("lenet")), "--data", str(tmp_path / "calibration.npy")]
    arguments += ["--train", str(tmp_path / "retraining.npz"), "--validation", str(tmp_path / "search-validation.npz")]
    arguments += ["-t", "npu-148", "-b", "latency=0.5x", "--method", method, "--store", str(tmp_path / "s.db")]
    arguments += [] if method == "milp" else ["--evaluations", "2"]
    arguments += ["--result", str(tmp_path / "r.json"), "-o", str(tmp_path / "model.quant.onnx")]
    done = CliRunner().invoke(make_app(), arguments)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "model.quant.onnx").exists()
    assert json.loads((tmp_path / "r.json").read_text())["minimised"] == (method == "milp")
    assert ("divergence of the outputs" if method == "milp" else "accuracy on search-validation") in done.output
