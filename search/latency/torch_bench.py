"""Segments timed with torch, on a processor or a GPU."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from collegium.search.latency.bench import Timer
from collegium.search.latency.workload import Workload
from collegium.search.networks.segment import Segment
from collegium.search.whole_network.inputs.samples import drawn_samples

#: Bytes of segments that are built at a time on a processor, and the share of a GPU's memory that they take there.
ROOM, SHARE = 2**30, 1 / 8
#: A learning rate at which an update does its work and leaves the weights finite.
RATE = 1e-9


class TorchBench:
    """Times segments with torch on ``device``.

    On a GPU by its events. On a processor by the wall clock, and for one thread by the time that this thread computes,
    in which other programs on the same core are not counted.
    """

    def __init__(self, device: str = "cpu") -> None:
        kind, _, which = device.partition(":")
        self._device = torch.device(device.partition(",")[0] if kind == "cuda" and which else kind)

    @property
    def machine(self) -> str:
        """Such as ``Intel(R) Xeon(R) Processor (AVX512), torch 2.13.0``."""
        if self._device.type == "cuda":
            name = torch.cuda.get_device_name(self._device)
        else:
            name = f"{_processor()} ({torch.backends.cpu.get_cpu_capability()})"
        return f"{name}, torch {torch.__version__}"

    @property
    def threaded(self) -> bool:
        """True but on a GPU."""
        return self._device.type != "cuda"

    @property
    def room(self) -> int:
        """1 GiB, and an eighth of a GPU's memory: the baseline's parts are built again for each group of segments."""
        if self._device.type != "cuda":
            return ROOM
        return max(ROOM, int(SHARE * torch.cuda.get_device_properties(self._device).total_memory))

    def threads(self, workload: Workload) -> int:
        """The workload's own, or those of this process."""
        return workload.threads or torch.get_num_threads()

    @contextmanager
    def settings(self, workload: Workload) -> Iterator[None]:
        """Threads, and how float32 factors are rounded, as the workload wants them; afterwards as before."""
        threads = torch.get_num_threads()
        rounding = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_num_threads(self.threads(workload))
        torch.set_float32_matmul_precision("high" if workload.precision == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = workload.precision == "tf32"
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(rounding[0])
            torch.backends.cudnn.allow_tf32 = rounding[1]

    def prepare(self, segment: Segment, workload: Workload) -> Timer:
        """A timer of forward passes or of training steps of the segment, with weights of its own.

        They and the inputs are drawn on the device itself: a batch takes longer to draw on a processor than to compute
        on a GPU.
        """
        gpus = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus), self._device:
            torch.default_generator.manual_seed(0)
            module: nn.Module = segment.build().to(self._device)
            inputs = [x.to(self._device) for x in _inputs(segment, workload.batch_size)]
        if workload.channels_last:
            layout: Any = torch.channels_last
            if inputs[0].dim() == 4:
                module = module.to(memory_format=layout)  # type: ignore[call-overload]
            inputs = [x.to(memory_format=layout) if x.dim() == 4 else x for x in inputs]
        step = (
            self._training(module, inputs, segment, workload)
            if workload.training
            else self._inference(module, inputs, workload)
        )
        if self._device.type == "cuda":
            return self._on_gpu(step)
        return _clocked(step, time.thread_time if self.threads(workload) == 1 else time.perf_counter)

    def _inference(self, module: nn.Module, inputs: Sequence[Tensor], workload: Workload) -> Callable[[], Any]:
        number = torch.bfloat16 if workload.precision == "bf16" else torch.float32
        module, given = module.to(number).eval(), [x.to(number) if x.is_floating_point() else x for x in inputs]

        def step() -> None:
            with torch.inference_mode():
                module(*given)

        return step

    def _training(
        self, module: nn.Module, inputs: Sequence[Tensor], segment: Segment, workload: Workload
    ) -> Callable[[], Any]:
        module.train()
        inputs[0].requires_grad_(not segment.leading)
        optimizer = optimizer_of(module, workload)
        mixed = workload.precision == "bf16"

        def step() -> None:
            with torch.autocast(self._device.type, torch.bfloat16) if mixed else nullcontext():
                y = module(*inputs)
            y.backward(torch.ones_like(y))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            inputs[0].grad = None

        return step

    def _on_gpu(self, step: Callable[[], Any]) -> Timer:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

        def timer(calls: int) -> float:
            with torch.cuda.device(self._device):
                torch.cuda.synchronize()
                start.record()
                for _ in range(calls):
                    step()
                end.record()
                torch.cuda.synchronize()
            return start.elapsed_time(end) / 1e3 / calls

        return timer


def _inputs(segment: Segment, samples: int) -> list[Tensor]:
    """A batch of random samples; of several tensors, or of integers, as they are drawn for measurements of kernels."""
    if not segment.reads:
        return [torch.randn(samples, *segment.shape)]
    return [torch.from_numpy(each) for each in drawn_samples(segment.reads, samples, None, seed=0).arrays]


def _clocked(step: Callable[[], Any], clock: Callable[[], float]) -> Timer:
    def timer(calls: int) -> float:
        started = clock()
        for _ in range(calls):
            step()
        return (clock() - started) / calls

    return timer


def optimizer_of(module: nn.Module, workload: Workload) -> torch.optim.Optimizer:
    """The update, fused over all parameters, as trainings run it."""
    if workload.optimizer == "sgd":
        return torch.optim.SGD(module.parameters(), lr=RATE, momentum=0.9, fused=True)
    kind = torch.optim.Adam if workload.optimizer == "adam" else torch.optim.AdamW
    return kind(module.parameters(), lr=RATE, fused=True)


def _processor() -> str:
    """The processor's name, as far as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
