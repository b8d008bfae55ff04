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
        function, numbers = (_sgd, _sgd_numbers) if "dampening" in group else (_adam, _adam_numbers)
        keys = hashed.keys(*draws, count=len(rows[0]) - 1)
        return cls(function, tuple(numbers(group, state)), (gradient, target, rows, keys))


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


def _adam_numbers(group: dict[str, Any], state: dict[str, Any]) -> list[float]:
    """Rate over its bias correction, 1 / √ of the other, 1 − β1, 1 − β2, weight decay, 1 − decoupled one, ε, sign."""
    (beta1, beta2), rate, step = map(float, group["betas"]), float(group["lr"]), float(state["step"])
    decay, decoupled = float(group["weight_decay"]), bool(group.get("decoupled_weight_decay"))
    return [
        rate / (1 - beta1**step),
        (1 - beta2**step) ** -0.5,
        1 - beta1,
        1 - beta2,
        0.0 if decoupled else decay,
        1 - rate * decay if decoupled else 1.0,
        float(group["eps"]),
        -1.0 if group["maximize"] else 1.0,
    ]


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


def _sgd_numbers(group: dict[str, Any], state: dict[str, Any]) -> list[float]:
    """Rate, factor of the buffer in the step, of the buffer and the gradient in the buffer, of the gradient in the
    step, weight decay, sign. The first buffer is the gradient itself.
    """
    momentum, nesterov, first = float(group["momentum"]), bool(group["nesterov"]), bool(state.get("first"))
    return [
        float(group["lr"]),
        momentum if nesterov else 1.0,
        0.0 if first else momentum,
        1.0 if first else 1 - float(group["dampening"]),
        1.0 if nesterov else 0.0,
        float(group["weight_decay"]),
        -1.0 if group["maximize"] else 1.0,
    ]


def _shares(gradient: Tensor, keys: Tensor, copies: Sequence[Tensor]) -> list[Tensor]:
    return hashed.divide(gradient, hashed.points(_elements(gradient), keys, len(copies) - 1, gradient.dtype))


def _mix(copies: Sequence[Tensor], keys: Tensor, target: Tensor) -> None:
    levels = hashed.points(_elements(target), keys, len(copies) - 1, target.dtype)
    target.copy_(hashed.interpolate(copies, levels))


def _elements(like: Tensor) -> Tensor:
    return torch.arange(like.shape[0], dtype=torch.int32, device=like.device)
