"""A service over a fresh database: in this process for most tests, behind a real socket for those that need one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from collegium.app.local.embedded import listen
from collegium.app.main import create_app
from collegium.app.services.services import Services
from collegium.app.settings import Settings, load_settings
from collegium.jobs.record import Artifact, Failure, Job

MLP = {"baseline": {"family": "mlp", "inputs": 16, "hidden": [8, 8], "outputs": 1}}


@pytest.fixture
def mlp() -> dict[str, Any]:
    """A small search."""
    return json.loads(json.dumps(MLP))


@pytest.fixture
def settings(sqlite_url: str, tmp_path: Path) -> Settings:
    """Settings of an embedded service with quick streams and small limits."""
    return load_settings(
        home=tmp_path,
        database_url=sqlite_url,
        event_poll_s=0.02,
        keep_alive_s=0.1,
        max_streams=4,
        max_body_bytes=64 * 1024,
        max_dataset_bytes=200_000,
    )


@pytest.fixture
def build(settings: Settings) -> Iterator[Callable[..., TestClient]]:
    """Build a service, with changed settings if any are given, and a client for it."""
    clients: list[TestClient] = []

    def make(**changes: Any) -> TestClient:
        changed = settings.model_copy(update=changes)
        client = TestClient(create_app(changed), base_url="http://127.0.0.1", raise_server_exceptions=False)
        entered = client.__enter__()
        clients.append(client)
        return entered

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def api(build: Callable[..., TestClient]) -> TestClient:
    """A client for a service without keys."""
    return build()


@pytest.fixture
def services(api: TestClient) -> Services:
    """The parts of the service behind ``api``."""
    return parts(api)


def parts(client: TestClient) -> Services:
    app = client.app
    assert isinstance(app, FastAPI)
    return app.state.services


@pytest.fixture
def parts_of() -> Callable[[TestClient], Services]:
    """The parts of the service behind any client."""
    return parts


@pytest.fixture
def started(services: Services, mlp: dict[str, Any]) -> Callable[..., Job]:
    """Create a job and claim it as a worker would."""

    def start(kind: Any = "search", spec: dict[str, Any] | None = None, **options: Any) -> Job:
        queue = "train" if kind in ("training", "study") else "search"
        job, _ = services.store.create(kind, spec or mlp, queue=queue, **options)
        claimed = services.store.claim(job.id, "worker", 60)
        assert claimed is not None
        return claimed

    return start


@pytest.fixture
def finished(services: Services, started: Callable[..., Job], tmp_path: Path) -> Callable[..., Job]:
    """Create a job and end it well, with these files."""

    def finish(files: dict[str, bytes] | None = None, result: Any = None, **options: Any) -> Job:
        job = started(**options)
        artifacts: list[Artifact] = []
        for name, content in (files or {}).items():
            path = tmp_path / "left"
            path.write_bytes(content)
            artifacts.append(services.artifacts.put_file(job.id, job.attempt, name, path))
        return services.store.succeed(job.id, job.attempt, {"answer": 42} if result is None else result, artifacts)

    return finish


@pytest.fixture
def failure() -> Failure:
    """A failure with everything in it."""
    return Failure("out_of_memory", "It did not fit.", "Take less.", "line 1\nline 2")


@pytest.fixture
def live(settings: Settings, wait_until: Callable[..., Any]) -> Iterator[Callable[..., tuple[str, Services]]]:
    """Start the service behind a real socket; its address and its parts."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def start(**changes: Any) -> tuple[str, Services]:
        app = create_app(settings.model_copy(update=changes))
        listener = listen(settings.model_copy(update={"port": 0}))
        config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running.append((server, thread))
        wait_until(lambda: server.started, "the service is up")
        return f"http://127.0.0.1:{listener.getsockname()[1]}", app.state.services

    yield start
    for server, thread in running:
        server.config.app.state.services.stopping.set()  # type: ignore[union-attr]
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def answer() -> dict[str, Any]:
    """The answer to a small search, computed by the closed form."""
    from collegium.search.engine import run
    from collegium.search.spec import SearchSpec

    spec = SearchSpec.model_validate_json(json.dumps({**MLP, "estimator": {"method": "exact"}}))
    return run(spec).model_dump(mode="json")


@pytest.fixture
def fake_worker() -> Iterator[Callable[..., None]]:
    """A worker's fake_worker: takes the next queued job, and every one after it, and ends it as told.

    The result is an answer, a ``Failure``, or None for a cancellation.
    """
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def work(
        services: Services, result: dict[str, Any] | Failure | None, files: dict[str, bytes] | None = None
    ) -> None:
        store = services.store

        def loop() -> None:
            while not stop.is_set():
                for queue in ("search", "train"):
                    job_id = store.next_queued(queue)
                    job = store.claim(job_id, "fake", 60) if job_id else None
                    if job is not None:
                        _end(services, job, result, files or {})
                stop.wait(0.02)

        threads.append(threading.Thread(target=loop, daemon=True))
        threads[-1].start()

    yield work
    stop.set()
    for thread in threads:
        thread.join(5)


def _end(services: Services, job: Job, result: Any, files: dict[str, bytes]) -> None:
    services.store.report(job.id, job.attempt, 0.5, "half way")
    if isinstance(result, Failure):
        services.store.fail(job.id, job.attempt, result, retry=False)
    elif result is None:
        services.store.request_cancel(job.id)
        services.store.finish_cancelled(job.id, job.attempt)
    else:
        artifacts = []
        for name, content in files.items():
            path = services.settings.home / "left"
            path.write_bytes(content)
            artifacts.append(services.artifacts.put_file(job.id, job.attempt, name, path))
        services.store.succeed(job.id, job.attempt, result, artifacts)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sqlite_url: str) -> None:
    """A home of its own, and a terminal wide enough for tables."""
    monkeypatch.setenv("COLLEGIUM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLLEGIUM_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
