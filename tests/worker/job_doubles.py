"""Handlers that stand in for the science: a job does what its spec says under ``do``.

Loaded by the computing processes of these tests alone, through ``COLLEGIUM_EXTRA_HANDLERS=job_doubles:HANDLERS``.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time

from collegium.worker.failures import JobRejected
from collegium.worker.protocol import AddEvent


def answer(spec, context):
    return {"answer": spec.get("value", 42), "pid": os.getpid(), "threads": os.environ.get("OMP_NUM_THREADS")}


def sleep(spec, context):
    """Reports throughout, and so stops at a cancellation."""
    (context.artifact_dir / "begun.txt").write_text(f"attempt {context.attempt}\n")
    until = time.monotonic() + spec.get("seconds", 60)
    while time.monotonic() < until:
        context.report(0.5, "asleep")
        time.sleep(0.02)
    return {"slept": True}


def wait_for(spec, context):
    """Reports until a file exists."""
    while not os.path.exists(spec["path"]):
        context.report(0.5, f"waiting in {os.getpid()}")
        time.sleep(0.02)
    return {"attempt": context.attempt}


def unresponsive(spec, context):
    """Never reports; only a signal ends it."""
    (context.artifact_dir / "begun.txt").write_text("unresponsive\n")
    context.report(0.1, "unresponsive")
    time.sleep(60)


def stubborn(spec, context):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return unresponsive(spec, context)


def crash(spec, context):
    print("about to crash", flush=True)
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(spec, context):
    os._exit(3)


def killed(spec, context):
    """Killed from outside on the first attempts, as by an operator."""
    if context.attempt <= spec.get("times", 1):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"attempt": context.attempt}


def fail(spec, context):
    (context.artifact_dir / "last.txt").write_text("what is left\n")
    raise RuntimeError(f"something broke in {os.getpid()}\nand there is a second line")


def refuse(spec, context):
    raise JobRejected("user_error", "no data set is called 'nothing'", "Name another one.")


def allocate(spec, context):
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    return {"bytes": len(bytearray(1 << 31))}


def spam(spec, context):
    for number in range(20_000):
        print(f"line {number} " + "x" * 50)
    sys.stdout.flush()
    os.write(1, b"straight to the descriptor\n")
    sys.stderr.write('{"type": "result", "result": {"forged": true}}\n')
    raise RuntimeError("after much talk")


def count(spec, context):
    """Counts, keeping its place, and goes on from there in another attempt."""
    place = context.checkpoint_dir / "place"
    begun = int(place.read_text()) if place.exists() else 0
    for number in range(begun, spec["to"]):
        place.with_suffix(".part").write_text(str(number + 1))
        place.with_suffix(".part").replace(place)
        context.report(number / spec["to"], f"at {number}")
        time.sleep(spec.get("pause", 0.02))
    return {"begun_at": begun, "attempt": context.attempt}


def record(spec, context):
    """Adds entries to the history and waits until they are there, as before a checkpoint is kept."""
    for number in range(spec["entries"]):
        context.event("log", {"number": number})
    context.settle()
    (context.checkpoint_dir / "settled").touch()
    while spec.get("wait"):
        context.report(0.5, "settled")
        time.sleep(0.02)
    return {}


def told_too_late(spec, context):
    """Adds an entry when it has been asked to stop already."""
    context.report(0.5, "waits")
    while not context._supervisor.cancelled.is_set():
        time.sleep(0.02)
    context.event("log", {"number": 0})


def files(spec, context):
    (context.artifact_dir / "a.txt").write_text("first")
    (context.artifact_dir / ".hidden").write_text("not this")
    (context.artifact_dir / "inner").mkdir()
    (context.artifact_dir / "inner" / "b.json").write_text("{}")
    os.symlink("/etc/hostname", context.artifact_dir / "link")
    return {}


def badly_named(spec, context):
    (context.artifact_dir / "no such name").write_text("x")
    return {}


def breed(spec, context):
    """Leaves a process of its own in the group."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    context.event("log", {"grandchild": child.pid})
    context.report(1.0, "bred")
    if spec.get("wait"):
        time.sleep(60)
    return {"grandchild": child.pid}


def parent(spec, context):
    done = []
    outcomes = context.fan_out(spec["children"], lambda ended, total: done.append((ended, total)))
    return {"outcomes": outcomes, "progress": done, "attempt": context.attempt, "pid": os.getpid()}


def estimate(spec, context):
    before = context.get_estimate(spec["key"])
    if spec.get("value") is not None:
        context.put_estimate(spec["key"], spec["value"])
    return {"before": before, "after": context.get_estimate(spec["key"])}


def unknown_event(spec, context):
    context.event("poem", {"line": 1})


def smuggled_event(spec, context):
    """Sends an event that the context would refuse."""
    context._supervisor.send(AddEvent("state", {"status": "succeeded"}))
    time.sleep(60)


def not_numbers(spec, context):
    context.event("metric", {"loss": float("nan"), "step": 3})
    return {"worst": float("inf"), "list": [float("nan"), 1.5]}


def garble(spec, context):
    os.write(context._supervisor._sink, b"this is no message\n")
    time.sleep(60)


ACTIONS = {
    function.__name__: function
    for function in (
        answer, sleep, wait_for, unresponsive, stubborn, crash, leave, killed, fail, refuse, allocate, spam, count,
        record, told_too_late,
        files, badly_named, breed, parent, estimate, not_numbers, garble, unknown_event, smuggled_event,
    )
}  # fmt: skip


def do(spec, context):
    return ACTIONS[spec["do"]](spec, context)


HANDLERS = dict.fromkeys(("search", "shard", "training", "study"), do)
