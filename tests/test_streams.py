"""Commands whose standard streams are closed, full, cut off, or of an encoding without their characters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from collegium.jobs.subprocesses import environment
from collegium.streams import reason, writable

# As ``python -m collegium`` does; and as the processes that describe and reproduce do.
COMMAND = "from collegium.app.cli import main; main()"
PROCESS = "from collegium.streams import run; run(lambda: print('n → m' * 50_000) or 3)"
SHELL = 'exec {python} -P -c "$PROGRAM" "$@" {redirections}'


def ran(program: str, *arguments: str, redirections: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    text = SHELL.format(python=sys.executable, redirections=redirections)
    return subprocess.run(
        ["bash", "-c", text, "bash", *arguments],
        env=environment(PROGRAM=program, COLUMNS="120", **variables),
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=120,
        check=False,
    )


def test_closed_streams_are_nothing_and_no_files_of_others() -> None:
    """What is opened next is not given the number of a standard stream."""
    program = (
        "import os; from collegium.streams import prepare; prepare(); print('lost'); import sys; sys.stdin.read();"
        "sys.exit(open(os.devnull).fileno() <= 2)"
    )
    done = ran(program, redirections="<&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_command_runs_with_closed_streams() -> None:
    assert ran(COMMAND, "presets", redirections="<&- >&- 2>&-").returncode == 0
    empty = ran(COMMAND, "search", "-", redirections="<&-")
    assert (empty.returncode, "Traceback" in empty.stderr) == (2, False)


@pytest.mark.parametrize(("program", "status"), [(COMMAND, 0), (PROCESS, 3)], ids=["command", "process"])
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1:surrogateescape"])
def test_characters_that_an_encoding_has_not_are_question_marks(program: str, status: int, encoding: str) -> None:
    done = ran(program, "--help", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (status, "")
    assert "?" in done.stdout or "\ufffd" in done.stdout


def test_a_reader_that_has_gone_is_no_error() -> None:
    text = SHELL.format(python=sys.executable, redirections="| head -c 5; exit ${PIPESTATUS[0]}")
    done = subprocess.run(
        ["bash", "-c", text.removeprefix("exec ")],
        env=environment(PROGRAM=PROCESS),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("program", [COMMAND, PROCESS], ids=["command", "process"])
def test_a_full_disk_is_named(program: str) -> None:
    done = ran(program, "presets", redirections="> /dev/full")
    assert (done.returncode, done.stderr) == (1, "error No space left on device\n")


def test_what_failed_is_named_with_its_reason() -> None:
    assert reason(OSError(28, "No space left on device")) == "No space left on device"
    assert reason(OSError("the reason alone")) == "the reason alone"
    assert reason(FileNotFoundError(2, "No such file", b"/x")) == "/x: No such file"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert writable(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        writable(tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda *asked: False)
    with pytest.raises(PermissionError, match="cannot be written"):
        writable(tmp_path)
