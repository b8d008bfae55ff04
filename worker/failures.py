"""Kinds of failure, with one sentence on what to do.

::

    an exception in the process                    the process's end, without an outcome
    ├── has a remedy    its kind, or user_error    ├── SIGKILL, when the kernel killed for memory  out_of_memory
    ├── InvalidSpec     invalid_spec               ├── SIGKILL or SIGTERM otherwise                worker_lost, again
    ├── out of memory   out_of_memory              ├── any other signal                            internal
    └── anything else   internal                   └── an exit status                              internal
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from collegium.jobs.record import FailureKind

REMEDIES: dict[FailureKind, str] = {
    "invalid_spec": "Correct the field that is named and post the job again.",
    "user_error": "Correct what is named and post the job again.",
    "out_of_memory": "Ask for less at once (a smaller batch, width or model), or use a machine with more memory.",
    "timeout": "Ask for less work, or raise the time limit of this kind of job in the worker's settings.",
    "worker_lost": "Post the job again; if it is lost again, look at the worker's machine and its log.",
    "internal": "This is a fault of the program: report it with the log tail.",
}

# Messages of torch, numpy and the C library where they raise no MemoryError.
_MEMORY_PHRASES = ("out of memory", "can't allocate memory", "cannot allocate memory", "unable to allocate")


class JobRejected(Exception):
    """A handler refuses a job: ``kind`` is the failure's, ``remedy`` says what to do."""

    def __init__(self, kind: FailureKind, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.remedy = remedy


@dataclass(frozen=True)
class Cause:
    """A failure without its log tail; ``retry`` where a second attempt may succeed."""

    kind: FailureKind
    message: str
    remedy: str = ""
    retry: bool = False

    @property
    def advice(self) -> str:
        """The remedy, or the usual one of this kind."""
        return self.remedy or REMEDIES[self.kind]


def kind_of(word: object) -> FailureKind:
    """The kind that a word names; ``internal`` for any other word."""
    known: list[FailureKind] = list(REMEDIES)
    return known[known.index(word)] if word in known else "internal"


def from_exception(error: BaseException) -> Cause:
    """The cause behind an exception that a handler let pass.

    An exception with a ``remedy`` is meant for the user; its ``kind``, if it has one, is the failure's.
    """
    names = {base.__name__ for base in type(error).__mro__}
    remedy = getattr(error, "remedy", None)
    if isinstance(remedy, str):
        message = str(getattr(error, "message", None) or error)
        return Cause(kind_of(getattr(error, "kind", "user_error")), message, remedy)
    if names & {"InvalidSpec", "ValidationError"}:
        return Cause("invalid_spec", _invalid(error))
    if _is_out_of_memory(error, names):
        return Cause("out_of_memory", _sentence(error))
    return Cause("internal", _sentence(error))


def _invalid(error: BaseException) -> str:
    path = ".".join(str(part) for part in getattr(error, "path", ()))
    return f"{path}: {getattr(error, 'message', error)}" if path else str(error)


def _is_out_of_memory(error: BaseException, names: set[str]) -> bool:
    if names & {"MemoryError", "OutOfMemoryError"}:
        return True
    if isinstance(error, OSError) and error.errno == 12:
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _MEMORY_PHRASES)


def _sentence(error: BaseException) -> str:
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def from_exit(returncode: int, killed_for_memory: bool) -> Cause:
    """The cause behind a process that ended without a result; ``returncode`` as in ``subprocess``."""
    if returncode == -signal.SIGKILL:
        if killed_for_memory:
            return Cause("out_of_memory", "The kernel killed the computing process because memory ran out.")
        return Cause("worker_lost", "The computing process was killed from outside.", retry=True)
    if returncode == -signal.SIGTERM:
        return Cause("worker_lost", "The computing process was terminated from outside.", retry=True)
    if returncode < 0:
        return Cause("internal", f"The computing process crashed with {_signal_name(-returncode)}.")
    return Cause("internal", f"The computing process ended early, with exit status {returncode}.")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class MemoryKills:
    """Distinguishes the kernel's out-of-memory kills from any other SIGKILL.

    The kernel counts such kills, for the machine and for the control group. Where neither counter can be read, as on
    macOS, a SIGKILL that the worker did not send counts as one.
    """

    COUNTERS = (
        (Path("/sys/fs/cgroup/memory.events"), "oom_kill"),
        (Path("/sys/fs/cgroup/memory/memory.oom_control"), "oom_kill"),
        (Path("/proc/vmstat"), "oom_kill"),
    )

    def __init__(self, counters: tuple[tuple[Path, str], ...] = COUNTERS) -> None:
        self._counters = counters
        self._before = self._read()

    def happened(self) -> bool:
        """Whether the kernel has killed for memory since this object was made."""
        now = self._read()
        return now != self._before if now else True

    def _read(self) -> tuple[int, ...]:
        found = []
        for path, name in self._counters:
            try:
                lines = path.read_text().splitlines()
            except OSError:
                continue
            found += [int(line.split()[1]) for line in lines if line.split()[:1] == [name]]
        return tuple(found)
