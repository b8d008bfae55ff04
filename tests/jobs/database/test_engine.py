import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import literal, make_url, select, text
from sqlalchemy.exc import IntegrityError

from collegium.jobs.database.engine import (
    UNAVAILABLE,
    Database,
    Instant,
    SafeText,
    insert,
    microseconds,
    now,
    open_engine,
)
from collegium.jobs.database.schema import counters, jobs
from collegium.jobs.store import JobStore


@pytest.fixture
def database(database_url):
    database = Database(open_engine(database_url))
    yield database
    database.engine.dispose()


def test_the_clock_counts_microseconds(database):
    stamps = []
    for _ in range(50):
        with database.read() as connection:
            stamps.append(connection.scalar(select(now())))
    assert stamps == sorted(stamps)
    assert len(set(stamps)) > 40
    assert len({stamp % 1000 for stamp in stamps}) > 10
    assert abs(stamps[-1] / 1e6 - time.time()) < 60


def test_a_statement_has_one_time(database):
    with database.read() as connection:
        first, second = connection.execute(select(now(), now())).one()
    assert first == second


def test_instants_come_back_to_the_microsecond(database):
    moment = datetime(2031, 7, 5, 23, 59, 59, 999_999, tzinfo=UTC)
    with database.read() as connection:
        for given in (moment, moment.astimezone(timezone(timedelta(hours=-5)))):
            assert connection.scalar(select(literal(given, Instant))) == moment
        assert connection.scalar(select(literal(None, Instant))) is None


def test_safe_text_replaces_what_a_database_refuses():
    bind = SafeText().process_bind_param
    assert bind(None, None) is None
    assert bind("plain", None) == "plain"
    assert bind("ü\U0001f600", None) == "ü\U0001f600"
    assert bind("a\0b\udc80c\ud800", None) == "a\ufffdb\ufffdc\ufffd"


def test_durations():
    assert microseconds(1.5) == 1_500_000
    assert microseconds(0) == 0
    assert timedelta(microseconds=microseconds(86400)) == timedelta(days=1)


def test_what_is_raised_undoes_what_was_written(database):
    def write_and_break():
        with database.write() as connection:
            connection.execute(insert(connection, counters).values(name="n", value=1))
            raise KeyError

    with pytest.raises(KeyError):
        write_and_break()
    with database.read() as connection:
        assert connection.execute(select(counters)).all() == []


def test_the_database_itself_knows_the_states_and_the_keys_of_children(database, store, queued):
    job = queued()
    for column, value in [("status", "lost"), ("child_key", "orphan"), ("parent_id", "nobody")]:
        with pytest.raises(IntegrityError), database.write() as connection:
            connection.execute(jobs.update().where(jobs.c.id == job.id).values({column: value}))


def test_sqlite_is_durable_and_does_not_block_readers(sqlite_url):
    database = Database(open_engine(sqlite_url))
    with database.read() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 2
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
        assert connection.scalar(text("PRAGMA busy_timeout")) == 30_000
    with database.write() as writer:
        writer.execute(insert(writer, counters).values(name="n", value=1))
        with database.read() as reader:
            assert reader.execute(select(counters)).all() == []
    database.engine.dispose()


def test_sqlite_makes_its_folder(tmp_path):
    engine = open_engine(f"sqlite:///{tmp_path}/a/b/jobs.db")
    Database(engine).ping()
    engine.dispose()
    assert (tmp_path / "a/b/jobs.db").exists()


def test_many_processes_may_open_a_new_sqlite_file_at_once(tmp_path):
    """The switch to WAL, which does not wait by itself."""
    script = (
        "import sys; from collegium.jobs.database.engine import *; input();"
        "engine = open_engine(sys.argv[1]); Database(engine).ping(); engine.dispose()"
    )
    command = [sys.executable, "-c", script, f"sqlite:///{tmp_path}/jobs.db"]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.stdin.close()
        assert process.wait(60) == 0
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_the_switch_to_wal_gives_up_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("collegium.jobs.database.engine.BUSY_TIMEOUT_S", 0.1)
    holder = sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    engine = open_engine(f"sqlite:///{tmp_path}/jobs.db")
    with pytest.raises(UNAVAILABLE, match="locked"):
        Database(engine).ping()
    holder.execute("ROLLBACK")
    holder.close()
    Database(engine).ping()
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("sqlite:///file:x?mode=memory", "in memory"),
        ("mysql://me:secret@host/db", "mysql is not supported"),
        ("secret", "not a database URL"),
        ("postgresql://me:secret@host:port/db", "not a database URL"),
        ("", "not a database URL"),
    ],
)
def test_other_databases_are_refused_without_telling_secrets(url, says):
    with pytest.raises(ValueError, match=says) as caught:
        open_engine(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_postgres_by_any_name(postgresql_url):
    for scheme in ("postgresql://", "postgresql+psycopg://", "postgres://"):
        engine = open_engine(scheme + postgresql_url.partition("://")[2])
        with Database(engine).read() as connection:
            name = connection.scalar(text("SELECT current_database()"))
        assert (engine.dialect.name, engine.driver, name) == ("postgresql", "psycopg", engine.url.database)
        assert engine.url.database == make_url(postgresql_url).database
        engine.dispose()


def test_a_database_that_is_away_is_unavailable(tmp_path):
    away = JobStore(open_engine("postgresql://missing@127.0.0.1:1/nowhere"))
    with pytest.raises(UNAVAILABLE):
        away.ping()
    with pytest.raises(UNAVAILABLE):
        away.create("search", {}, queue="search")
    away.close()
    folder = JobStore(open_engine(f"sqlite:///{tmp_path}"))
    with pytest.raises(UNAVAILABLE):
        folder.ping()
    folder.close()


def test_a_store_that_was_closed_opens_again(store, queued):
    job = queued()
    store.close()
    assert store.get(job.id) == job
