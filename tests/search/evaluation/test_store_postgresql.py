"""A store on a real PostgreSQL server on the loopback interface: workers die, the server restarts, nothing is lost."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from qir.errors import SearchError
from qir.policy import Policy
from qir.search import Decision, Problem, Store, solve
from qir.search.evaluation.parallel import Measured

pytestmark = pytest.mark.slow
IDENTITY = {"model": "m1", "data": "d1", "protocol": "ptq"}
PASSWORD = "n0t-to-be-told"
NOBODY = 65534

WORKER = textwrap.dedent(
    """
    import json, sys, time
    from qir.search import Decision, Problem, solve

    def objective(policy):
        time.sleep(0.1)
        value = float(sum(policy.values()))
        with open(sys.argv[2], "a") as log:
            log.write(json.dumps(dict(policy)) + "\\n")
        return value

    identity = {"model": "m1", "data": "d1", "protocol": "ptq"}
    problem = Problem([Decision(f"l{i}", (2, 4, 8)) for i in range(6)], objective=objective, identity=identity)
    solve(problem, "random", evaluations=60, seed=int(sys.argv[3]), store=sys.argv[1])
    """
)


class Server:
    """A server with a folder and a port of its own; the user `qir` has a password."""

    def __init__(self, programs, folder):
        self.programs, self.folder = programs, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        (folder / "password").write_text(PASSWORD)
        if self.user:
            for path in (folder, folder / "password"):
                os.chown(path, NOBODY, NOBODY)
        self.call(
            "initdb", "-D", folder / "data", "-U", "qir", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}"
        )
        self.url = f"postgresql+psycopg://qir:{PASSWORD}@127.0.0.1:{self.port}/postgres"

    def call(self, program, *arguments):
        command = [str(self.programs / program), *map(str, arguments)]
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL, timeout=120, **self.user)

    def start(self):
        options = f"-c listen_addresses=127.0.0.1 -c port={self.port} -c unix_socket_directories="
        self.call("pg_ctl", "-D", self.folder / "data", "-w", "-o", options, "-l", self.folder / "log", "start")

    def stop(self):
        self.call("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")


@pytest.fixture
def server():
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not places:
        pytest.skip("PostgreSQL's initdb and pg_ctl are not installed (Debian: postgresql)")
    pytest.importorskip("psycopg")
    folder = Path(tempfile.mkdtemp(prefix="qir-pg-", dir="/tmp"))
    made = Server(places[-1], folder)
    made.start()
    yield made
    made.stop()
    shutil.rmtree(folder)


def problem(objective):
    return Problem([Decision(f"l{i}", (2, 4, 8)) for i in range(4)], objective=objective, identity=IDENTITY)


def test_values_are_kept(server):
    first = solve(problem(lambda policy: float(sum(policy.values()))), "random", evaluations=5, store=server.url)
    again = solve(problem(lambda policy: -1.0), "random", evaluations=5, store=server.url)
    assert again.value == first.value
    assert again.counts["stored"] == 5


def test_the_database_of_another_program_is_refused(server):
    import sqlalchemy as sql

    engine = sql.create_engine(server.url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE invoices (number INTEGER)")
    with pytest.raises(SearchError, match=r"another program.*invoices"):
        Store(server.url)
    assert sql.inspect(engine).get_table_names() == ["invoices"]
    engine.dispose()


def test_a_wrong_password_and_a_stopped_server_are_named_without_the_password(server, monkeypatch):
    with pytest.raises(SearchError, match=r"127\.0\.0\.1") as caught:
        Store(server.url.replace(PASSWORD, "wr0ng-secret"))
    assert "wr0ng" not in str(caught.value)
    store = Store(server.url)
    store.put(IDENTITY, Policy({"a": 4}), Measured(0.5, 0.1, None))
    server.stop()
    monkeypatch.setattr("qir.search.evaluation.database.RETRY_SECONDS", 1.0)
    with pytest.raises(SearchError, match="stays") as caught:
        store.get(IDENTITY, Policy({"a": 4}))
    assert PASSWORD not in str(caught.value)
    server.start()
    assert store.get(IDENTITY, Policy({"a": 4})).value == 0.5
    store.close()


def test_two_workers_one_killed_and_a_server_that_restarts_lose_nothing(server, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    workers = [
        subprocess.Popen([sys.executable, "-P", str(tmp_path / "worker.py"), server.url, str(log), str(seed)])
        for seed, log in enumerate(logs)
    ]
    wait_for(logs, 5)
    workers[0].send_signal(signal.SIGKILL)
    server.stop()
    time.sleep(2)
    server.start()
    assert workers[1].wait(timeout=120) == 0
    workers[0].wait()
    store = Store(server.url)
    kept = {policy for policy, _ in store.evaluations(IDENTITY)}
    measured = [{Policy(json.loads(line)) for line in log.read_text().splitlines()} for log in logs]
    assert len(measured[0] - kept) <= 1
    assert measured[1] <= kept
    assert len(measured[1]) > 40
    store.close()


def wait_for(logs, lines):
    end = time.monotonic() + 120
    while not all(log.exists() and len(log.read_text().splitlines()) >= lines for log in logs):
        assert time.monotonic() < end
        time.sleep(0.1)
