"""Every failure has its kind."""

import errno
import signal
import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from collegium.jobs.record import FAILURE_KINDS
from collegium.search.errors import InvalidSpec
from collegium.train.errors import DataError, Diverged, DoesNotFit, Mismatch
from collegium.worker.failures import REMEDIES, Cause, JobRejected, MemoryKills, from_exception, from_exit


def invalid():
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(int).validate_python("x")
    return caught.value


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (JobRejected("timeout", "too slow", "wait"), "timeout", "too slow"),
        (Diverged("the loss is nan", "lower the rate"), "user_error", "the loss is nan"),
        (DoesNotFit("no room", "take less"), "out_of_memory", "no room"),
        (Mismatch("65 inputs", "give 64"), "invalid_spec", "65 inputs"),
        (DataError("cut short", "fetch it again"), "user_error", "cut short"),
        (InvalidSpec(("baseline", "layers", 2), "no such kernel"), "invalid_spec", "baseline.layers.2: no such kernel"),
        (invalid(), "invalid_spec", "valid integer"),
        (MemoryError(), "out_of_memory", "MemoryError"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            "out_of_memory",
            "tried",
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out_of_memory", "Cannot allocate"),
        (ZeroDivisionError("division by zero"), "internal", "ZeroDivisionError: division by zero"),
        (KeyboardInterrupt(), "internal", "KeyboardInterrupt"),
        (SystemExit(3), "internal", "SystemExit: 3"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_exception_has_a_kind(error, kind, words):
    cause = from_exception(error)
    assert cause.kind == kind
    assert words in cause.message
    assert cause.advice
    assert not cause.retry


def test_torch_runs_out_of_memory():
    torch = pytest.importorskip("torch")
    assert from_exception(torch.cuda.OutOfMemoryError("CUDA out of memory.")).kind == "out_of_memory"
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert from_exception(caught.value).kind == "out_of_memory"


@pytest.mark.parametrize(
    ("returncode", "for_memory", "kind", "retry"),
    [
        (-signal.SIGKILL, True, "out_of_memory", False),
        (-signal.SIGKILL, False, "worker_lost", True),
        (-signal.SIGTERM, False, "worker_lost", True),
        (-signal.SIGSEGV, False, "internal", False),
        (-signal.SIGABRT, True, "internal", False),
        (3, False, "internal", False),
        (0, False, "internal", False),
    ],
)
def test_an_end_without_an_outcome_has_a_kind(returncode, for_memory, kind, retry):
    cause = from_exit(returncode, for_memory)
    assert (cause.kind, cause.retry) == (kind, retry)


def test_a_signal_is_named():
    assert "SIGSEGV" in from_exit(-signal.SIGSEGV, False).message
    assert "signal 63" in from_exit(-63, False).message


def test_every_kind_has_a_remedy():
    assert set(REMEDIES) == set(FAILURE_KINDS)
    assert Cause("timeout", "m").advice == REMEDIES["timeout"]
    assert Cause("timeout", "m", "r").advice == "r"


def test_the_kernel_counts_what_it_kills(tmp_path):
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom_kill 4\n")
    kills = MemoryKills(((counter, "oom_kill"), (tmp_path / "missing", "oom_kill")))
    assert not kills.happened()
    counter.write_text("low 0\noom_kill 5\n")
    assert kills.happened()


def test_without_counters_a_kill_is_put_down_to_memory(tmp_path):
    assert MemoryKills(((tmp_path / "missing", "oom_kill"),)).happened()


def test_the_counters_of_this_machine_ignore_other_kills():
    kills = MemoryKills()
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    child.kill()
    child.wait()
    assert kills.happened() is (not kills._read())
