"""Starts a computing process in a group of its own, reads its messages, and ends it with all that it started."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from collegium.jobs.subprocesses import environment, python
from collegium.worker import protocol
from collegium.worker.protocol import Message, ProtocolError

LOG_BYTES = 64 * 1024


@dataclass(frozen=True)
class Exited:
    """The process has ended; ``returncode`` as in ``subprocess``."""

    returncode: int


@dataclass(frozen=True)
class MalformedMessage:
    """The process wrote a line that is not a message."""

    line: str


class LogTail:
    """The end of what a process printed, never more than ``limit`` bytes of it."""

    def __init__(self, limit: int = LOG_BYTES) -> None:
        self._limit = limit
        self._bytes = bytearray()
        self._lock = threading.Lock()

    def append(self, chunk: bytes) -> None:
        """Add output, and drop the oldest beyond the limit."""
        with self._lock:
            self._bytes += chunk
            del self._bytes[: max(0, len(self._bytes) - self._limit)]

    def clear(self) -> None:
        """Drop everything."""
        with self._lock:
            self._bytes.clear()

    def text(self, lines: int = 200) -> str:
        """The last ``lines`` lines."""
        with self._lock:
            text = self._bytes.decode(errors="replace")
        # PostgreSQL stores no NUL.
        return "\n".join(text.replace("\x00", "�").splitlines()[-lines:])


class ComputeProcess:
    """A running computing process. Its messages, and at last ``Exited``, arrive in ``inbox``; it was given ``jobs``."""

    def __init__(self, arguments: Sequence[str] = ()) -> None:
        self.inbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.log = LogTail()
        self.jobs = 0
        self._write_lock = threading.Lock()
        self._ended = threading.Event()
        self._popen = subprocess.Popen(
            python("-m", "collegium.worker.compute", *arguments),
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self._stdin: IO[bytes] = self._popen.stdin
        readers = [
            threading.Thread(target=self._read_messages, args=(self._popen.stdout,), daemon=True),
            threading.Thread(target=self._read_log, args=(self._popen.stderr,), daemon=True),
        ]
        for reader in readers:
            reader.start()
        threading.Thread(target=self._wait, args=(readers,), daemon=True).start()

    @property
    def pid(self) -> int:
        """The process, and its group."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return not self._ended.is_set()

    def send(self, message: Message) -> None:
        """Write a message; no-op once the process has ended."""
        with self._write_lock, contextlib.suppress(OSError, ValueError):
            self._stdin.write(protocol.encode(message))
            self._stdin.flush()

    def terminate(self) -> None:
        """SIGTERM to the whole group."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the whole group."""
        self._signal(signal.SIGKILL)

    def end(self, timeout: float = 10.0) -> None:
        """Kill the group and wait until it is gone."""
        self.kill()
        self._ended.wait(timeout)
        with self._write_lock, contextlib.suppress(OSError):
            self._stdin.close()

    def _signal(self, number: int) -> None:
        # Not once it has been waited for: its number may belong to another by then.
        if self.running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def _read_messages(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := stream.readline(protocol.LONGEST_LINE):
                try:
                    self.inbox.put(protocol.decode(line))
                except ProtocolError:
                    self.inbox.put(MalformedMessage(line[:200].decode(errors="replace")))
                    return

    def _read_log(self, stream: IO[bytes]) -> None:
        with contextlib.suppress(OSError, ValueError):
            while chunk := os.read(stream.fileno(), 1 << 16):
                self.log.append(chunk)

    def _wait(self, readers: list[threading.Thread]) -> None:
        if hasattr(os, "waitid"):
            # Ended but not yet waited for, it still owns its number: what it left in its group can be killed safely.
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self.kill()
            returncode = self._popen.wait()
        else:
            returncode = self._popen.wait()
            self.kill()
        for reader, stream in zip(readers, (self._popen.stdout, self._popen.stderr), strict=True):
            # What left the group and still holds the other end is not waited for.
            reader.join(timeout=2.0)
            if stream is not None and not reader.is_alive():
                stream.close()
        self._ended.set()
        self.inbox.put(Exited(returncode))
