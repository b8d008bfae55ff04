"""``collegium.train.majority.draw`` as one loop over elements per tensor, for devices with a compiler.

The same numbers as the chunked operators of ``collegium.train.majority.draw``, written so that ``torch.compile``
makes a single kernel of each function. On a GPU this is one launch instead of several per chunk, and is used wherever
Triton is installed and can build its launchers; elsewhere, as in an image without a C compiler, the chunked operators
run on the GPU too. On a CPU the chunked operators are faster and need no compiler, so there it is off unless
``compile_on_cpu(True)``.
"""

import os
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CHUNK = 1 << 17  # elements: large enough to hide an operator's cost, small enough for the cores' caches
_cpu = False


def compile_on_cpu(on: bool) -> bool:
    """Switch compiled draws on CPU tensors on or off in this process; return what it was before.

    They need a C++ compiler and are the same numbers up to rounding.
    """
    global _cpu
    before, _cpu = _cpu, on
    return before


def enabled(device: torch.device) -> bool:
    """Whether draws on ``device`` are compiled."""
    return _cpu if device.type == "cpu" else device.type == "cuda" and _triton_compiles()


@cache
def _triton_compiles() -> bool:
    from torch.utils._triton import has_triton

    return has_triton() and builds_extensions()


def builds_extensions() -> bool:
    """Whether a C compiler and Python's headers are at hand, with which Triton builds the launcher of its kernels."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return compiler is not None and Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").is_file()


def mix(copies: Tensor, tables: Sequence[Tensor], offsets: Tensor, out: Tensor) -> None:
    """``draw.mix`` of ``copies`` (expansion, elements) into ``out`` (elements,)."""
    _compiled(mix_traced)(copies, tables, offsets, out)


def spread(gradient: Tensor, tables: Sequence[Tensor], offsets: Tensor, out: Tensor) -> None:
    """``draw.spread`` of ``gradient`` (elements,) into ``out`` (expansion, elements)."""
    _compiled(spread_traced)(gradient, tables, offsets, out)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def mix_traced(copies: Tensor, tables: Sequence[Tensor], offsets: Tensor, out: Tensor) -> None:
    """Elementwise form of ``draw.mix``; ``offsets`` is ``(chunks, expansion − 1)``."""
    *others, rest = copies.to(_accumulator(copies.dtype)).unbind()
    for copy, q in zip(others[::-1], fractions(tables, offsets, rest)[::-1], strict=True):
        rest = torch.lerp(copy, rest, q)
    out.copy_(rest)


def spread_traced(gradient: Tensor, tables: Sequence[Tensor], offsets: Tensor, out: Tensor) -> None:
    """Elementwise form of ``draw.spread``."""
    rest = gradient.to(_accumulator(gradient.dtype))
    for k, q in enumerate(fractions(tables, offsets, rest)):
        out[k].copy_(rest - rest * q)
        rest = rest * q
    out[-1].copy_(rest)


def fractions(tables: Sequence[Tensor], offsets: Tensor, like: Tensor) -> list[Tensor]:
    """q_1 … q_{e−1} of each element of the flat ``like``."""
    element = torch.arange(like.shape[0], dtype=torch.int32, device=like.device)
    chunk, position = element // CHUNK, element % CHUNK
    return [table[offsets[chunk, k] + position] for k, table in enumerate(tables)]


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.itemsize < 4 else dtype
