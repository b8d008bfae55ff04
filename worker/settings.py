"""Everything that the worker reads from the environment, and nowhere else.

``docs/configuration.md`` lists each variable; ``collegium.jobs.settings`` holds those that the API reads too.
"""

from __future__ import annotations

import os
from typing import Any, Literal

from pydantic import Field, model_validator

from collegium.jobs.settings import SettingsError, SharedSettings, load

__all__ = ["SettingsError", "WorkerSettings", "load_settings", "visible_gpus"]

DAY = 86_400.0


class WorkerSettings(SharedSettings):
    """The worker's configuration; field ``x`` is read from ``COLLEGIUM_X``. Times are seconds.

    Machines that continue each other's trainings share ``home``, ``data_dir`` and ``datasets_dir``.

    * ``devices``: ``auto`` (every GPU of the machine, else the processor), ``cpu``, or GPU indices ``0,1``;
      ``search_slots`` and ``train_slots``: jobs of either queue at once, by default one per GPU, or on the processor
      a search for every two cores (two to eight) and one training; ``train_gpus``: GPUs of each training; ``spares``:
      warm processes that wait for the next job.
    * ``lease_s``: how long a job is held without a heartbeat; ``heartbeat_s``: how often the lease is renewed, and
      so how soon a cancellation is noticed; ``poll_s``: how often a free slot polls for jobs whose message was
      lost; ``reap_s``: how often the jobs of dead workers are queued again.
    * ``cancel_grace_s`` after a cancellation SIGTERM is sent, ``term_grace_s`` after that SIGKILL; at a shutdown
      ``shutdown_grace_s`` takes the place of the first.
    * ``preload``: modules that a warm process has imported; ``extra_handlers``: ``module:mapping`` of handlers,
      ``{kind: function(spec, context)}``, which replace the built-in ones of the kinds that it names.
    """

    devices: str = Field(default="auto", pattern=r"^(auto|cpu|[0-9]+(,[0-9]+)*)$")
    search_slots: int | None = Field(default=None, ge=1, le=1024)
    train_slots: int | None = Field(default=None, ge=1, le=1024)
    train_gpus: int = Field(default=1, ge=1, le=64)
    spares: int = Field(default=1, ge=0, le=64)

    lease_s: float = Field(default=30.0, gt=0, le=3600)
    heartbeat_s: float = Field(default=1.0, gt=0, le=600)
    poll_s: float = Field(default=1.0, gt=0, le=600)
    reap_s: float = Field(default=5.0, gt=0, le=600)
    progress_s: float = Field(default=0.25, ge=0, le=60)
    cancel_grace_s: float = Field(default=10.0, ge=0, le=3600)
    term_grace_s: float = Field(default=5.0, ge=0, le=3600)
    shutdown_grace_s: float = Field(default=4.0, ge=0, le=3600)
    search_timeout_s: float = Field(default=6 * 3600.0, gt=0)
    shard_timeout_s: float = Field(default=3600.0, gt=0)
    training_timeout_s: float = Field(default=14 * DAY, gt=0)
    study_timeout_s: float = Field(default=60 * DAY, gt=0)

    preload: str = "torch,collegium.search.engine,collegium.search.sampling.local,collegium.search.plot"
    extra_handlers: str = Field(default="", pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_]\w*)?$")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @model_validator(mode="after")
    def _heartbeat_within_lease(self) -> WorkerSettings:
        if self.heartbeat_s > self.lease_s / 2:
            raise ValueError("heartbeat_s must be at most half of lease_s")
        return self

    def timeout_s(self, kind: str) -> float:
        """Wall-clock limit of one attempt at a job of this kind."""
        return float(getattr(self, f"{kind}_timeout_s"))


def load_settings(**overrides: Any) -> WorkerSettings:
    """Settings from the environment, with ``overrides`` first. Raises ``SettingsError``."""
    return load(WorkerSettings, overrides)


def visible_gpus() -> list[str] | None:
    """GPUs that ``CUDA_VISIBLE_DEVICES`` leaves to this process, or None where it does not restrict them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return None
    return [name.strip() for name in named.split(",") if name.strip() not in {"", "-1"}]
