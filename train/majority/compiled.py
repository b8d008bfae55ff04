"""The update of ``collegium.train.majority.fused`` as one compiled loop over the elements of a kernel.

Draw p, form the gradients p_k ∘ g, take the optimizer's step for every copy, draw the next p and mix, between reading
copies, state and g once and writing copies, state and the mixed weight once. ``torch.compile`` makes it of the plain
functions below, at the first step of a process; it needs a C++ compiler. Formulas are those of ``torch.optim``.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from collegium.train.majority.generators import hashed
from collegium.train.majority.generators.uniforms import Draw
from collegium.train.majority.updates import adam_numbers, sgd_numbers

_TOGETHER = 4  # kernels in one call, at most


def has_compiler() -> bool:
    """Whether a C++ compiler is at hand, which ``torch.compile`` needs on a processor."""
    named = os.environ.get("CXX")
    return any(shutil.which(name) for name in ([named] if named else ["g++", "clang++"]))


Rows = Sequence[Sequence[Tensor]]
Kernel = tuple[Tensor, Tensor, Rows, Tensor]
Function = Callable[[Sequence[Kernel], Tensor], None]


@dataclass(frozen=True)
class Work:
    """One kernel's update: which function with which numbers, and the tensors it reads and writes."""

    function: Function
    numbers: tuple[float, ...]
    kernel: Kernel

    @classmethod
    def of(
        cls, group: dict[str, Any], state: dict[str, Any], gradient: Tensor, target: Tensor, rows: Rows, *draws: Draw
    ) -> "Work":
        """The step of a parameter group by ``gradient``, in place, and the mixture that follows, into ``target``.

        ``rows`` are those of the copies and of each state tensor, e each; ``draws`` are this step's and the next's. All
        tensors are flat.
        """
        is_sgd = "dampening" in group
        numbers = sgd_numbers(group, state) if is_sgd else adam_numbers(group, float(state["step"]))
        keys = hashed.keys(*draws, count=len(rows[0]) - 1)
        return cls(_sgd if is_sgd else _adam, tuple(numbers), (gradient, target, rows, keys))


def update(works: Sequence[Work]) -> None:
    """Do ``works``: those of one network in one call, where they are few.

    Each number of kernels in a call is compiled for itself, and so is each pattern of equal sizes.
    """
    alike: dict[Any, list[Kernel]] = {}
    for work in works:
        alike.setdefault((work.function, work.numbers, work.kernel[0].dtype), []).append(work.kernel)
    for (function, numbers, dtype), kernels in alike.items():
        scalars = torch.tensor(numbers, dtype=dtype, device="cpu")
        for part in [kernels] if len(kernels) <= _TOGETHER else [[kernel] for kernel in kernels]:
            _compiled(function)(part, scalars)


@cache
def _compiled(function: Function) -> Function:
    return torch.compile(function, dynamic=True)


def _adam(kernels: Sequence[Kernel], scalars: Tensor) -> None:
    rate, root, rest1, rest2, decay, shrink, epsilon, sign = scalars.unbind()
    for gradient, target, (copies, firsts, seconds), keys in kernels:
        for copy, first, second, share in zip(copies, firsts, seconds, _shares(gradient, keys[0], copies), strict=True):
            slope = share * sign + copy * decay
            first.add_((slope - first) * rest1)
            second.add_((slope * slope - second) * rest2)
            copy.copy_(copy * shrink - rate * first / (second.sqrt() * root + epsilon))
        _mix(copies, keys[1], target)


def _sgd(kernels: Sequence[Kernel], scalars: Tensor) -> None:
    rate, momentum, kept, taken, own, decay, sign = scalars.unbind()
    for gradient, target, (copies, *buffers), keys in kernels:
        shares = _shares(gradient, keys[0], copies)
        for k, (copy, share) in enumerate(zip(copies, shares, strict=True)):
            slope = share * sign + copy * decay
            if buffers:
                buffers[0][k].copy_(buffers[0][k] * kept + slope * taken)
                slope = buffers[0][k] * momentum + slope * own
            copy.copy_(copy - rate * slope)
        _mix(copies, keys[1], target)


def _shares(gradient: Tensor, keys: Tensor, copies: Sequence[Tensor]) -> list[Tensor]:
    return hashed.divide(gradient, hashed.points(_elements(gradient), keys, len(copies) - 1, gradient.dtype))


def _mix(copies: Sequence[Tensor], keys: Tensor, target: Tensor) -> None:
    levels = hashed.points(_elements(target), keys, len(copies) - 1, target.dtype)
    target.copy_(hashed.interpolate(copies, levels))


def _elements(like: Tensor) -> Tensor:
    return torch.arange(like.shape[0], dtype=torch.int32, device=like.device)
