import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from qir.errors import SearchError
from qir.policy import Policy
from qir.search import Decision, LocalProcesses, Problem, Store, solve
from qir.search.evaluation.parallel import InProcess, Measured, workers_of

IDENTITY = {"model": "m1", "data": "d1", "protocol": "ptq"}


def problem(objective, identity=IDENTITY):
    return Problem([Decision(f"l{i}", (2, 4, 8)) for i in range(4)], objective=objective, identity=identity)


def test_second_run_measures_nothing_and_finds_the_same(tmp_path):
    calls = []

    def objective(policy):
        calls.append(policy)
        return float(sum(policy.values()))

    first = solve(problem(objective), "random", evaluations=10, store=tmp_path / "s.db")
    count = len(calls)
    second = solve(problem(objective), "random", evaluations=10, store=tmp_path / "s.db")
    assert len(calls) == count == 10
    assert second.counts["stored"] == 10
    assert [(e.policy, e.value) for e in first.evaluations] == [(e.policy, e.value) for e in second.evaluations]


@pytest.mark.parametrize("changed", ["model", "data", "protocol"])
def test_a_changed_model_data_or_protocol_is_measured_again(tmp_path, changed):
    store = Store(tmp_path / "s.db")
    solve(problem(lambda policy: 1.0), "random", evaluations=5, store=store)
    again = solve(problem(lambda policy: 2.0, {**IDENTITY, changed: "other"}), "random", evaluations=5, store=store)
    assert again.value == 2.0
    assert len(store) == 10


def test_failures_are_kept_and_measured_again(tmp_path):
    store = Store(tmp_path / "s.db")
    policy = Policy({"a": 4})
    store.put(IDENTITY, policy, Measured(float("nan"), 0.1, "boom"))
    assert store.get(IDENTITY, policy) is None
    assert store.evaluations()[0][1].error == "boom"
    store.put(IDENTITY, policy, Measured(0.5, 0.1, None))
    assert store.get(IDENTITY, policy).value == 0.5


def test_tuples_of_widths_survive_the_store(tmp_path):
    store = Store(tmp_path / "s.db")
    store.put(IDENTITY, Policy({"a": (2, 1)}), Measured(0.5, 0.1, None))
    assert store.evaluations(IDENTITY)[0][0] == Policy({"a": (2, 1)})


def test_a_store_of_a_newer_version_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("qir.search.evaluation.store.VERSION", 99)
        Store(tmp_path / "s.db").close()
    with pytest.raises(SearchError, match="newer qir"):
        Store(tmp_path / "s.db")


def test_a_file_that_is_not_a_store_is_named(tmp_path):
    (tmp_path / "s.db").write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(SearchError, match=r"s\.db"):
        Store(tmp_path / "s.db")
    with pytest.raises(SearchError, match="nowhere"):
        Store(tmp_path / "nowhere" / "s.db")


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path):
    store = Store(tmp_path / "s.db")
    store.put(IDENTITY, Policy({"a": 2}), Measured(0.5, 0.1, None))
    pages = store._database.run(lambda connection: connection.exec_driver_sql("PRAGMA page_count").scalar())
    store._database.run(lambda connection: connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}").scalar())
    long = {"model": "m" * 100_000}
    with pytest.raises(SearchError, match="full"):
        store.put(long, Policy({"a": 4}), Measured(0.5, 0.1, None))
    store.close()
    assert len(Store(tmp_path / "s.db")) == 1


def test_a_store_needs_an_identity(tmp_path):
    with pytest.raises(SearchError, match="identity"):
        solve(problem(lambda policy: 1.0, {}), "random", evaluations=5, store=tmp_path / "s.db")


def test_kill_nine_loses_at_most_the_evaluation_in_flight(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys, time
            from qir.search import Decision, Problem, solve

            def objective(policy):
                time.sleep(0.05)
                with open(sys.argv[2], "a") as log:
                    log.write("x")
                return float(sum(policy.values()))

            identity = {"model": "m1", "data": "d1", "protocol": "ptq"}
            problem = Problem([Decision(f"l{i}", (2, 4, 8)) for i in range(4)], objective=objective, identity=identity)
            print(solve(problem, "random", evaluations=30, store=sys.argv[1]).counts["stored"], flush=True)
            """
        )
    )
    command = [sys.executable, str(script), str(tmp_path / "s.db"), str(tmp_path / "log")]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    log = tmp_path / "log"
    for _ in range(600):
        if log.exists() and log.stat().st_size >= 5:
            break
        time.sleep(0.05)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    measured = log.stat().st_size
    kept = len(Store(tmp_path / "s.db"))
    assert measured - 1 <= kept <= measured
    resumed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(resumed.stdout) == kept


@pytest.fixture
def objectives(tmp_path, monkeypatch):
    (tmp_path / "qir_test_objectives.py").write_text(
        textwrap.dedent(
            """
            import os
            from pathlib import Path

            def total(policy):
                return float(sum(policy.values()))

            def threads(policy):
                return float(os.environ["OMP_NUM_THREADS"])

            class KillsItsWorker:
                def __init__(self, folder, times):
                    self.folder, self.times = folder, times

                def __call__(self, policy):
                    marks = Path(self.folder)
                    mine = "-".join(str(b) for b in policy.values())
                    tried = len(list(marks.glob(f"{mine}.*")))
                    (marks / f"{mine}.{tried}").touch()
                    if set(policy.values()) == {8} and tried < self.times:
                        os._exit(9)
                    return float(sum(policy.values()))
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import qir_test_objectives

    return qir_test_objectives


def test_one_and_two_workers_find_the_same(objectives):
    alone = solve(problem(objectives.total), "random", evaluations=20)
    with LocalProcesses(2) as workers:
        together = solve(problem(objectives.total), "random", evaluations=20, executor=workers)
    assert [(e.policy, e.value) for e in alone.evaluations] == [(e.policy, e.value) for e in together.evaluations]


@pytest.mark.parametrize(("deaths", "failed"), [(1, 0), (5, 1)])
def test_a_dead_workers_job_is_done_again_once(objectives, tmp_path, deaths, failed):
    marks = tmp_path / "marks"
    marks.mkdir()
    with LocalProcesses(2) as workers:
        result = solve(problem(objectives.KillsItsWorker(str(marks), deaths)), "exhaustive", executor=workers)
    assert len(result.evaluations) == 81
    assert result.counts["failed"] == failed
    assert len(list(marks.glob("8-8-8-8.*"))) == 2
    assert len(list(marks.iterdir())) == 82


def test_objectives_that_cannot_be_sent_are_an_error():
    with LocalProcesses(1) as workers, pytest.raises(SearchError, match="pickled"):
        solve(problem(lambda policy: 1.0), "random", evaluations=2, executor=workers)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_dask_finds_the_same(objectives):
    from distributed import LocalCluster

    from qir.search import DaskCluster

    alone = solve(problem(objectives.total), "random", evaluations=20)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        executor = DaskCluster(cluster)
        together = solve(problem(objectives.total), "random", evaluations=20, executor=executor)
        executor.close()
    assert [(e.policy, e.value) for e in alone.evaluations] == [(e.policy, e.value) for e in together.evaluations]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dask_worker_that_is_killed_loses_nothing(objectives, tmp_path):
    from distributed import LocalCluster

    from qir.search import DaskCluster

    alone = solve(problem(objectives.total), "random", evaluations=30)
    marks = tmp_path / "marks"
    marks.mkdir()
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        executor = DaskCluster(cluster)
        objective = objectives.KillsItsWorker(str(marks), 1)
        together = solve(problem(objective), "random", evaluations=30, executor=executor, store=tmp_path / "s.db")
        executor.close()
    assert len(list(marks.glob("8-8-8-8.*"))) == 2
    assert together.counts["failed"] == 0
    assert [(e.policy, e.value) for e in alone.evaluations] == [(e.policy, e.value) for e in together.evaluations]
    assert len(Store(tmp_path / "s.db")) == len(alone.evaluations)


@pytest.mark.filterwarnings("ignore")
def test_an_unreachable_scheduler_is_an_error():
    from qir.search import DaskCluster

    with pytest.raises(SearchError, match=r"tcp://127\.0\.0\.1:9"):
        DaskCluster("tcp://127.0.0.1:9", timeout=0.5)


def test_where_objectives_run_is_said_in_words(objectives):
    with workers_of() as executor:
        assert isinstance(executor, InProcess)
    with workers_of(2) as executor:
        assert len(solve(problem(objectives.total), "random", evaluations=4, executor=executor).evaluations) == 4
    with pytest.raises(SearchError, match="2 local workers and scheduler"), workers_of(2, "tcp://127.0.0.1:9"):
        pass
    with pytest.raises(SearchError, match="workers: 0"), workers_of(0):
        pass


def test_workers_share_the_cores(objectives, monkeypatch):
    """As many threads as cores in every worker would make two workers slower than one."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    problem = Problem([Decision("a", (2, 8))], objective=objectives.threads)
    with LocalProcesses(1000) as workers:
        found = solve(problem, "random", evaluations=2, executor=workers)
    assert found.value == 1.0
    assert "OMP_NUM_THREADS" not in os.environ
