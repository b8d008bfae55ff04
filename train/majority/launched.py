"""The update of ``collegium.train.majority.fused`` on a GPU: one launch for all kernels of an optimizer.

A small kernel's step takes the device less time than its launch takes the host, and a network has hundreds of them. So
the addresses, keys and options of all kernels are packed into one table, which a single Triton launch reads (one for
each type of number, expansion and optimizer that there is); it needs nothing from the device, so that the host runs on.
"""

import struct
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from collegium.train.majority.draw import Draw
from collegium.train.majority.generators import philox
from collegium.train.majority.updates import Work

__all__ = ["Count", "count_steps", "norms", "update"]

_ROW = struct.Struct("=9q8d")
_WORDS = _ROW.size // 8
_NUMBERS = 8
_WARPS = 8  # of a program: with fewer, registers leave room for few programs
_torch: Any = torch  # what torch's own optimizers call has no public name


def _kind(work: Work) -> tuple[Any, ...]:
    """What kernels of one launch have in common."""
    copies = work.tensors[0]
    return copies.device, copies.dtype, len(copies), work.is_adam, len(work.tensors) - 1


def _row_of(work: Work, first: int) -> bytes:
    """The kernel's row of the table, if program ``first`` is the first that works on it."""
    return _row(work.gradient.numel(), first, work.draw, work.following, work.addresses, work.numbers)


def update(works: Iterable[Work]) -> None:
    """Do ``works``, each kernel's copies and state in place, and its mixture by the next draw into ``target``."""
    alike: dict[tuple[Any, ...], list[Work]] = {}
    for work in works:
        alike.setdefault(_kind(work), []).append(work)
    for (device, dtype, expansion, adam, states), some in alike.items():
        programs = [philox.programs(work.gradient.numel(), expansion) for work in some]
        with _on(device):
            table = _table((_row_of(work, first) for work, first in zip(some, _firsts(programs), strict=True)), device)
            _launch("update", table, programs, dtype, expansion, ADAM=adam, STATES=states)


def norms(gradients: Sequence[tuple[Tensor, Draw, int]]) -> list[Tensor]:
    """√ Σ_k |p_k ∘ g|² over all of ``gradients``, each with its draw and expansion: one for each kind of them."""
    alike: dict[tuple[Any, ...], list[tuple[Tensor, Draw]]] = {}
    for gradient, draw, expansion in gradients:
        alike.setdefault((gradient.device, gradient.dtype, expansion), []).append((gradient.contiguous(), draw))
    found = []
    for (device, dtype, expansion), some in alike.items():
        programs = [philox.programs(gradient.numel(), expansion) for gradient, _ in some]
        rows = (
            _row(gradient.numel(), first, draw, draw, [gradient.data_ptr()], ())
            for (gradient, draw), first in zip(some, _firsts(programs), strict=True)
        )
        with _on(device):
            squares = torch.empty(sum(programs), dtype=torch.float64, device=device)
            _launch("squares", _table(rows, device), programs, dtype, expansion, squares)
            found.append(squares.sum().sqrt().to(torch.promote_types(dtype, torch.float32)))
    return found


def count_steps(states: Sequence[dict[str, Any]], known: Sequence["Count"]) -> list[float]:
    """Count a step of Adam in each of ``states``; return all counts, 0 for SGD, without waiting for a device."""
    steps = [state.get("step") for state in states]
    taken = [0.0 if step is None else count.of(step) + 1 for step, count in zip(steps, known, strict=True)]
    there = [step for step in steps if step is not None and step.device.type != "cpu"]
    if there:
        _torch._foreach_add_(there, 1)
    for step, count, value in zip(steps, known, taken, strict=True):
        if step is not None and step.device.type == "cpu":
            step += 1
        elif step is not None:
            count.note(step, value)
    return taken


class Count:
    """The number of steps that a tensor on a device counts, known to the host as long as it alone changes it."""

    def __init__(self) -> None:
        self._known: tuple[Tensor, int, float] | None = None

    def of(self, step: Tensor) -> float:
        """Steps by now; read from the device, which waits for it, where it has changed or is another tensor."""
        known = self._known
        if known is None or known[0] is not step or known[1] != step._version:
            return float(step)
        return known[2]

    def note(self, step: Tensor, value: float) -> None:
        """``step`` has just been set to ``value``."""
        self._known = None if step.is_inference() else (step, step._version, value)

    def forget(self) -> None:
        """Others have counted, perhaps without a trace."""
        self._known = None


def _row(
    elements: int, first: int, draw: Draw, following: Draw, addresses: Sequence[int], numbers: Sequence[float]
) -> bytes:
    keys = philox.key(draw.state), philox.key(following.state)
    places = [*addresses, *[0] * (5 - len(addresses))]
    return _ROW.pack(elements, first, *keys, *places, *numbers, *[0.0] * (_NUMBERS - len(numbers)))


def _table(rows: Iterable[bytes], device: torch.device) -> Tensor:
    """``rows`` on ``device``, copied from memory that the device reads by itself."""
    table = torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.int64)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def _firsts(programs: Sequence[int]) -> list[int]:
    """The first program of each kernel."""
    found = [0]
    for number in programs[:-1]:
        found.append(found[-1] + number)
    return found


@lru_cache(maxsize=64)
def _owners(programs: tuple[int, ...], device: torch.device) -> Tensor:
    """For each program, the row of its kernel."""
    rows = torch.arange(len(programs), dtype=torch.int32)
    return torch.repeat_interleave(rows, torch.tensor(programs)).to(device)


def _launch(
    name: str, table: Tensor, programs: Sequence[int], dtype: torch.dtype, expansion: int, *out: Tensor, **named: Any
) -> None:
    if not sum(programs):
        return
    _kernels()[name][(sum(programs),)](
        table, _owners(tuple(programs), table.device), *out, WORDS=_WORDS, E=expansion, SHARE=philox.share(expansion),
        BLOCK=philox.BLOCK, DTYPE=_types()[dtype], WIDE=dtype == torch.float64, **named, num_warps=_WARPS,
        enable_fp_fusion=False,
    )  # fmt: skip


@cache
def _kernels() -> dict[str, Any]:
    from collegium.train.majority.generators import triton_updates

    return {"update": triton_updates.update, "squares": triton_updates.squares}


@cache
def _types() -> dict[torch.dtype, Any]:
    import triton.language as tl  # pyright: ignore[reportMissingImports]

    return {torch.float32: tl.float32, torch.float64: tl.float64, torch.bfloat16: tl.bfloat16}


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Context in which ``device`` is the present one."""
    elsewhere = device.type == "cuda" and device.index not in (None, torch.cuda.current_device())
    return torch.cuda.device(device) if elsewhere else nullcontext()
