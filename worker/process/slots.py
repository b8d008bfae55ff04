"""Slots in which jobs run: one per GPU, or a share of the processor's cores, for either queue."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import runpy
import subprocess
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from collegium.jobs.record import QUEUES, Queue
from collegium.worker.settings import WorkerSettings, visible_gpus

log = logging.getLogger("collegium.worker")

MOST_SEARCHES = 8


@dataclass(frozen=True)
class Slot:
    """Room for one job of ``queue``: a device, the environment that makes it the only one seen, and threads."""

    name: str
    queue: Queue
    device: str
    threads: int
    environment: dict[str, str] = field(default_factory=dict, hash=False)


def plan_slots(settings: WorkerSettings, gpus: Sequence[str] | None = None, cores: int | None = None) -> list[Slot]:
    """The slots of this machine.

    A search and a training may share a GPU, so that a long training never holds up a search. Without GPUs there are at
    least two searches at once, so that a long one does not hold up a short one, and each has two cores or more.
    """
    gpus = find_gpus(settings.devices) if gpus is None else gpus
    cores = count_cores() if cores is None else cores
    together = {"search": 1, "train": min(settings.train_gpus, len(gpus))}
    wanted = {
        "search": settings.search_slots or len(gpus) or max(2, min(cores // 2, MOST_SEARCHES)),
        "train": settings.train_slots or (len(gpus) // together["train"] if gpus else 1),
    }
    slots = []
    for queue in QUEUES:
        for index in range(wanted[queue]):
            own = [gpus[(index * together[queue] + i) % len(gpus)] for i in range(together[queue])] if gpus else []
            threads = max(min(2, cores), cores // wanted[queue])
            # nvidia-smi counts in the order of the bus, CUDA by default from the fastest device.
            environment = {"CUDA_VISIBLE_DEVICES": ",".join(own), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"} if own else {}
            slots.append(Slot(f"{queue}-{index}", queue, _device(len(own)), threads, environment))
    return slots


def _device(gpus: int) -> str:
    """The process's name for the devices that are visible to it."""
    if gpus < 2:
        return "cuda" if gpus else "cpu"
    return "cuda:" + ",".join(map(str, range(gpus)))


class SlotPool:
    """Hands out slots, never more than ``limit`` at once; one is left to searches while trainings hold the others."""

    def __init__(self, slots: Iterable[Slot], limit: int | None = None) -> None:
        self._free = list(slots)
        self._total = len(self._free)
        self._limit = min(limit or self._total, self._total)
        self._queues = {slot.queue for slot in self._free}
        self._held: list[Slot] = []
        self._lock = threading.Lock()

    @property
    def queues(self) -> tuple[Queue, ...]:
        """The queues that have slots here."""
        return tuple(queue for queue in QUEUES if queue in self._queues)

    @property
    def limit(self) -> int:
        """How many jobs may run at once."""
        return self._limit

    def has_room(self, queue: str) -> bool:
        """Whether ``try_acquire`` would find a slot just now."""
        with self._lock:
            return self._find(queue) is not None

    def try_acquire(self, queue: str) -> Slot | None:
        """A free slot of ``queue``, or None."""
        with self._lock:
            slot = self._find(queue)
            if slot is not None:
                self._free.remove(slot)
                self._held.append(slot)
            return slot

    def release(self, slot: Slot) -> None:
        """Give a slot back."""
        with self._lock:
            self._held.remove(slot)
            self._free.insert(0, slot)

    def _find(self, queue: str) -> Slot | None:
        if len(self._held) >= self._limit or not self._leaves_room(queue):
            return None
        return next((slot for slot in self._free if slot.queue == queue), None)

    def _leaves_room(self, queue: str) -> bool:
        if queue == "search" or "search" not in self._queues or self._limit == 1:
            return True
        return sum(slot.queue == queue for slot in self._held) < self._limit - 1


def count_cores() -> int:
    """Cores that this process may use: its affinity, and its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()[:2]
        cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def find_gpus(devices: str) -> list[str]:
    """GPUs as ``CUDA_VISIBLE_DEVICES`` names them; found without loading torch, which would initialise them.

    ``auto`` finds none where torch is built for processors alone: each job would fail.
    """
    if devices == "cpu":
        return []
    if devices != "auto":
        return devices.split(",")
    visible = visible_gpus()
    gpus = _listed_gpus() if visible is None else visible
    if gpus and not torch_supports_gpus():
        log.warning("GPUs %s are not used: this build of torch is for processors alone", ",".join(gpus))
        return []
    return gpus


def _listed_gpus() -> list[str]:
    try:
        listed = subprocess.run(
            ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=20, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()


def torch_supports_gpus() -> bool:
    """Whether torch is built with CUDA or ROCm, read from its version file without loading torch."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    built = runpy.run_path(str(Path(found.origin).with_name("version.py")))
    return bool(built.get("cuda") or built.get("hip"))
