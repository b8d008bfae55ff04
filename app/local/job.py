"""Runs one job on this machine, in a process of its own, without a database.

The process is ``python -m collegium.worker.compute --once``. Both sides write one JSON object a line, as
``collegium.worker.protocol`` describes. The application never imports the worker, so the few messages that it needs
are repeated here.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import IO, Any

from collegium.app.settings import Settings
from collegium.jobs.subprocesses import environment, python
from collegium.search.progress import Report

_LOG_LINES = 60
_CANCEL_GRACE_S = 10.0
_KILL_GRACE_S = 3.0


class LocalFailure(Exception):
    """The computation failed; the attributes are those of a job's failure."""

    def __init__(self, kind: str, message: str, remedy: str = "", log_tail: str = "") -> None:
        self.kind, self.message, self.remedy, self.log_tail = kind, message, remedy, log_tail
        super().__init__(message)


def compute(
    kind: str,
    spec: dict[str, Any],
    settings: Settings,
    progress: Report,
    *,
    keep: Callable[[Path], None] = lambda folder: None,
) -> dict[str, Any]:
    """The result of a job computed here.

    ``keep`` is called with the folder of the files that the job wrote, before it is removed. Samples are kept for
    later searches below ``home``, where that can be written. Raises ``LocalFailure``, and passes ``KeyboardInterrupt``
    on after the process has ended.
    """
    cache = settings.home / "estimates"
    with contextlib.suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
    kept = ("--cache", str(cache)) if os.path.isdir(cache) else ()
    command = python("-m", "collegium.worker.compute", "--once", *kept, "--preload", "")
    with tempfile.TemporaryDirectory(prefix="collegium-") as place:
        workdir, checkpoints = Path(place, "work"), Path(place, "checkpoints")
        workdir.mkdir()
        process = subprocess.Popen(
            command,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        tail: deque[str] = deque(maxlen=_LOG_LINES)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        reader = Thread(target=_keep_tail, args=(process.stderr, tail), daemon=True)
        reader.start()
        run = {
            "type": "run", "job": "local", "kind": kind, "spec": spec, "workdir": str(workdir),
            "checkpoint_dir": str(checkpoints), "data_dir": str(settings.data_dir),
            "datasets_dir": str(settings.datasets_dir),
        }  # fmt: skip
        try:
            _write(process.stdin, run)
            result = _read(process.stdout, progress)
        except KeyboardInterrupt:
            _cancel(process)
            raise
        finally:
            _end(process)
            reader.join(_KILL_GRACE_S)
        if isinstance(result, LocalFailure) or result is None:
            failure = result or LocalFailure("internal", "the computing process ended without a result")
            failure.log_tail = "\n".join(tail)
            raise failure
        keep(workdir / "artifacts")
        return result


def _read(lines: IO[bytes], progress: Report) -> dict[str, Any] | LocalFailure | None:
    for line in lines:
        message = json.loads(line)
        match message["type"]:
            case "progress":
                progress(message["fraction"], message.get("message", ""))
            case "result":
                return message["result"]
            case "failure":
                return LocalFailure(message["kind"], message["message"], message.get("remedy", ""))
            case "cancelled":
                return LocalFailure("cancelled", "the computation was cancelled")
    return None


def _write(pipe: IO[bytes], message: dict[str, Any]) -> None:
    try:
        pipe.write(json.dumps(message).encode() + b"\n")
        pipe.flush()
    except BrokenPipeError:
        pass  # the process has ended, and its output has the reason


def _cancel(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    _write(process.stdin, {"type": "cancel"})
    try:
        process.wait(_CANCEL_GRACE_S)
    except subprocess.TimeoutExpired:
        process.terminate()


def _end(process: subprocess.Popen[bytes]) -> None:
    """The process ends when its input ends; one that does not is killed."""
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(_KILL_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def _keep_tail(pipe: IO[bytes], tail: deque[str]) -> None:
    with pipe:
        for line in pipe:
            tail.append(line.decode(errors="replace").rstrip())
