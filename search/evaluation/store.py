"""Every measured value in a database: nothing is computed twice, a killed run resumes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from qir.errors import MissingExtraError, QirError, SearchError
from qir.policy import Bits, Policy
from qir.search.evaluation.database import Database
from qir.search.evaluation.parallel import Measured
from qir.search.problem.sensitivity import Sensitivity
from qir.support.json_text import parse_json

if TYPE_CHECKING:
    from sqlalchemy import Connection

Found = TypeVar("Found")

VERSION = 1
"""Version of the tables; a store of a newer version is refused."""

_PACKAGES = ("qir", "numpy", "torch", "onnxruntime")


class Store:
    """Measured values by (identity, policy).

    The identity is what the value depends on next to the policy, such as hashes of model, data and protocol: when one
    of them changes, older rows no longer match. Each value is committed before the next one is measured. Failed
    measurements are kept for the record and measured again when asked for.

    Args:
        where: path of an SQLite file (made if absent), or any SQLAlchemy URL ("postgresql+psycopg://...").

    Raises:
        SearchError: no database can be opened there, it is not a store or another program's, or a newer qir wrote it.
    """

    def __init__(self, where: str | Path) -> None:
        try:
            import sqlalchemy as sql
        except ImportError as error:
            raise MissingExtraError("sqlalchemy", "search") from error
        metadata = sql.MetaData()
        self._about = sql.Table(
            "qir_store",
            metadata,
            sql.Column("name", sql.String(64), primary_key=True),
            sql.Column("value", sql.String(64), nullable=False),
        )
        self._rows = sql.Table(
            "qir_evaluations",
            metadata,
            sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
            sql.Column("key", sql.String(64), nullable=False, index=True),
            sql.Column("identity", sql.Text, nullable=False),
            sql.Column("policy", sql.Text, nullable=False),
            sql.Column("value", sql.Float(53)),
            sql.Column("error", sql.Text),
            sql.Column("seconds", sql.Float(53), nullable=False),
            sql.Column("versions", sql.Text, nullable=False),
            sql.Column("measured_at", sql.String(40), nullable=False),
        )
        self._sensitivities = sql.Table(
            "qir_sensitivities",
            metadata,
            sql.Column("key", sql.String(64), primary_key=True),
            sql.Column("identity", sql.Text, nullable=False),
            sql.Column("found", sql.Text, nullable=False),
            sql.Column("versions", sql.Text, nullable=False),
            sql.Column("measured_at", sql.String(40), nullable=False),
        )
        self._sql = sql
        self._versions = json.dumps(_versions())
        self._database = Database(where, metadata)
        self._check_version()

    def get(self, identity: Mapping[str, str], policy: Mapping[str, Bits]) -> Measured | None:
        """Return the value of a policy under this identity, or None if it was not measured (or failed)."""
        rows, sql = self._rows, self._sql
        query = (
            sql.select(rows.c.value, rows.c.seconds)
            .where(rows.c.key == key(identity, policy), rows.c.value.is_not(None))
            .order_by(rows.c.id)
            .limit(1)
        )
        found = self._database.run(lambda connection: connection.execute(query).first())
        return None if found is None else self._read(lambda: Measured(float(found[0]), float(found[1]), None))

    def put(self, identity: Mapping[str, str], policy: Mapping[str, Bits], measured: Measured) -> None:
        """Keep a measurement; on return it survives the death of this process.

        Raises:
            SearchError: the database cannot be written (disk full, no permission, no connection).
        """
        row = {
            "key": key(identity, policy),
            "identity": json.dumps(dict(sorted(identity.items()))),
            "policy": json.dumps(dict(policy)),
            "value": None if math.isnan(measured.value) else measured.value,
            "error": measured.error,
            "seconds": measured.seconds,
            "versions": self._versions,
            "measured_at": _now(),
        }
        rows = self._rows
        key_columns = (rows.c[name] == row[name] for name in ("key", "seconds", "measured_at"))
        same = self._sql.select(rows.c.id).where(*key_columns)
        attempts = 0

        def write(connection: Connection) -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 1 or connection.execute(same).first() is None:  # else an earlier commit was not answered
                connection.execute(rows.insert().values(**row))

        self._database.run(write)

    def get_sensitivity(self, identity: Mapping[str, str]) -> Sensitivity | None:
        """Return the sensitivities measured under this identity (hashes of model and data, metric, its options)."""
        table = self._sensitivities
        query = self._sql.select(table.c.found).where(table.c.key == key(identity, {}))
        found = self._database.run(lambda connection: connection.execute(query).scalar())
        return None if found is None else self._read(lambda: Sensitivity.parse(found))

    def put_sensitivity(self, identity: Mapping[str, str], found: Sensitivity) -> None:
        """Keep sensitivities for every later budget; those of the same identity are replaced.

        Raises:
            SearchError: the database cannot be written.
        """
        table, own = self._sensitivities, key(identity, {})
        row = {
            "key": own,
            "identity": json.dumps(dict(sorted(identity.items()))),
            "found": str(found),
            "versions": self._versions,
            "measured_at": _now(),
        }

        def write(connection: Connection) -> None:
            connection.execute(table.delete().where(table.c.key == own))
            connection.execute(table.insert().values(**row))

        self._database.run(write)

    def __len__(self) -> int:
        query = self._sql.select(self._sql.func.count()).select_from(self._rows)
        return int(self._database.run(lambda connection: connection.execute(query).scalar()) or 0)

    def evaluations(self, identity: Mapping[str, str] | None = None) -> list[tuple[Policy, Measured]]:
        """Return every row in the order measured, of one identity or of all."""
        rows = self._rows
        query = self._sql.select(rows.c.policy, rows.c.value, rows.c.seconds, rows.c.error).order_by(rows.c.id)
        if identity is not None:
            query = query.where(rows.c.identity == json.dumps(dict(sorted(identity.items()))))
        found = self._database.run(lambda connection: connection.execute(query).all())
        return self._read(
            lambda: [
                (_policy(text), Measured(math.nan if value is None else float(value), float(seconds), error))
                for text, value, seconds, error in found
            ]
        )

    def close(self) -> None:
        """Close every connection."""
        self._database.close()

    def _check_version(self) -> None:
        about, sql = self._about, self._sql
        query = sql.select(about.c.value).where(about.c.name == "version")
        found = self._database.run(lambda connection: connection.execute(query).scalar())
        if found is None:
            self._write_version()
        elif not str(found).isdecimal() or len(str(found)) > 9:
            raise SearchError(
                f"store {self._database.name!r}: its version is {found!r}: it is damaged; use another one"
            )
        elif int(found) > VERSION:
            raise SearchError(
                f"store {self._database.name!r}: version {found} was written by a newer qir (this one reads up to "
                f"{VERSION}); update qir or use another file"
            )

    def _write_version(self) -> None:
        row = self._about.insert().values(name="version", value=str(VERSION))
        try:
            self._database.run(lambda connection: connection.execute(row))
        except SearchError:  # another process wrote it at the same time
            if not self._database.run(lambda connection: connection.execute(self._sql.select(self._about)).all()):
                raise

    def _read(self, read: Callable[[], Found]) -> Found:
        """Return what rows hold; those that qir did not write are an error."""
        try:
            return read()
        except (ValueError, TypeError, AttributeError, QirError) as error:
            raise SearchError(
                f"store {self._database.name!r}: a row is damaged or another program's: {error}; delete the row, "
                "or use another store"
            ) from error


def key(identity: Mapping[str, str], policy: Mapping[str, Bits]) -> str:
    """SHA-256 over identity and policy, whatever their order."""
    text = json.dumps([sorted(identity.items()), sorted(policy.items())], separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _policy(text: str) -> Policy:
    return Policy({name: tuple(bits) if isinstance(bits, list) else bits for name, bits in parse_json(text).items()})


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
