"""How an attempt ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from collegium.worker.failures import Cause


@dataclass(frozen=True)
class Succeeded:
    """With an answer."""

    result: dict[str, Any]

    def __str__(self) -> str:
        return "succeeded"


@dataclass(frozen=True)
class Failed:
    """For a cause."""

    cause: Cause

    def __str__(self) -> str:
        return f"failed, {self.cause.kind}: {self.cause.message}"


@dataclass(frozen=True)
class Stopped:
    """Because somebody cancelled the job."""

    def __str__(self) -> str:
        return "cancelled"


@dataclass(frozen=True)
class Released:
    """Because the worker shuts down; the job waits again."""

    def __str__(self) -> str:
        return "released"


@dataclass(frozen=True)
class Lost:
    """Somebody else may hold the job by now, so nothing is written."""

    reason: str

    def __str__(self) -> str:
        return f"lost: {self.reason}"


Verdict = Succeeded | Failed | Stopped | Released | Lost
