"""Drawing on an accelerator: Philox, in a Triton kernel where there is one, else torch's own generator.

A kernel's mixture, and its gradient, is one launch (``triton_kernels`` beside this) wherever Triton is installed and
can build its launchers; elsewhere, as in an image without a C compiler, torch draws the uniforms of a whole tensor from
a generator that is seeded with the key of the draw. Each gives the same numbers again on the same
kind of device; they are other numbers than a processor's, and than each other's.
"""

import os
import shutil
import sysconfig
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

BLOCK = 1024  # counters a Triton program takes: part of which element gets which number
_KEY = (1 << 62) - 1


def runs_triton(device: torch.device) -> bool:
    """Whether draws on ``device`` are Triton kernels."""
    return device.type == "cuda" and _triton_compiles()


@cache
def _triton_compiles() -> bool:
    from torch.utils._triton import has_triton

    return has_triton() and builds_extensions()


def builds_extensions() -> bool:
    """Whether a C compiler and Python's headers are at hand, with which Triton builds the launcher of its kernels."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return compiler is not None and Path(sysconfig.get_path("include", "posix_prefix"), "Python.h").is_file()


def mix(copies: Tensor, state: int, out: Tensor) -> None:
    """Σ_k p_k ∘ copies_k of ``copies`` (expansion, …) into ``out`` of a copy's shape, both contiguous."""
    _launch("mix", copies, out, state, copies.shape[0], out.numel())


def spread(gradient: Tensor, state: int, out: Tensor) -> None:
    """(p_k ∘ gradient)_k of ``gradient`` into ``out`` (expansion, *gradient.shape), both contiguous."""
    _launch("spread", gradient, out, state, out.shape[0], gradient.numel())


def _launch(name: str, given: Tensor, out: Tensor, state: int, expansion: int, elements: int) -> None:
    if not elements:
        return
    elsewhere = given.is_cuda and given.device.index != torch.cuda.current_device()
    with torch.cuda.device(given.device) if elsewhere else nullcontext():
        _kernels()[name][(programs(elements, expansion),)](
            given, out, key(state), elements, E=expansion, SHARE=share(expansion), BLOCK=BLOCK,
            WIDE=given.dtype == torch.float64, enable_fp_fusion=False,
        )  # fmt: skip


def key(state: int) -> int:
    """The key of a draw: a fixed bit on top keeps its type, for which Triton would compile again."""
    return state & _KEY | _KEY + 1


def share(expansion: int) -> int:
    """How many elements the four words of a counter suffice for."""
    return max(1, 4 // max(1, expansion - 1))


def programs(elements: int, expansion: int) -> int:
    """How many Triton programs work on so many elements of ``expansion`` copies."""
    return -(-elements // (BLOCK * share(expansion)))


@cache
def _kernels() -> dict[str, Any]:
    from collegium.train.majority.generators import triton_kernels

    return {"mix": triton_kernels.mix, "spread": triton_kernels.spread}


def uniforms(state: int, count: int, elements: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Uniform numbers in [0, 1), shape ``(count, elements)``, from torch's generator for the device."""
    if device.type == "meta":
        return torch.empty((count, elements), dtype=dtype, device=device)
    generator = torch.Generator(device).manual_seed(state & _KEY)
    return torch.rand((count, elements), generator=generator, dtype=dtype, device=device)
