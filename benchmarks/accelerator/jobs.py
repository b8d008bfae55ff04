"""A search and trainings through ``collegium serve``, its worker on the device; the memory they take and give back.

Memory is the whole device's, as its driver counts it, less what was taken before the service started. Memory that is
given back is counted from the end of the job, or from the kill of its process, until the device is as it was before.
On a processor there is no such count; the rest is checked all the same.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from service import address, get, process

from accelerator.section import Bench
from collegium.jobs.subprocesses import python

MIB = 1 << 20
TINY = {"family": "resnext", "layout": "cifar", "blocks": [1], "base_width": 8}
SLACK = 32 * MIB
"""What the driver may count differently from one moment to the next."""
PATIENCE_S = 60.0


@dataclass
class Check:
    """Whether all was as it must be, and what was not."""

    faults: list[str]

    def that(self, condition: bool, fault: str) -> None:
        if not condition:
            self.faults.append(fault)


def run(bench: Bench) -> None:
    """Rows for the idle service, a search, a training, and a killed training beside another search."""
    check = Check([])
    with tempfile.TemporaryDirectory() as home, service(Path(home), bench) as (client, device):
        bench.row(job="none: a warm process waits", MiB=device.own())
        check.that(device.settled(), "a process that waits holds memory of the device")
        bench.row(**finished(client, device, bench, check, "search", search_spec(bench.tiny, seed=0)))
        bench.row(**finished(client, device, bench, check, "training", training_spec(bench.tiny, epochs=2)))
        for row in killed(client, device, bench, check, Path(home)):
            bench.row(**row)
    if check.faults:
        raise SystemExit("; ".join(check.faults))


class Device:
    """The memory of the first GPU, by the driver's own program, which takes none itself."""

    def __init__(self, kind: str) -> None:
        self._counts = kind != "cpu"
        self._before = self._used()

    def own(self) -> int | None:
        """MiB taken since this object was made; None on a processor."""
        return round((self._used() - self._before) / MIB) if self._counts else None

    def settled(self) -> bool:
        """Whether the memory is as it was, or is so within a few seconds."""
        return not self._counts or self.seconds_to_settle(10.0) is not None

    def seconds_to_settle(self, patience_s: float = PATIENCE_S) -> float | None:
        """Seconds from now until the memory is as it was; None if it is not, and on a processor."""
        began = time.monotonic()
        while self._counts and time.monotonic() - began < patience_s:
            if self._used() - self._before <= SLACK:
                return round(time.monotonic() - began, 1)
            time.sleep(0.05)
        return None

    def _used(self) -> int:
        if not self._counts:
            return 0
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20)
        return int(answer.stdout.split()[0]) * MIB

    @contextmanager
    def peak(self) -> Iterator[Callable[[], int | None]]:
        """Context that watches the memory; what it gives returns the most MiB so far."""
        most, ended = [0], threading.Event()

        def watch() -> None:
            while not ended.wait(0.1):
                most[0] = max(most[0], self.own() or 0)

        watcher = threading.Thread(target=watch, daemon=True)
        if self._counts:
            watcher.start()
        try:
            yield lambda: most[0] if self._counts else None
        finally:
            ended.set()


@contextmanager
def service(home: Path, bench: Bench) -> Iterator[tuple[httpx.Client, Device]]:
    """The embedded service with its worker on the device."""
    device = Device(bench.device)
    settings = {
        "COLLEGIUM_HOME": str(home),
        "COLLEGIUM_LOG_LEVEL": "INFO",
        "COLLEGIUM_DEVICES": "auto" if bench.on_gpu else "cpu",
        "COLLEGIUM_HEARTBEAT_S": "0.5",
    }
    serve = python("-m", "collegium", "serve", "--port", "0")
    with process(serve, settings, home) as api, httpx.Client(base_url=address(api), timeout=60) as client:
        time.sleep(0.0 if bench.tiny else 8.0)  # a spare process loads torch meanwhile
        yield client, device


def search_spec(tiny: bool, seed: int) -> dict[str, Any]:
    """ResNet-50 by Monte Carlo, or a network of one block."""
    baseline = TINY if tiny else {"preset": "resnet50"}
    estimator = {"method": "monte_carlo", "relative_error": 0.1 if tiny else 0.005, "seed": seed}
    return {"baseline": baseline, "estimator": estimator}


def training_spec(tiny: bool, epochs: int) -> dict[str, Any]:
    """Majority kernels for a wide perceptron on teacher data: half a GiB of copies and optimizer state."""
    inputs, width = (16, 32) if tiny else (1024, 2048)
    data = {"name": "synthetic", "synthetic": {"samples": 500 if tiny else 50_000, "inputs": inputs}}
    return {
        "architecture": {"baseline": {"family": "mlp", "inputs": inputs, "hidden": [width] * 3, "outputs": 10}},
        "method": "majority",
        "data": data,
        "recipe": {"epochs": epochs, "batch_size": 256, "learning_rate": 1e-4},
    }


def finished(
    client: httpx.Client, device: Device, bench: Bench, check: Check, kind: str, spec: dict[str, Any]
) -> dict[str, Any]:
    """One job from its POST to its end and until its memory is given back."""
    began = time.monotonic()
    with device.peak() as peak:
        job = follow(client, post(client, kind, spec), ended)
    seconds = time.monotonic() - began
    back = device.seconds_to_settle()
    used = (job["result"] or {}).get("device", "")
    check.that(job["status"] == "succeeded", f"the {kind} {job['status']}: {job['failure']}")
    check.that(used.startswith(bench.device), f"the {kind} ran on {used or 'no device'}")
    check.that(not bench.on_gpu or (peak() or 0) > SLACK // MIB, f"the {kind} took no memory of the device")
    check.that(not bench.on_gpu or back is not None, f"the {kind} did not give its memory back")
    row = {"job": kind, "status": job["status"], "device": used, "s": round(seconds, 1)}
    return row | {"MiB": peak(), "given back after s": back}


def killed(client: httpx.Client, device: Device, bench: Bench, check: Check, home: Path) -> Iterator[dict[str, Any]]:
    """A training whose process is killed while a search runs on the same device; another process takes it up."""
    job = follow(client, post(client, "training", training_spec(bench.tiny, epochs=10_000)), begun)
    with device.peak() as peak:
        searched = follow(client, post(client, "search", search_spec(bench.tiny, seed=1)), ended)
        check.that(running(client, job), "the training ended beside a search")
        check.that(searched["status"] == "succeeded", f"the search beside it {searched['status']}")
        yield {"job": "a search beside a training", "status": searched["status"], "MiB": peak()}
    pid = process_of(home, job["id"])
    os.kill(pid, signal.SIGKILL)
    process_of(home, job["id"], other_than=pid)
    done = get(client, job["links"]["self"])["progress"]
    again = follow(client, job, lambda now: now["attempt"] == 2 and now["progress"] != done)
    check.that(pid not in processes_in(home / "work"), "the killed process is still there")
    yield {"job": "a training, killed: its second attempt", "status": again["status"], "MiB": device.own()}
    began = time.monotonic()
    client.post(job["links"]["cancel"]).raise_for_status()
    cancelled = follow(client, job, ended)
    back = device.seconds_to_settle()
    check.that(cancelled["status"] == "cancelled", f"the cancelled training {cancelled['status']}")
    check.that(not bench.on_gpu or back is not None, "the cancelled training did not give its memory back")
    check.that(not processes_in(home / "work" / job["id"]), "the cancelled training's process is still there")
    seconds = round(time.monotonic() - began, 1)
    yield {"job": "the same, cancelled", "status": cancelled["status"], "s": seconds, "given back after s": back}


def post(client: httpx.Client, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    """The job that the service made of a specification."""
    path = {"search": "/v1/searches", "training": "/v1/trainings"}[kind]
    answer = client.post(path, json=spec)
    if answer.is_error:
        raise SystemExit(f"{kind}: {answer.status_code} {answer.text}")
    return answer.json()


def ended(job: dict[str, Any]) -> bool:
    return job["status"] in ("succeeded", "failed", "cancelled")


def running(client: httpx.Client, job: dict[str, Any]) -> bool:
    return get(client, job["links"]["self"])["status"] == "running"


def begun(job: dict[str, Any]) -> bool:
    """Whether it computes: it has reported how far it is."""
    return job["status"] == "running" and job["progress"]["fraction"] > 0


def follow(client: httpx.Client, job: dict[str, Any], reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The job once it has ``reached`` a state. Raises ``SystemExit`` after a minute."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        now = get(client, job["links"]["self"])
        if reached(now):
            return now
        if ended(now):
            raise SystemExit(f"the {now['kind']} {now['status']} too early: {now['failure']}")
        time.sleep(0.05)
    raise SystemExit(f"the {job['kind']} took more than {PATIENCE_S:.0f} s")


def process_of(home: Path, job: str, other_than: int | None = None) -> int:
    """The computing process of a job, by its working directory, which is the attempt's own; waits until it is there."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        found = [pid for pid in processes_in(home / "work" / job) if pid != other_than]
        if found:
            return found[0]
        time.sleep(0.05)
    raise SystemExit("the job has no process")


def processes_in(folder: Path) -> list[int]:
    """Processes whose working directory is ``folder`` or below."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(folder.resolve()):
                found.append(int(entry.name))
        except OSError:
            continue  # it has ended, or is another user's
    return found
