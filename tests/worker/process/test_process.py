"""A computing process: its messages, its cancellation, and its end with all that it started."""

import os
import signal
import time
from pathlib import Path

import pytest

from collegium.worker import protocol
from collegium.worker.process.process import ComputeProcess, Exited, LogTail

ARGUMENTS = ["--preload", "json", "--handlers", "job_doubles:HANDLERS"]


@pytest.fixture
def process(settings):
    started = ComputeProcess(ARGUMENTS)
    yield started
    started.end()


def run(process, tmp_path, do, lease_s=0.0, **spec):
    order = protocol.Run(
        "job", "search", {"do": do, **spec}, str(tmp_path / "w"), str(tmp_path / "c"), threads=1, lease_s=lease_s
    )
    process.send(order)


def receive(process, kind, patience_s=20.0):
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        message = process.inbox.get(timeout=patience_s)
        if isinstance(message, kind):
            return message
    raise AssertionError(f"no {kind}")


def test_it_runs_one_job_after_another(process, tmp_path):
    assert receive(process, protocol.Ready).pid == process.pid
    for value in (1, 2):
        run(process, tmp_path, "answer", value=value)
        assert receive(process, protocol.JobSucceeded).result["answer"] == value


def test_cancel_acts_at_the_next_report_and_ends_with_the_job(process, tmp_path):
    run(process, tmp_path, "sleep")
    receive(process, protocol.Progress)
    process.send(protocol.Cancel())
    receive(process, protocol.JobCancelled)
    run(process, tmp_path, "answer")
    assert receive(process, protocol.JobSucceeded).result["answer"] == 42


def test_cancel_before_the_job_begins_is_not_lost(process, tmp_path):
    run(process, tmp_path, "sleep")
    process.send(protocol.Cancel())
    receive(process, protocol.JobCancelled)
    assert process.running


def test_a_kind_without_handler_fails(process, tmp_path):
    process.send(protocol.Run("job", "riddle", {}, str(tmp_path / "w"), str(tmp_path / "c")))
    assert "no handler for jobs of kind 'riddle'" in receive(process, protocol.JobFailed).message


def test_it_ends_when_its_supervisor_is_gone(process, tmp_path, wait_until):
    """As when a worker is killed: the end of its input is all that a process sees of it."""
    run(process, tmp_path, "breed", wait=True)
    grandchild = receive(process, protocol.AddEvent).data["grandchild"]
    process._stdin.close()
    assert receive(process, Exited).returncode == -signal.SIGKILL
    wait_until(lambda: gone(grandchild), "its child is gone")


@pytest.mark.slow
def test_it_ends_when_its_supervisor_is_silent_for_a_lease(process, tmp_path):
    run(process, tmp_path, "unresponsive", lease_s=1.0)
    receive(process, protocol.Progress)
    for _ in range(4):
        time.sleep(0.5)
        process.send(protocol.LeaseRenewed())
    assert process.running
    begun = time.monotonic()
    assert receive(process, Exited).returncode == -signal.SIGKILL
    assert 0.5 < time.monotonic() - begun < 10


def test_an_idle_process_waits_without_a_lease(process, tmp_path):
    run(process, tmp_path, "answer", lease_s=0.6)
    receive(process, protocol.JobSucceeded)
    time.sleep(1.5)
    assert process.running


def test_the_group_ends_when_its_leader_does(process, tmp_path, wait_until):
    run(process, tmp_path, "breed", wait=True)
    grandchild = receive(process, protocol.AddEvent).data["grandchild"]
    os.kill(process.pid, signal.SIGKILL)
    receive(process, Exited)
    wait_until(lambda: gone(grandchild), "its child is gone")


def test_a_message_to_one_that_has_ended_does_no_harm(process):
    process.end()
    process.end()
    process.send(protocol.Cancel())
    process.kill()
    assert not process.running


def test_a_module_that_is_broken_does_not_stop_it(settings, tmp_path, wait_until):
    process = ComputeProcess(["--preload", "no_such_module", "--handlers", "job_doubles:HANDLERS"])
    run(process, tmp_path, "answer")
    assert receive(process, protocol.JobSucceeded)
    # what it writes comes by another pipe than its messages
    wait_until(lambda: "no_such_module" in process.log.text(), "the module is named in its log")
    process.end()


def test_a_log_tail_forgets_its_beginning():
    tail = LogTail(limit=100)
    for number in range(50):
        tail.append(f"line {number}\n".encode())
    tail.append(b"nul \0 and \xff\n")
    assert tail.text(2).splitlines()[0] == "line 49"
    assert "\0" not in tail.text()
    assert len(tail.text()) <= 100
    tail.clear()
    assert tail.text() == ""


def gone(pid):
    """Ended, or ended and not yet waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
