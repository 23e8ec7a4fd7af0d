"""A database after an SQLAlchemy URL: opened with care, written in transactions, its password never told."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from qir.errors import MissingExtraError, SearchError

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData

Result = TypeVar("Result")

RETRY_SECONDS = 60.0
"""How long a transaction is tried again when the server went away while the database was open."""

_DRIVERS = {"postgresql": ("psycopg", "postgres")}
_FIRST_ATTEMPTS = 5


class Database:
    """Tables in an SQLite file, or in the database of any SQLAlchemy URL.

    Args:
        where: path of the file (made if absent), or URL.
        tables: the tables, made where the database is empty.

    Attributes:
        name: what messages call it: the path, or the URL without password and query.

    Raises:
        SearchError: no database can be opened there, or it holds the tables of another program.
        MissingExtraError: the driver is not installed.
    """

    def __init__(self, where: str | Path, tables: MetaData) -> None:
        import sqlalchemy as sql

        self._sql = sql
        self._is_open = False
        text = str(where)
        url = _parsed(sql, text) if "://" in text else sql.URL.create("sqlite", database=str(Path(where).absolute()))
        self.name = url.set(query={}).render_as_string(hide_password=True) if "://" in text else text
        secrets = [url.password, *(value for value in url.query.values() if isinstance(value, str))]
        self._secrets = [str(secret) for secret in secrets if secret and len(str(secret)) > 3]
        self._engine = self._made_engine(url)
        self._is_sqlite = self._engine.dialect.name == "sqlite"
        if self._is_sqlite:
            sql.event.listen(self._engine, "connect", _prepare_sqlite)
        self._make(tables)
        self._is_open = True

    def run(self, work: Callable[[Connection], Result]) -> Result:
        """Do work in one transaction and commit it; it is done again when a server went away meanwhile.

        Work may then have been committed already: what it writes is the same when it is written twice.

        Raises:
            SearchError: what the database says.
        """
        end = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                with self._engine.begin() as connection:
                    return work(connection)
            except self._sql.exc.OperationalError as error:
                if not self._is_open or self._is_sqlite or time.monotonic() > end:
                    kept = "what was stored before stays: start again, the run resumes"
                    raise self._error(error, kept if self._is_open else "then start again") from error
                time.sleep(0.5)
            except (self._sql.exc.SQLAlchemyError, ValueError, TypeError) as error:  # damaged text is not UTF-8
                raise self._error(error, "the database is damaged or of another program: use another one") from error

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def _error(self, error: Exception, remedy: str) -> SearchError:
        cause = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        for secret in self._secrets:
            cause = cause.replace(secret, "***")
        return SearchError(
            f"store {self.name!r}: {cause}; check the path, the server, the free space and the permissions; {remedy}"
        )

    def _made_engine(self, url: Any) -> Any:
        dialect = url.get_backend_name()
        try:
            return self._sql.create_engine(url, pool_pre_ping=True)
        except ImportError as error:
            if dialect in _DRIVERS:
                raise MissingExtraError(*_DRIVERS[dialect]) from error
            raise SearchError(f"store {self.name!r}: its driver is not installed: {error}") from error
        except (self._sql.exc.ArgumentError, ValueError, TypeError) as error:
            raise SearchError(
                f"store {self.name!r}: expected a file or an SQLAlchemy URL with a known dialect"
            ) from error

    def _make(self, tables: MetaData) -> None:
        """Make the tables; other processes may make them at the same time."""
        for attempt in range(_FIRST_ATTEMPTS):
            self._refuse_foreign(set(tables.tables))
            try:
                if self._is_sqlite:
                    self._keep_log()
                self.run(lambda connection: tables.create_all(connection, checkfirst=True))
            except SearchError:
                if attempt == _FIRST_ATTEMPTS - 1:
                    raise
                time.sleep(0.2)
            else:
                return

    def _refuse_foreign(self, own: set[str]) -> None:
        """Refuse the database of another program before anything is written."""
        found = set(self.run(lambda connection: self._sql.inspect(connection).get_table_names()))
        if found and not found & own:
            raise SearchError(
                f"store {self.name!r}: it holds the tables of another program ({', '.join(sorted(found)[:3])}): give a "
                "file or a database of its own"
            )

    def _keep_log(self) -> None:
        """Set a write-ahead log, which survives the death of a process without a sync per row."""
        self.run(lambda connection: connection.exec_driver_sql("PRAGMA journal_mode = WAL"))


def _parsed(sql: Any, text: str) -> Any:
    """Return a URL; what is wrong with it is not told: it may stand in the password."""
    url = None
    with contextlib.suppress(sql.exc.ArgumentError, ValueError):
        url = sql.make_url(text)
    if url is not None and (url.get_backend_name() == "sqlite" or "@" not in f"{url.host}{url.database}"):
        return url
    scheme = text.partition("://")[0]
    raise SearchError(
        f"store {f'{scheme}://…'!r}: is not a URL that SQLAlchemy reads; expected "
        "dialect://user:password@host:port/name, special characters in the password as %XX"
    )


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """Wait for other writers; nothing of this is written into the file."""
    for pragma in ("busy_timeout = 30000", "synchronous = NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
