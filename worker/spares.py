"""Warm processes that wait for the next job, so that a search does not pay for importing torch."""

from __future__ import annotations

import threading
from collections import deque

from worker.process import ComputeProcess
from worker.settings import WorkerSettings


class Spares:
    """Keeps ``settings.spares`` processes waiting, and replaces each that is taken."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._wanted = settings.spares
        self._arguments = ["--preload", settings.preload, "--handlers", settings.extra_handlers]
        self._waiting: deque[ComputeProcess] = deque()
        self._lock = threading.Lock()
        self._closed = False

    def fill(self) -> None:
        """Start what is missing; returns while they still warm up."""
        with self._lock:
            for process in [process for process in self._waiting if not process.running]:
                self._waiting.remove(process)
            while not self._closed and len(self._waiting) < self._wanted:
                self._waiting.append(ComputeProcess(self._arguments))

    def take(self) -> ComputeProcess:
        """The process that has waited longest, or a new one where none waits. The caller ends it."""
        with self._lock:
            while self._waiting:
                process = self._waiting.popleft()
                if process.running:
                    return process
        return ComputeProcess(self._arguments)

    def give_back(self, process: ComputeProcess) -> None:
        """Keep a process that has ended its job well, if there is room for it; end it otherwise."""
        with self._lock:
            if process.running and not self._closed and len(self._waiting) <= self._wanted:
                while not process.inbox.empty():
                    process.inbox.get()
                process.log.clear()
                self._waiting.appendleft(process)
                return
        process.end()

    def close(self) -> None:
        """End those that wait; a process that is taken from now on is its taker's business alone."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
        for process in waiting:
            process.end()

    def __len__(self) -> int:
        with self._lock:
            return len(self._waiting)
