"""What a supervisor and its computing process say to each other: one JSON object a line.

The process reads its standard input and answers on its standard output; whatever a job prints goes to standard
error, never between the lines. Numbers that JSON does not know (NaN, infinities) travel as ``null``.

::

    supervisor ──▶ process                         process ──▶ supervisor
    run          begin a job                       ready      the modules are loaded
    cancel       stop at the next report           progress   how far
    alive        the lease was renewed             event      a metric or a log line
    fan_in       all children have ended           fan_out    create these children
    fan_in_progress  so many have                  known?     is this estimate stored
    known        the stored estimate, or null      remember   store this estimate
    job          another job, or null              job?       look at another job
    (end of input)  exit at once                   result | failure | cancelled   the end of a job
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

LONGEST_LINE = 256 * 2**20


class ProtocolError(ValueError):
    """A line that is no message."""


@dataclass(frozen=True)
class Message:
    """One line; ``type`` is the word that begins its kind."""

    type: ClassVar[str]


@dataclass(frozen=True)
class Run(Message):
    """Begin a job.

    ``environment`` is set before anything of the job runs, ``threads`` bounds its parallelism (0: leave it), and a
    process that hears nothing for ``lease_s`` seconds kills itself (0: it waits for ever). ``known`` holds estimates
    given along.
    """

    type = "run"
    job: str
    kind: str
    spec: dict[str, Any]
    workdir: str
    checkpoint_dir: str
    attempt: int = 1
    data_dir: str = ""
    datasets_dir: str = ""
    device: str = "cpu"
    threads: int = 0
    environment: dict[str, str] = field(default_factory=dict)
    lease_s: float = 0.0
    known: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cancel(Message):
    """Stop at the next report."""

    type = "cancel"


@dataclass(frozen=True)
class Alive(Message):
    """The lease was renewed; go on."""

    type = "alive"


@dataclass(frozen=True)
class FanIn(Message):
    """Every child has ended, in the order asked: ``{key, id, status, result, failure}`` each.

    ``error`` says instead why the children could not be created.
    """

    type = "fan_in"
    children: list[dict[str, Any]]
    error: str = ""


@dataclass(frozen=True)
class FanInProgress(Message):
    """How many children have ended, of how many."""

    type = "fan_in_progress"
    done: int
    total: int


@dataclass(frozen=True)
class Known(Message):
    """The estimate stored under ``key``, or None."""

    type = "known"
    key: str
    value: dict[str, Any] | None


@dataclass(frozen=True)
class JobInfo(Message):
    """Another job as ``{id, kind, status, spec, result}``, or None where there is none."""

    type = "job"
    id: str
    job: dict[str, Any] | None


@dataclass(frozen=True)
class Ready(Message):
    """The process is warm; ``seconds`` is what warming up took."""

    type = "ready"
    pid: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Progress(Message):
    """``fraction`` of the job, 0 … 1, and a few words."""

    type = "progress"
    fraction: float
    message: str = ""


@dataclass(frozen=True)
class Event(Message):
    """An entry for the job's history; ``event_type`` is ``metric`` or ``log``."""

    type = "event"
    event_type: str
    data: dict[str, Any]


@dataclass(frozen=True)
class FanOut(Message):
    """Create these children, ``{key, kind, spec}`` each, and answer when all have ended."""

    type = "fan_out"
    children: list[dict[str, Any]]


@dataclass(frozen=True)
class KnownQuery(Message):
    """Is an estimate stored under ``key``?"""

    type = "known?"
    key: str


@dataclass(frozen=True)
class Remember(Message):
    """Store an estimate."""

    type = "remember"
    key: str
    value: dict[str, Any]


@dataclass(frozen=True)
class JobQuery(Message):
    """What is known of another job?"""

    type = "job?"
    id: str


@dataclass(frozen=True)
class Result(Message):
    """The job's answer; ``artifacts`` names the files that it left."""

    type = "result"
    result: dict[str, Any]
    artifacts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Failure(Message):
    """The job failed."""

    type = "failure"
    kind: str
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Cancelled(Message):
    """The job stopped because it was told to."""

    type = "cancelled"


_TYPES: dict[str, type[Message]] = {kind.type: kind for kind in Message.__subclasses__()}


def encode(message: Message) -> bytes:
    """The message as one line, newline included."""
    body = {"type": message.type} | asdict(message)
    try:
        text = json.dumps(body, allow_nan=False)
    except ValueError:
        text = json.dumps(finite(body), allow_nan=False)
    return text.encode() + b"\n"


def decode(line: bytes | str) -> Message:
    """The message on a line. Raises ``ProtocolError``."""
    try:
        body = json.loads(line)
        return _TYPES[body.pop("type")](**body)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        shown = line[:200] if isinstance(line, str) else line[:200].decode(errors="replace")
        raise ProtocolError(f"not a message: {shown!r}") from error


def finite(value: Any) -> Any:
    """``value`` with every number that JSON does not know replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
