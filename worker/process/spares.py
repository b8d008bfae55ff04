"""Warm processes that wait for the next job, so that a search does not pay for importing torch."""

from __future__ import annotations

import threading
import time

from collegium.worker.process.process import ComputeProcess
from collegium.worker.settings import WorkerSettings

# Longer than the time between two children of one parent; after it, the memory is better free.
IDLE_S = 10.0


class Spares:
    """Keeps ``settings.spares`` fresh processes waiting and replaces each that is taken; and for a short while those
    that have served one child of a parent and may serve the next.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._wanted = settings.spares
        self._arguments = ["--preload", settings.preload, "--handlers", settings.extra_handlers]
        self._fresh: list[ComputeProcess] = []
        self._used: list[tuple[float, ComputeProcess]] = []
        self._lock = threading.Lock()
        self._closed = False

    def fill(self) -> None:
        """Start what is missing; returns while they still warm up."""
        with self._lock:
            self._fresh = [process for process in self._fresh if process.running]
            while not self._closed and len(self._fresh) < self._wanted:
                self._fresh.append(ComputeProcess(self._arguments))

    def take(self, *, fresh: bool = True) -> ComputeProcess:
        """The process that has waited longest, or a new one where none waits; one that has served before only where
        ``fresh`` does not matter, and then rather. The caller ends it.
        """
        with self._lock:
            waiting = [] if fresh else [process for _, process in self._used]
            waiting = [process for process in waiting + self._fresh if process.running]
            if waiting:
                self._remove(waiting[0])
                return waiting[0]
        return ComputeProcess(self._arguments)

    def give_back(self, process: ComputeProcess) -> None:
        """Keep a process whose job succeeded, for another child."""
        with self._lock:
            if process.running and not self._closed:
                while not process.inbox.empty():
                    process.inbox.get()
                process.log.clear()
                self._used.append((time.monotonic(), process))
                return
        process.end()

    def tidy(self) -> None:
        """End used processes for which no child came."""
        with self._lock:
            idle = [process for since, process in self._used if time.monotonic() - since > IDLE_S]
            for process in idle:
                self._remove(process)
        for process in idle:
            process.end()

    def close(self) -> None:
        """End those that wait; processes that were taken are ended by their takers."""
        with self._lock:
            self._closed = True
            waiting = self._fresh + [process for _, process in self._used]
            self._fresh, self._used = [], []
        for process in waiting:
            process.end()

    @property
    def pids(self) -> list[int]:
        """The processes that wait."""
        with self._lock:
            return [process.pid for process in [*(process for _, process in self._used), *self._fresh]]

    def _remove(self, process: ComputeProcess) -> None:
        self._fresh = [other for other in self._fresh if other is not process]
        self._used = [(since, other) for since, other in self._used if other is not process]
