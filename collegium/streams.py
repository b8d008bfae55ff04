"""Standard streams as a command needs them: open, and able to take every character."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

_FAILED = 1
# How an encoding without a character is met, where that is an error; stderr has another way.
_FAILING = {"strict", "surrogateescape"}
_STREAMS = (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))


def prepare() -> None:
    """Open those that are closed on nothing, and have a question mark printed for what an encoding has not.

    A number that stays closed would be given to the next file that is opened, such as a database, which child
    processes would then have as their output.
    """
    for number, (name, flags) in enumerate(_STREAMS):
        stream = getattr(sys, name)
        if stream is None:
            place = os.open(os.devnull, flags)
            if place != number:
                os.dup2(place, number)
                os.close(place)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", encoding="utf-8", closefd=False))
        elif number and isinstance(stream, io.TextIOWrapper) and stream.errors in _FAILING:
            stream.reconfigure(errors="replace")


def silence() -> None:
    """Send to nothing what is still to be written where the reader has closed the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def reason(error: OSError) -> str:
    """What failed, and why.

    >>> reason(PermissionError(errno.EACCES, "Permission denied", "/data"))
    '/data: Permission denied'
    """
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{os.fsdecode(error.filename)}: {error.strerror}"


def writable(folder: Path) -> Path:
    """The folder, made where it is missing. Raises OSError where nothing can be written into it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "it cannot be written", str(folder))
    return folder


def run(main: Callable[[], int]) -> NoReturn:
    """End the process with the status that ``main`` returns; 0 where what it printed is no longer read."""
    prepare()
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        silence()
        status = 0
    except OSError as error:
        print(f"error {reason(error)}", file=sys.stderr)
        status = _FAILED
    sys.exit(status)
