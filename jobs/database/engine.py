"""The engine, its clock, and the two kinds of short transaction.

The statements of this package run unchanged on SQLite and on PostgreSQL. This module holds what differs: how a
transaction begins, how the server's clock is read, and which ``INSERT`` has ``ON CONFLICT``.

Time is an integer, microseconds since 1970 in UTC, read by the database in the statement that uses it. On
PostgreSQL it is the moment at which the statement arrived, so that a statement that waited for a lock never grants
more lease than it requested. On SQLite, which runs inside the process, it is the host's clock when the transaction
began, through a function registered on every connection because its own date functions stop at milliseconds.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from sqlalchemy import BigInteger, Connection, Engine, Table, Text, create_engine, event, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

#: Raised when the database is unavailable.
UNAVAILABLE = (OperationalError, InterfaceError, PoolTimeout)

BUSY_TIMEOUT_S = 30.0
CONNECT_TIMEOUT_S = 5
MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def why(error: Exception) -> str:
    """What the database's library says of one of ``UNAVAILABLE``, in a line."""
    return str(getattr(error, "orig", error)).strip().splitlines()[0]


class Instant(TypeDecorator[datetime]):
    """An aware datetime, kept as integer microseconds since 1970 in UTC."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | int | None, dialect: Any) -> int | None:
        """Leave integers alone: database time is one already."""
        return (value - EPOCH) // MICROSECOND if isinstance(value, datetime) else value

    def process_result_value(self, value: int | None, dialect: Any) -> datetime | None:
        """Aware, in UTC."""
        return None if value is None else EPOCH + value * MICROSECOND


class SafeText(TypeDecorator[str]):
    """Text that every database takes: NUL and lone surrogates, which PostgreSQL refuses, become U+FFFD."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        """Replace what cannot be stored."""
        if value is None or (value.isascii() and "\0" not in value):
            return value
        return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class now(FunctionElement[int]):
    """The database's time in microseconds since 1970."""

    type = BigInteger()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return "collegium_now()"


@compiles(now, "postgresql")
def _now_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return "CAST(extract(epoch FROM statement_timestamp()) * 1000000 AS bigint)"


def microseconds(seconds: float) -> int:
    """A duration as the database's clock counts it. Raises ValueError unless it is finite and not negative."""
    if not 0 <= seconds < 1e9:
        raise ValueError(f"a duration is between 0 and 1e9 seconds, not {seconds}")
    return round(seconds * 1_000_000)


def insert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An ``INSERT`` with ``ON CONFLICT``, in the connection's dialect."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def open_engine(url: str) -> Engine:
    """An engine for ``sqlite:///FILE`` or ``postgresql://…``. Opens no connection yet; makes SQLite's folder.

    Raises ValueError for any other URL, and for SQLite in memory, which the processes of a service cannot share.
    The message never contains the URL, which may hold a password.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ValueError("not a database URL; use sqlite:///FILE or postgresql://USER@HOST/NAME") from None
    match parsed.get_backend_name():
        case "sqlite":
            return _sqlite_engine(parsed.set(database=sqlite_file(url)))
        case "postgresql" | "postgres":
            return _postgresql_engine(parsed)
        case other:
            raise ValueError(f"{other} is not supported; use sqlite:///FILE or postgresql://USER@HOST/NAME")


def sqlite_file(url: str) -> str | None:
    """FILE of ``sqlite:///FILE``, where ``%3F`` stands for a ``?`` and ``%25`` for a percent; None without one.

    Releases of SQLAlchemy differ in whether they read the escapes.

    >>> sqlite_file("sqlite:////data/50%25 of it/jobs.db"), sqlite_file("sqlite://")
    ('/data/50% of it/jobs.db', None)
    """
    return unquote(url.partition(":///")[2].partition("?")[0]) or None


def _postgresql_engine(url: URL) -> Engine:
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=30,
        isolation_level="READ COMMITTED",
        connect_args={"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "collegium"},
    )


def _sqlite_engine(url: URL) -> Engine:
    if not url.database or url.database == ":memory:" or url.query.get("mode") == "memory":
        raise ValueError("SQLite in memory cannot be shared between processes; use sqlite:///FILE")
    Path(url.database).expanduser().absolute().parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        url.set(database=str(Path(url.database).expanduser())), connect_args={"timeout": BUSY_TIMEOUT_S}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, record: Any) -> None:
    connection.isolation_level = None  # transactions begin in _begin_sqlite, and nowhere else
    connection.create_function("collegium_now", 0, lambda: record.info["now"])
    _into_wal(connection)
    # FULL: a job whose creation was answered survives a power failure, at one fsync per transaction.
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA foreign_keys=ON")


def _into_wal(connection: sqlite3.Connection) -> None:
    """The first switch to WAL needs the file alone and does not wait by itself; afterwards it is a read."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that turns from reading to writing fails at once when another has written in between;
    # one that begins as a writer waits its turn.
    immediate = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
    connection.info["now"] = time.time_ns() // 1000


class Database:
    """Two kinds of transaction over one engine. None is held across computation."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes: commits at the end, rolls back when anything is raised."""
        with self.engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                yield connection

    def ping(self) -> None:
        """One round trip. Raises one of ``UNAVAILABLE``."""
        with self.read() as connection:
            connection.execute(text("SELECT 1"))
