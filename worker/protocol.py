"""Messages between a supervisor and its computing process: one JSON object a line.

The process reads its standard input and writes to its standard output; whatever a job prints goes to standard error,
never between the lines. Numbers that JSON lacks (NaN, infinities) are sent as ``null``.

::

    supervisor ──▶ process                         process ──▶ supervisor
    run                begin a job                 ready           the modules are loaded
    cancel             stop at the next report     progress        the fraction done
    lease_renewed      go on                       add_event       an entry for the job's history
    children_ended     all children have ended     start_children  create these children
    children_progress  how many have ended         get_estimate    read a stored estimate
    estimate           its value, or null          put_estimate    store an estimate
    events_written     they are in the history     write_events    write those added so far
    (end of input)     exit at once                result | failure | cancelled   the end of a job
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

LONGEST_LINE = 256 * 2**20


class ProtocolError(ValueError):
    """A line that is not a message."""


@dataclass(frozen=True)
class Message:
    """One line; ``type`` is the value of its ``type`` field."""

    type: ClassVar[str]


@dataclass(frozen=True)
class Run(Message):
    """Begin a job.

    ``environment`` is set before anything of the job runs, ``threads`` bounds its parallelism (0: no bound), and a
    process that receives nothing for ``lease_s`` seconds kills itself (0: it waits without limit).
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


@dataclass(frozen=True)
class Cancel(Message):
    """Stop at the next report."""

    type = "cancel"


@dataclass(frozen=True)
class LeaseRenewed(Message):
    """The attempt still holds the job; go on."""

    type = "lease_renewed"


@dataclass(frozen=True)
class ChildrenEnded(Message):
    """The outcome of each child, in the order of the request: ``{key, id, status, result, failure}``.

    A non-empty ``error`` is the reason why the children could not be created.
    """

    type = "children_ended"
    children: list[dict[str, Any]]
    error: str = ""


@dataclass(frozen=True)
class ChildrenProgress(Message):
    """How many children have ended, of how many."""

    type = "children_progress"
    done: int
    total: int


@dataclass(frozen=True)
class Estimate(Message):
    """The estimate stored under ``key``, or None."""

    type = "estimate"
    key: str
    value: dict[str, Any] | None


@dataclass(frozen=True)
class EventsWritten(Message):
    """Every entry added before ``write_events`` is in the job's history."""

    type = "events_written"


@dataclass(frozen=True)
class Ready(Message):
    """The process is warm; warming up took ``seconds``."""

    type = "ready"
    pid: int
    seconds: float = 0.0


@dataclass(frozen=True)
class Progress(Message):
    """``fraction`` of the job, 0 … 1, and a short message."""

    type = "progress"
    fraction: float
    message: str = ""


@dataclass(frozen=True)
class AddEvent(Message):
    """An entry for the job's history; ``event_type`` is one that attempts may write."""

    type = "add_event"
    event_type: str
    data: dict[str, Any]


@dataclass(frozen=True)
class WriteEvents(Message):
    """Write the entries added so far, and send ``events_written`` when they are in the history."""

    type = "write_events"


@dataclass(frozen=True)
class StartChildren(Message):
    """Create these children, ``{key, kind, spec}`` each, and send ``children_ended`` when all have ended."""

    type = "start_children"
    children: list[dict[str, Any]]


@dataclass(frozen=True)
class GetEstimate(Message):
    """Read the estimate stored under ``key``."""

    type = "get_estimate"
    key: str


@dataclass(frozen=True)
class PutEstimate(Message):
    """Store an estimate."""

    type = "put_estimate"
    key: str
    value: dict[str, Any]


@dataclass(frozen=True)
class JobSucceeded(Message):
    """The job's result; ``artifacts`` names the files that it left."""

    type = "result"
    result: dict[str, Any]
    artifacts: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class JobFailed(Message):
    """The job failed."""

    type = "failure"
    kind: str
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class JobCancelled(Message):
    """The job stopped at a ``cancel``."""

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
    """``value`` with every number that JSON lacks replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
