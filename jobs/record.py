"""Records that the store returns: frozen, changed by the store alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Generic, Literal, NamedTuple, TypeVar, get_args

from collegium.jobs.database.json_text import decode
from collegium.jobs.states import TERMINAL, Status

Kind = Literal["search", "shard", "training", "study"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Queue = Literal["search", "train"]
QUEUES: tuple[Queue, ...] = get_args(Queue)
QUEUE_OF: dict[Kind, Queue] = {"search": "search", "shard": "search", "training": "train", "study": "train"}
FailureKind = Literal["invalid_spec", "user_error", "out_of_memory", "timeout", "worker_lost", "internal"]
FAILURE_KINDS: tuple[FailureKind, ...] = get_args(FailureKind)

MESSAGE_LIMIT = 2_000
LOG_TAIL_LIMIT = 64_000

T = TypeVar("T")


@dataclass(frozen=True)
class EventType:
    """A type of entry in a job's history: its name, who writes it, and what its data holds.

    The store writes its own types together with the change that they record; ``by_attempt`` marks those that the
    computing process of an attempt adds.
    """

    name: str
    data: str
    by_attempt: bool = False


#: Every type of event. Checks, the published schema and the stream derive from this table.
EVENT_TYPES: dict[str, EventType] = {
    type.name: type
    for type in (
        EventType("state", "`status`, `attempt` and, where they apply, `worker`, `reason`, `failure`"),
        EventType("progress", "`fraction` and `message`"),
        EventType("metric", "one row of metrics", by_attempt=True),
        EventType("log", "what the attempt records", by_attempt=True),
    )
}
WRITABLE = tuple(type.name for type in EVENT_TYPES.values() if type.by_attempt)


def check_writable(event_type: str) -> None:
    """Raise ValueError unless attempts write events of this type."""
    if event_type not in WRITABLE:
        raise ValueError(f"an attempt writes {' and '.join(WRITABLE)} events, not {event_type!r}")


@dataclass(frozen=True)
class Failure:
    """Why a job failed: a sentence, what to do about it, and the end of the computing process's output.

    Long texts are cut: a message and a remedy at their end, a log tail at its beginning.
    """

    kind: FailureKind
    message: str
    remedy: str = ""
    log_tail: str = ""

    def __post_init__(self) -> None:
        if self.kind not in FAILURE_KINDS:
            raise ValueError(f"{self.kind!r} is no kind of failure; one of {', '.join(FAILURE_KINDS)}")
        object.__setattr__(self, "message", self.message[:MESSAGE_LIMIT])
        object.__setattr__(self, "remedy", self.remedy[:MESSAGE_LIMIT])
        object.__setattr__(self, "log_tail", self.log_tail[-LOG_TAIL_LIMIT:])

    def as_dict(self) -> dict[str, str]:
        """The four fields, as stored and as shown."""
        return asdict(self)


@dataclass(frozen=True)
class Job:
    """One job as a transaction saw it.

    ``attempt`` counts claims and fences writes; ``released`` of them were given back by a worker that shut down and
    do not count towards ``max_attempts``. ``revision`` grows with every change that a reader can see (a renewed
    lease is none), so it serves as an ETag. ``last_seq`` is the number of the newest event. ``started_at`` is the
    first claim; times are aware, in UTC, by the database's clock. ``spec_text`` is the JSON of ``spec``.
    """

    id: str
    kind: Kind
    status: Status
    queue: Queue
    spec_text: str
    fingerprint: str | None
    fraction: float
    message: str
    result: dict[str, Any] | None
    failure: Failure | None
    attempt: int
    released: int
    max_attempts: int
    parent_id: str | None
    child_key: str | None
    cancel_requested: bool
    worker: str | None
    lease_until: datetime | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime
    revision: int
    last_seq: int

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The specification, decoded when it is first read."""
        return decode(self.spec_text)

    @property
    def terminal(self) -> bool:
        """Whether the job has ended."""
        return self.status in TERMINAL

    @property
    def attempts_left(self) -> int:
        """How many more claims may end in failure before the job does."""
        return max(0, self.max_attempts - (self.attempt - self.released))


@dataclass(frozen=True)
class Event:
    """One entry of a job's history, of a type in ``EVENT_TYPES``; ``seq`` starts at 1 and has no gaps within a job."""

    seq: int
    type: str
    data: dict[str, Any]
    at: datetime

    @property
    def terminal(self) -> bool:
        """Whether it is the last event of the job."""
        return self.type == "state" and self.data["status"] in TERMINAL


@dataclass(frozen=True)
class Artifact:
    """A file that a job left: its size in bytes, its SHA-256 in hex, and where the artifact store keeps it."""

    name: str
    bytes: int
    sha256: str
    media_type: str
    location: str


@dataclass(frozen=True)
class Child:
    """A job to be created below a parent; ``key`` is unique among its siblings and makes its creation idempotent."""

    key: str
    kind: Kind
    spec: Mapping[str, Any]
    queue: Queue
    fingerprint: str | None = None
    max_attempts: int = 3


@dataclass(frozen=True)
class Heartbeat:
    """What a heartbeat returns."""

    cancel_requested: bool


class Hint(NamedTuple):
    """A queued job and its queue, for a message to the workers."""

    id: str
    queue: Queue


@dataclass(frozen=True)
class Page(Generic[T]):
    """Some rows, newest first, and the cursor of the next ones (None: there are none)."""

    items: tuple[T, ...]
    next_cursor: str | None


@dataclass(frozen=True)
class Reaped:
    """The jobs whose lease had run out, by their new state."""

    expired: tuple[Hint, ...]
    failed: tuple[str, ...]
    cancelled: tuple[str, ...]


@dataclass(frozen=True)
class QueueMetrics:
    """Metrics of the queues, for monitoring.

    ``depth`` counts active jobs by (queue, status); ``oldest_queued_seconds`` is, by queue, how long the first in
    line has waited since it was last queued; ``counters`` only ever grow: ``lease_expiries``, ``fenced_writes``,
    ``attempts.succeeded``, ``attempts.cancelled``, ``attempts.released``, ``attempts.lost`` and
    ``attempts.failed.<kind>``.
    """

    depth: dict[tuple[Queue, Status], int]
    oldest_queued_seconds: dict[Queue, float]
    counters: dict[str, int]


@dataclass(frozen=True)
class ApiKey:
    """A bearer key as listed: never its secret."""

    id: str
    name: str
    created_at: datetime


@dataclass(frozen=True)
class Dataset:
    """A data set, kept once by the SHA-256 of its bytes, which is its id."""

    id: str
    name: str
    bytes: int
    kind: str
    summary: dict[str, Any]
    created_at: datetime
