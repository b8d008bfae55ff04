"""What ``kernels.c`` does, for tensors: see ``collegium.train.majority.native``."""

import ctypes
import math
import os
import struct
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collegium.train.majority.generators.uniforms import Draw, chunk_length, tables
from collegium.train.majority.updates import Work

__all__ = ["is_built", "mix", "norm", "spread", "takes", "update"]

_TASK = struct.Struct("=5q2Q5Q8d")
_MIX, _SPREAD, _SQUARES, _SGD, _ADAM = range(5)
_MOST_COPIES = 16  # for which a thread has scratch memory
_PLACES, _NUMBERS = 5, 8


def is_built() -> bool:
    """Whether the C code has been built with the package, and is not turned off by COLLEGIUM_NATIVE=0."""
    return _library() is not None


def takes(draw: Draw, expansion: int, *tensors: Tensor) -> bool:
    """Whether there is a pass for ``expansion`` copies with independent draws, and for numbers as ``tensors`` hold."""
    return (
        draw.source == "independent"
        and 2 <= expansion <= _MOST_COPIES
        and all(_is_plain(tensor) and tensor.dtype == tensors[0].dtype for tensor in tensors)
        and _library() is not None
    )


def mix(copies: Tensor, draw: Draw, out: Tensor) -> None:
    """Write Σ_k p_k ∘ copies_k into ``out``."""
    copies = copies.contiguous()
    _run([_task(_MIX, out.numel(), copies, draw, draw, (0, out.data_ptr(), copies.data_ptr()))])


def spread(gradient: Tensor, draw: Draw, out: Tensor) -> None:
    """Write p_k ∘ gradient into ``out[k]``, for each k."""
    gradient = gradient.contiguous()
    _run([_task(_SPREAD, gradient.numel(), out, draw, draw, (gradient.data_ptr(), 0, out.data_ptr()))])


def norm(gradient: Tensor, draw: Draw, expansion: int) -> Tensor:
    """√ Σ_k |p_k ∘ g|², of the type of ``gradient``; squares are summed in float64."""
    library, gradient = _library(), gradient.contiguous()
    assert library is not None
    squares = (ctypes.c_double * library.pieces(gradient.numel()))()
    places = gradient.data_ptr(), ctypes.addressof(squares)
    _run([_task(_SQUARES, gradient.numel(), gradient, draw, draw, places, expansion=expansion)])
    return torch.tensor(math.sqrt(sum(squares)), dtype=gradient.dtype, device=gradient.device)


def update(works: Iterable[Work]) -> None:
    """Do ``works``, each kernel's copies and state in place, and its mixture by the next draw into ``target``."""
    _run(
        _task(
            _ADAM if work.is_adam else _SGD,
            work.gradient.numel(),
            work.tensors[0],
            work.draw,
            work.following,
            work.addresses,
            work.numbers,
        )
        for work in works
    )


def _is_plain(tensor: Tensor) -> bool:
    """Whether the elements of ``tensor`` stand in this process's memory as they are: not sparse, not negated."""
    try:
        return (
            tensor.device.type == "cpu"
            and tensor.dtype in (torch.float32, torch.float64)
            and tensor.layout == torch.strided
            and not tensor.is_neg()
            and tensor.data_ptr() != 0
        )
    except RuntimeError:  # of a transform of ``torch.func``
        return False


def _task(
    kind: int,
    elements: int,
    like: Tensor,
    draw: Draw,
    following: Draw,
    places: Sequence[int],
    numbers: Sequence[float] = (),
    expansion: int = 0,
) -> bytes:
    wide, addresses = like.dtype == torch.float64, [*places, *[0] * (_PLACES - len(places))]
    options = elements, chunk_length(elements), expansion or len(like), kind, wide
    return _TASK.pack(*options, draw.state, following.state, *addresses, *numbers, *[0.0] * (_NUMBERS - len(numbers)))


def _run(tasks: Iterable[bytes]) -> None:
    library, rows = _library(), list(tasks)
    assert library is not None
    library.run(b"".join(rows), len(rows), torch.get_num_threads())


class _Library:
    """The C code, its threads those of torch's own operators where they are OpenMP's."""

    def __init__(self, path: Path) -> None:
        found: Any = ctypes.CDLL(str(path))
        self._run, self.pieces = found.collegium_run, found.collegium_pieces
        self._run.restype, self.pieces.restype = None, ctypes.c_int64
        self.pieces.argtypes = [ctypes.c_int64]
        self._run.argtypes = [ctypes.c_char_p, ctypes.c_int64, *[ctypes.c_void_p] * 4, ctypes.c_int64]
        self._tables = [table.data_ptr() for table in tables()]
        parallel = getattr(ctypes.CDLL(None), "GOMP_parallel", None)  # torch loads it for all
        self._parallel = None if parallel is None else ctypes.cast(parallel, ctypes.c_void_p)

    def run(self, tasks: bytes, count: int, threads: int) -> None:
        self._run(tasks, count, *self._tables, self._parallel, threads)


@cache
def _library() -> _Library | None:
    wanted = os.environ.get("COLLEGIUM_NATIVE") or "1"
    if wanted not in ("0", "1"):
        raise ValueError(f"COLLEGIUM_NATIVE must be 0 or 1, not {wanted!r}")
    if wanted == "0":
        return None
    paths = [Path(__file__).with_name("_kernels" + suffix) for suffix in EXTENSION_SUFFIXES]
    for path in filter(Path.exists, paths):
        try:
            return _Library(path)
        except OSError as error:
            warnings.warn(f"majority kernels are trained operator by operator: {error}", stacklevel=2)
    return None
