"""Stores that are damaged, foreign or out of reach are named; no message tells a password."""

import json
import random
import sqlite3

import pytest

from qir.errors import MissingExtraError, SearchError
from qir.policy import Policy
from qir.search import Store
from qir.search.evaluation import database
from qir.search.evaluation.parallel import Measured

IDENTITY = {"model": "m1", "data": "d1", "protocol": "ptq"}
PASSWORD = "s3cr3t/word"


def stored(path, statement, *values):
    """A store with one row, then a statement."""
    store = Store(path)
    store.put(IDENTITY, Policy({"a": 4}), Measured(0.5, 0.1, None))
    store.close()
    with sqlite3.connect(path) as connection:
        connection.execute(statement, values)
    connection.close()
    return path


@pytest.mark.parametrize("version", ["one", "", "-1", "9" * 5000, "²"])
def test_a_version_that_is_not_a_number_is_named(tmp_path, version):
    path = stored(tmp_path / "s.db", "UPDATE qir_store SET value = ?", version)
    with pytest.raises(SearchError, match=r"s\.db.*version is"):
        Store(path)


@pytest.mark.parametrize(
    "policy", ["no JSON", "[1]", "[" * 100_000, '{"a": 99}', '{"a": "x"}', '{"a": ' + "9" * 5000 + "}", ""]
)
def test_a_row_that_holds_no_policy_is_named(tmp_path, policy):
    store = Store(stored(tmp_path / "s.db", "UPDATE qir_evaluations SET policy = ?", policy))
    with pytest.raises(SearchError, match=r"s\.db.*row"):
        store.evaluations()


def test_a_row_without_a_number_is_named(tmp_path):
    store = Store(stored(tmp_path / "s.db", "UPDATE qir_evaluations SET value = 'text'"))
    with pytest.raises(SearchError, match=r"s\.db.*row"):
        store.get(IDENTITY, Policy({"a": 4}))
    with pytest.raises(SearchError, match=r"s\.db.*row"):
        store.evaluations()


def test_sensitivities_that_are_not_json_are_named(tmp_path):
    row = "INSERT INTO qir_sensitivities VALUES (?, '{}', ?, '{}', 'now')"
    from qir.search.evaluation.store import key

    for number, text in enumerate(("no JSON", "[1, 2]", json.dumps(["m", [["a"]], 1, 1]))):
        store = Store(stored(tmp_path / f"{number}.db", row, key(IDENTITY, {}), text))
        with pytest.raises(SearchError, match="row"):
            store.get_sensitivity(IDENTITY)


def test_the_database_of_another_program_is_refused_before_a_table_is_written(tmp_path):
    path = tmp_path / "theirs.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(SearchError, match=r"theirs\.db.*another program.*bookmarks"):
        Store(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["theirs.db"]


def test_tables_of_our_name_and_another_form_are_refused(tmp_path):
    path = tmp_path / "old.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE qir_store (something TEXT)")
    connection.close()
    with pytest.raises(SearchError, match=r"old\.db"):
        Store(path)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://user:{PASSWORD}@localhost:port/qir",
        f"postgresql+psycopg://user:a@{PASSWORD}:b@localhost:port/qir",
        f"nosuchdialect://user:{PASSWORD.replace('/', '%2F')}@localhost/qir",
        f"postgresql+nosuchdriver://user:{PASSWORD.replace('/', '%2F')}@localhost/qir",
        "://",
        "postgresql+psycopg://[",
    ],
)
def test_urls_that_cannot_be_read_are_an_error_without_the_password(url):
    with pytest.raises((SearchError, MissingExtraError)) as caught:
        Store(url)
    error = caught.value
    while error is not None:
        assert "s3cr3t" not in str(error)
        error = error.__cause__


def test_a_server_that_does_not_answer_is_named_without_the_password():
    pytest.importorskip("psycopg")
    for url in (
        f"postgresql+psycopg://user:{PASSWORD.replace('/', '%2F')}@127.0.0.1:9/qir?connect_timeout=2",
        f"postgresql+psycopg://user@127.0.0.1:9/qir?connect_timeout=2&password={PASSWORD}",
    ):
        with pytest.raises(SearchError, match=r"127\.0\.0\.1") as caught:
            Store(url)
        assert "s3cr3t" not in str(caught.value)
        assert "s3cr3t" not in str(caught.value.__cause__)


def test_a_missing_driver_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"qir\[postgres\]"):
        Store("postgresql+psycopg://user@127.0.0.1:9/qir")


def test_what_is_lost_is_not_called_kept(tmp_path):
    path = stored(tmp_path / "s.db", "DROP TABLE qir_sensitivities")
    data = bytearray(path.read_bytes())
    data[100:4000] = bytes(3900)
    path.write_bytes(data)
    with pytest.raises(SearchError) as caught:
        Store(path).evaluations()
    assert "stays" not in str(caught.value)


def test_a_commit_that_was_not_answered_is_not_stored_twice(tmp_path, monkeypatch):
    from sqlalchemy.exc import OperationalError

    store = Store(tmp_path / "s.db")
    store._database._is_sqlite = False
    monkeypatch.setattr(database.time, "sleep", lambda seconds: None)
    plain, failures = store._database._engine.begin, [1]

    class Unanswered:
        def __enter__(self):
            self.inner = plain()
            return self.inner.__enter__()

        def __exit__(self, *error):
            done = self.inner.__exit__(*error)
            if failures:
                failures.pop()
                raise OperationalError("COMMIT", {}, Exception("server closed the connection"))
            return done

    monkeypatch.setattr(store._database._engine, "begin", Unanswered)
    store.put(IDENTITY, Policy({"a": 4}), Measured(0.5, 0.1, None))
    assert len(store) == 1


def test_a_damaged_file_is_read_or_named(tmp_path):
    whole = stored(tmp_path / "whole.db", "SELECT 1").read_bytes()
    generator = random.Random(3)
    for number in range(60):
        data = bytearray(whole)
        for _ in range(4):
            data[generator.randrange(len(data))] = generator.randrange(256)
        if number % 3 == 0:
            data = data.replace(b"qir_store", b"qir\xff\xfe\xfd\xfc\xfb\xfa")
        path = tmp_path / f"{number}.db"
        path.write_bytes(data)
        try:
            store = Store(path)
            store.evaluations()
            store.close()
        except SearchError as error:
            assert path.name in str(error)  # noqa: PT017 - either is right
