"""Exit statuses, and how errors become them.

| status | meaning |
|---|---|
| 0 | done |
| 1 | the job failed, a check found something wrong, or a download was damaged |
| 2 | wrong usage: a bad option, file, setting or specification |
| 3 | the service or its database cannot be reached |
| 4 | the service refused: not found, no valid key, wrong state |
| 5 | the job was cancelled |
| 130 | interrupted with Ctrl-C |
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console

from collegium.app.client.client import Damaged, Refused, Unreachable
from collegium.app.settings import SettingsError
from collegium.streams import reason, silence

P = ParamSpec("P")
T = TypeVar("T")

DONE, FAILED, USAGE, UNREACHABLE, REFUSED, CANCELLED, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
OF_STATUS = {"succeeded": DONE, "failed": FAILED, "cancelled": CANCELLED}
_WRONG_INPUT = {"invalid-spec", "invalid-request", "invalid-dataset", "malformed-json"}

# A pipe has no width; eighty columns would cut tables that a script reads.
_WIDE = 240
out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
err = Console(highlight=False, stderr=True, width=None if sys.stderr.isatty() else _WIDE)


class Stop(Exception):
    """End the command with this message on standard error."""

    def __init__(self, status: int, message: str, remedy: str = "") -> None:
        self.status = status
        self.remedy = remedy
        super().__init__(message)


def unusable(error: OSError) -> Stop:
    """The end of a command that cannot use the folder of the settings."""
    return Stop(USAGE, reason(error), "name another folder with --home or COLLEGIUM_HOME")


def exit_with_status(command: Callable[P, T]) -> Callable[P, T]:
    """A command whose expected errors become one or two lines and an exit status, never a traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return command(*args, **kwargs)
        except Stop as stop:
            raise _end(stop.status, str(stop), stop.remedy) from stop
        except Unreachable as error:
            raise _end(UNREACHABLE, str(error), "start one with `collegium serve`, or name it with --server") from error
        except Refused as error:
            raise _refused(error) from error
        except Damaged as error:
            raise _end(FAILED, str(error)) from error
        except SettingsError as error:
            raise _end(USAGE, str(error), "docs/configuration.md lists every variable") from error
        except KeyboardInterrupt as error:
            raise _end(INTERRUPTED, "interrupted") from error
        except BrokenPipeError:
            # The reader has closed the pipe; nothing more can be written, not even at exit.
            silence()
            raise typer.Exit(DONE) from None
        except OSError as error:
            raise _end(FAILED, reason(error)) from error

    return run


def _refused(error: Refused) -> typer.Exit:
    for item in error.errors:
        err.print(f"[bold]{_plain(item.get('path', ''))}[/]: {_plain(item.get('message', ''))}", soft_wrap=True)
    if error.kind in _WRONG_INPUT:
        return _end(USAGE, "" if error.errors else str(error))
    remedy = "give a key with --key or COLLEGIUM_API_KEY" if error.status == 401 else ""
    return _end(UNREACHABLE if error.status == 503 else REFUSED, str(error), remedy)


def _end(status: int, message: str, remedy: str = "") -> typer.Exit:
    if message:
        err.print(f"[bold red]error[/] {_plain(message)}", soft_wrap=True)
    if remedy:
        err.print(f"      {_plain(remedy)}", soft_wrap=True)
    return typer.Exit(status)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(text)
