"""The computing process's end of the protocol."""

from __future__ import annotations

import gc
import os
import queue
import select
import signal
import sys
import threading
import time
from typing import NoReturn

from collegium.worker import protocol
from collegium.worker.protocol import Cancel, LeaseRenewed, Message, ProtocolError, Run


class SupervisorConnection:
    """Sends and receives messages, and ends the process when its supervisor is gone.

    The supervisor is gone when the input ends, or when nothing arrived for the length of the lease: then another
    attempt may already hold the job, and this process kills its whole group.
    """

    def __init__(self, source: int, sink: int) -> None:
        self._source = source
        self._sink = sink
        self._write_lock = threading.Lock()
        self._runs: queue.SimpleQueue[Run] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._lease_s = 0.0
        self.cancelled = threading.Event()

    @classmethod
    def over_standard_streams(cls) -> SupervisorConnection:
        """Take standard input and output for the protocol, and point what jobs print at standard error."""
        sys.stdout.flush()
        source, sink = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        return cls(source, sink)

    def start(self) -> None:
        """Start the thread that receives."""
        threading.Thread(target=self._receive_lines, name="supervisor", daemon=True).start()

    def send(self, message: Message) -> None:
        """Write one line; ends the process where the supervisor no longer reads."""
        line = memoryview(protocol.encode(message))
        try:
            with self._write_lock:
                while line:
                    line = line[os.write(self._sink, line) :]
        except OSError:
            die()

    def next_run(self) -> Run:
        """Wait for a job."""
        return self._runs.get()

    def reply(self, timeout: float) -> Message | None:
        """The next reply to a request, or None after ``timeout`` seconds."""
        try:
            return self._replies.get(timeout=timeout)
        except queue.Empty:
            return None

    def finished(self) -> None:
        """Discard what belongs to the job that has ended."""
        self._lease_s = 0.0
        while not self._replies.empty():
            self._replies.get()
        gc.collect()

    def _receive_lines(self) -> None:
        pending = bytearray()
        last_received = time.monotonic()
        while True:
            # A short wait, since the lease may begin or end meanwhile.
            if not select.select([self._source], [], [], 0.5)[0]:
                if self._lease_s and time.monotonic() - last_received > self._lease_s:
                    die()
                continue
            chunk = os.read(self._source, 1 << 16)
            if not chunk:
                die()
            last_received = time.monotonic()
            pending += chunk
            *lines, rest = pending.split(b"\n") if b"\n" in chunk else (pending,)
            for line in lines:
                self._receive(bytes(line))
            pending = bytearray(rest)

    def _receive(self, line: bytes) -> None:
        try:
            message = protocol.decode(line)
        except ProtocolError as error:
            print(error, file=sys.stderr)
            die()
        match message:
            case Run():
                self.cancelled.clear()
                self._lease_s = message.lease_s
                self._runs.put(message)
            case Cancel():
                self.cancelled.set()
            case LeaseRenewed():
                pass
            case _:
                self._replies.put(message)


def die() -> NoReturn:
    """End this process at once and, where it leads a group, everything that it started."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
