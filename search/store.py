"""Every measured value in a database: nothing is computed twice, a killed run resumes."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qir.errors import MissingExtraError, SearchError
from qir.json_text import parse_json
from qir.policy import Bits, Policy
from qir.search.metrics.sensitivity import Sensitivity
from qir.search.parallel import Measured

if TYPE_CHECKING:
    from sqlalchemy import Connection

VERSION = 1
"""Version of the tables; a store of a newer version is refused."""

_PACKAGES = ("qir", "numpy", "torch", "onnxruntime")


class Store:
    """Measured values by (identity, policy).

    The identity is what the value depends on beside the policy, such as hashes of model, data and protocol: when one of
    them changes, older rows no longer match. Each value is committed before the next one is measured. Failed
    measurements are kept for the record and measured again when asked for.

    Args:
        where: path of an SQLite file (made if absent), or any SQLAlchemy URL ("postgresql+psycopg://...").

    Raises:
        SearchError: no database can be opened there, it is no store, or a newer qir wrote it.
    """

    def __init__(self, where: str | Path) -> None:
        try:
            import sqlalchemy as sql
        except ImportError as error:
            raise MissingExtraError("sqlalchemy", "search") from error
        self._where = str(where)
        url = self._where if "://" in self._where else f"sqlite:///{Path(where).absolute()}"
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
        try:
            self._engine = sql.create_engine(url)
        except (sql.exc.ArgumentError, ImportError) as error:
            raise SearchError(f"store {self._where!r}: {error}; expected a file or an SQLAlchemy URL") from error
        if self._engine.dialect.name == "sqlite":
            sql.event.listen(self._engine, "connect", _prepare_sqlite)
        self._prepare(metadata)

    def get(self, identity: Mapping[str, str], policy: Mapping[str, Bits]) -> Measured | None:
        """The value of a policy under this identity, or None if it was not measured (or failed)."""
        rows, sql = self._rows, self._sql
        query = (
            sql.select(rows.c.value, rows.c.seconds)
            .where(rows.c.key == key(identity, policy), rows.c.value.is_not(None))
            .order_by(rows.c.id)
            .limit(1)
        )
        with self._connection() as connection:
            found = connection.execute(query).first()
        return None if found is None else Measured(float(found[0]), float(found[1]), None)

    def put(self, identity: Mapping[str, str], policy: Mapping[str, Bits], measured: Measured) -> None:
        """Keep a measurement; on return it is on disk.

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
        with self._connection() as connection:
            connection.execute(self._rows.insert().values(**row))

    def get_sensitivity(self, identity: Mapping[str, str]) -> Sensitivity | None:
        """The sensitivities that were measured under this identity (hashes of model and data, metric, its options)."""
        table = self._sensitivities
        query = self._sql.select(table.c.found).where(table.c.key == key(identity, {}))
        with self._connection() as connection:
            found = connection.execute(query).scalar()
        return None if found is None else Sensitivity.parse(found)

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
        with self._connection() as connection:
            connection.execute(table.delete().where(table.c.key == own))
            connection.execute(table.insert().values(**row))

    def __len__(self) -> int:
        with self._connection() as connection:
            count = connection.execute(self._sql.select(self._sql.func.count()).select_from(self._rows)).scalar()
        return int(count or 0)

    def evaluations(self, identity: Mapping[str, str] | None = None) -> list[tuple[Policy, Measured]]:
        """Every row in the order measured, of one identity or of all."""
        rows = self._rows
        query = self._sql.select(rows.c.policy, rows.c.value, rows.c.seconds, rows.c.error).order_by(rows.c.id)
        if identity is not None:
            query = query.where(rows.c.identity == json.dumps(dict(sorted(identity.items()))))
        with self._connection() as connection:
            found = connection.execute(query).all()
        return [
            (_policy(text), Measured(math.nan if value is None else float(value), float(seconds), error))
            for text, value, seconds, error in found
        ]

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _prepare(self, metadata: Any) -> None:
        with self._connection() as connection:
            metadata.create_all(connection, checkfirst=True)
            about = self._about
            found = connection.execute(self._sql.select(about.c.value).where(about.c.name == "version")).scalar()
            if found is None:
                connection.execute(about.insert().values(name="version", value=str(VERSION)))
        if found is not None and int(found) > VERSION:
            raise SearchError(
                f"store {self._where!r}: version {found} was written by a newer qir (this one reads up to {VERSION}); "
                "update qir or use another file"
            )

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        """A transaction; what the database says becomes a SearchError."""
        try:
            with self._engine.begin() as connection:
                yield connection
        except self._sql.exc.SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise SearchError(
                f"store {self._where!r}: {cause}; nothing that was stored before is lost. Check the path, the free "
                "space and the permissions, then start again: the run resumes"
            ) from error


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """Wait for other writers; a write-ahead log survives the death of a process without a sync per row."""
    for pragma in ("busy_timeout = 30000", "journal_mode = WAL", "synchronous = NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


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
