"""Workers, in this process and as real ones, on SQLite with a folder broker and on PostgreSQL with Redis."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from collegium.jobs.database.engine import open_engine
from collegium.jobs.files.artifacts import ArtifactStore
from collegium.jobs.record import Job
from collegium.jobs.store import JobStore
from collegium.worker.process.slots import Slot
from collegium.worker.runner import Runner
from collegium.worker.settings import WorkerSettings

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PATIENCE_S = 30.0
# Short, so that tests are; long enough for a busy machine.
TIMES = {
    "lease_s": 3.0, "heartbeat_s": 0.1, "poll_s": 0.1, "reap_s": 0.3, "progress_s": 0.05,
    "cancel_grace_s": 1.0, "term_grace_s": 1.0, "shutdown_grace_s": 1.0,
}  # fmt: skip
# An environment variable that is empty counts as not given; these doubles need no module in advance.
DOUBLES = {"preload": "json", "extra_handlers": "job_doubles:HANDLERS", "devices": "cpu", "spares": 0}


def processes_of(home: Path) -> list[int]:
    """Every process, living or orphaned, that was started for this home."""
    marker = f"COLLEGIUM_HOME={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


@dataclass
class JobClient:
    """Posts jobs and watches them, as the API does."""

    store: JobStore
    artifacts: ArtifactStore
    wait_until: Callable[..., Any]
    send: Callable[[str, str], Any] = lambda job_id, queue: None

    def post(self, do: str, kind: str = "search", *, publish: bool = True, max_attempts: int = 3, **spec: Any) -> Job:
        queue = "train" if kind in {"training", "study"} else "search"
        job, _ = self.store.create(kind, {"do": do, **spec}, queue=queue, max_attempts=max_attempts)
        if publish:
            self.send(job.id, queue)
        return job

    def get(self, job: Job) -> Job:
        return self.store.get(job.id)

    def ended(self, job: Job, patience_s: float = PATIENCE_S) -> Job:
        self.wait_until(lambda: self.get(job).terminal, f"job {job.spec} ended", patience_s)
        return self.get(job)

    def running(self, job: Job, message: str = "") -> Job:
        """The job once it runs and has messages ``message``."""

        def begun() -> bool:
            now = self.get(job)
            assert not now.terminal, now.failure
            return now.status == "running" and message in now.message

        self.wait_until(begun, f"job {job.spec} runs")
        return self.get(job)

    def children_running(self, parent: Job, count: int = 1) -> list[Job]:
        """The running children of a job, once there are so many."""

        found: list[Job] = []

        def running() -> bool:
            found[:] = [child for child in self.store.children(parent.id) if child.status == "running"]
            return len(found) >= count

        self.wait_until(running, f"{count} children run")
        return found  # as they were seen: one may have ended since

    def files(self, job: Job) -> dict[str, bytes]:
        return {found.name: self._read(found.location) for found in self.store.artifacts(job.id)}

    def _read(self, location: str) -> bytes:
        with self.artifacts.open(location) as file:
            return file.read()

    def assert_nothing_claimed(self) -> None:
        depth = self.store.metrics().depth
        held = {key: count for key, count in depth.items() if key[1] in {"running", "cancelling"}}
        assert not held


@dataclass
class RecordingPublisher:
    """A broker that remembers what was sent."""

    sent: list[tuple[str, str]] = field(default_factory=list)

    def publish(self, job_id: str, queue: str) -> bool:
        self.sent.append((job_id, queue))
        return True


@pytest.fixture
def publisher() -> RecordingPublisher:
    return RecordingPublisher()


def _python_path() -> str:
    """This checkout and the doubles, before what is there: an environment may have its packages on the path."""
    return os.pathsep.join(filter(None, [str(ROOT), str(HERE), os.environ.get("PYTHONPATH", "")]))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WorkerSettings:
    home = tmp_path / "home"
    monkeypatch.setenv("COLLEGIUM_HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", _python_path())
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # a job has the threads of its slot, whatever is inherited
    return WorkerSettings(home=home, **DOUBLES, **TIMES)


@pytest.fixture
def client(
    request: pytest.FixtureRequest, settings: WorkerSettings, wait_until: Callable[..., Any]
) -> Iterator[JobClient]:
    """A client on a fresh database: SQLite, or what an indirect parameter names."""
    kind = getattr(request, "param", "sqlite")
    store = JobStore(open_engine(request.getfixturevalue(f"{kind}_url")))
    yield JobClient(store, ArtifactStore(settings.artifact_url), wait_until)
    store.close()


@pytest.fixture
def make_runner(client: JobClient, settings: WorkerSettings) -> Iterator[Callable[..., Runner]]:
    """Runners within this process; when the test ends nothing is claimed and no process is left."""
    runners = []

    def make(slots: int = 1, name: str = "runner", store: JobStore | None = None, **changes: Any) -> Runner:
        chosen = settings.model_copy(update=changes)
        places = [Slot(f"{queue}-{i}", queue, "cpu", 1) for queue in ("search", "train") for i in range(slots)]
        runner = Runner(name, chosen, store or client.store, client.artifacts, RecordingPublisher(), places)
        runners.append(runner)
        runner.start()
        return runner

    yield make
    for runner in runners:
        runner.close()
    client.assert_nothing_claimed()
    client.wait_until(lambda: not processes_of(settings.home), "every process is gone", 5.0)


@pytest.fixture
def runner(make_runner: Callable[..., Runner]) -> Runner:
    return make_runner()


@dataclass
class Worker:
    """A worker process."""

    popen: subprocess.Popen[bytes]
    home: Path
    log: Path

    def wait_ready(self, wait_until: Callable[..., Any]) -> None:
        wait_until(lambda: b"ready" in self.log.read_bytes() or self.popen.poll() is not None, "the worker is ready")
        assert self.popen.poll() is None, self.log.read_text()

    def computing(self) -> list[int]:
        """Its computing processes, spares included."""
        return [pid for pid in processes_of(self.home) if _parent(pid) == self.popen.pid]

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()

    def terminate(self) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout=PATIENCE_S)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@dataclass
class Setup:
    """A database, a broker and a home, and workers on them."""

    client: JobClient
    environment: dict[str, str]
    command: list[str]
    home: Path
    workers: list[Worker] = field(default_factory=list)

    def start(self, *, command: list[str] | None = None, wait: bool = True, **changes: Any) -> Worker:
        environment = self.environment | {f"COLLEGIUM_{key.upper()}": str(value) for key, value in changes.items()}
        log = self.home.parent / f"worker-{len(self.workers)}.log"
        with log.open("wb") as sink:
            popen = subprocess.Popen(
                command or self.command, env=environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink
            )
        worker = Worker(popen, self.home, log)
        self.workers.append(worker)
        if wait:
            worker.wait_ready(self.client.wait_until)
        return worker

    def close(self) -> None:
        for worker in self.workers:
            if worker.popen.poll() is None:
                worker.terminate()
        self.client.wait_until(lambda: not processes_of(self.home), "every process is gone", 5.0)


EMBEDDED = [sys.executable, "-m", "collegium.worker.embedded"]
CELERY = [
    sys.executable, "-m", "celery", "-A", "collegium.worker", "worker", "-Q", "search,train", "--pool", "threads",
    "-c", "4", "--without-mingle", "--without-gossip", "-l", "INFO",
]  # fmt: skip


@pytest.fixture(params=["embedded", "full"])
def setup(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setup]:
    """SQLite, a folder and ``collegium.worker.embedded``; or PostgreSQL, Redis and ``celery -A collegium.worker``."""
    home = tmp_path / "home"
    if request.param == "embedded":
        database, broker, command = request.getfixturevalue("sqlite_url"), f"filesystem://{home / 'broker'}", EMBEDDED
    else:
        database, broker = request.getfixturevalue("postgresql_url"), request.getfixturevalue("redis_url")
        command = [*CELERY, "-n", f"test-{os.getpid()}@%h"]
    values = {**TIMES, **DOUBLES, "home": home, "database_url": database, "broker_url": broker}
    values |= {"search_slots": 1, "train_slots": 1, "spares": 1}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COLLEGIUM_")}
    environment |= {f"COLLEGIUM_{key.upper()}": str(value) for key, value in values.items()}
    environment["PYTHONPATH"] = _python_path()
    store = JobStore(open_engine(database))
    sender = request.getfixturevalue("make_sender")(broker)
    artifacts = ArtifactStore(f"file://{home / 'artifacts'}")
    client = JobClient(store, artifacts, request.getfixturevalue("wait_until"), sender)
    made = Setup(client, environment, command, home)
    yield made
    made.close()
    client.assert_nothing_claimed()
    store.close()


@pytest.fixture
def make_sender() -> Iterator[Callable[[str], Callable[[str, str], Any]]]:
    """Sends hints as the API does: by task name, from another application."""
    from collegium.jobs.broker import TASK, sender

    opened = []

    def make(broker_url: str) -> Callable[[str, str], Any]:
        app = sender(broker_url)
        opened.append(app)
        return lambda job_id, queue: app.send_task(TASK, args=[job_id], queue=queue, ignore_result=True)

    yield make
    for app in opened:
        app.close()
