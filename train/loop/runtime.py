"""Where a training runs: one device, or several processes of one machine, through Lightning Fabric."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from collegium.train.methods.step import Execution
from collegium.train.spec.recipes import Recipe

#: Floating-point operations of a step below which a second thread costs more than it brings: measured on two cores that
#: had other work too.
SMALL_STEP = 2e8
PRECISION = {"fp32": "32-true", "tf32": "32-true", "bf16": "bf16-mixed"}


@dataclass(frozen=True)
class DeviceLayout:
    """Where to run, parsed from text: ``cpu``, ``cpu:2`` (two processes), ``cuda``, ``cuda:1`` or ``cuda:0,1``."""

    accelerator: str
    devices: int | list[int]

    @classmethod
    def parse(cls, device: str) -> DeviceLayout:
        """Raises ``ValueError`` for anything else."""
        kind, _, which = device.partition(":")
        parts = which.split(",") if which else []
        numbers = [int(part) for part in parts if part.isdigit()]
        distinct = len(set(numbers)) == len(parts)
        if not distinct or kind not in ("cpu", "cuda") or (kind == "cpu" and (len(parts) > 1 or numbers == [0])):
            raise ValueError(f"device {device!r} is neither 'cpu', 'cpu:PROCESSES', 'cuda' nor 'cuda:INDEX,…'")
        if kind == "cpu":
            return cls("cpu", numbers[0] if numbers else 1)
        return cls("cuda", numbers or [0])

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.devices if isinstance(self.devices, int) else len(self.devices)

    def fabric(self, precision: str) -> Fabric:
        """A Fabric for this layout; several processes are spawned, and average their gradients."""
        strategy = "auto" if self.world == 1 else "ddp_spawn"
        return Fabric(
            accelerator=self.accelerator,
            devices=self.devices,
            strategy=strategy,
            precision=PRECISION[precision],  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class Runtime:
    """One process of a training."""

    fabric: Fabric
    recipe: Recipe

    @property
    def device(self) -> torch.device:
        """The device of this process."""
        return self.fabric.device

    @property
    def rank(self) -> int:
        """Which of the processes this is."""
        return self.fabric.global_rank

    @property
    def world(self) -> int:
        """Number of processes."""
        return self.fabric.world_size

    @property
    def plain(self) -> bool:
        """Whether modules can run as they are: one process, full precision. Spares a small network the wrappers."""
        return self.world == 1 and self.recipe.precision != "bf16"

    @property
    def evaluation_batch(self) -> int:
        """Samples that are evaluated at a time: without a backward pass, more of them fit."""
        return 4 * -(-self.recipe.batch_size // self.recipe.accumulate)

    def setup(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer, Execution]:
        """Model and optimizer as this process runs them, and how its backward pass runs."""
        if self.recipe.compile:
            torch.compiler.reset()  # graphs of models before this one count towards dynamo's limit
            model.compile()
        if self.plain:
            return model, optimizer, Execution()
        wrapped, wrapped_optimizer = self.fabric.setup(model, optimizer)
        return wrapped, wrapped_optimizer, Execution(self.fabric.backward, self._no_sync)  # type: ignore[return-value]

    def _no_sync(self, model: nn.Module) -> Any:
        return self.fabric.no_backward_sync(model)  # type: ignore[arg-type]

    def sum(self) -> Callable[[Tensor], Tensor] | None:
        """Adds a tensor over all processes; None where there is one."""
        if self.world == 1:
            return None
        return lambda value: self.fabric.all_reduce(value, reduce_op="sum")  # type: ignore[return-value]

    def autocast(self) -> Any:
        """The precision of evaluation on the way, which is that of training."""
        return self.fabric.autocast()


@contextmanager
def threads_for(operations: float) -> Iterator[None]:
    """Context for steps of so many floating-point operations: on one thread where they are few."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if operations < SMALL_STEP else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def float32_as(precision: str) -> Iterator[None]:
    """Context in which float32 factors keep all their bits, or are rounded to TF32 where ``precision`` is ``tf32``.

    torch's own defaults differ: matrix products keep them, convolutions round them. A CPU has no TF32.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def free_memory(device: torch.device) -> int:
    """Bytes that a training on ``device`` may use."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _available_memory()


def used_memory(device: torch.device) -> int:
    """Most bytes used so far: allocated on an accelerator, resident on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:  # since this program began: ``ru_maxrss`` begins with what the process that started it had
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _available_memory() -> int:
    """Memory that the machine has to spare, or the control group that this process is in, where that is less."""
    group, spare = Path("/sys/fs/cgroup"), [_machine_memory()]
    try:
        limit = (group / "memory.max").read_text().strip()
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        if limit != "max":
            used = int((group / "memory.current").read_text()) - int(statistics.get("inactive_file", 0))
            spare.append(int(limit) - used)  # cached files give way
    except (OSError, ValueError):
        pass  # no control group here, or an older kind
    return max(0, min(spare))


def _machine_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
