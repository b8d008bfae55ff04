"""Gradient of the copies and optimizer update in one pass, so that the expanded gradient never exists.

Plainly, a step of majority kernels writes the gradients p_k ∘ g of e copies, reads them again in the optimizer, and
reads the updated copies once more to mix the next weight. ``fuse`` makes a ``torch.optim`` SGD, Adam or AdamW do
all three at once: redraw p, form p_k ∘ g, update the e copies and their state, mix them with the p of the next step.
On a processor that is one pass over memory in C (``native`` beside this), and without it a chunk at a time while that
is in the cache; on a GPU it is one launch for all kernels (``launched``). What is left is the floor: weights and state
read and written once.

The layers read a leaf tensor for that (``collegium.train.majority.guards.gradient``); its gradient is g itself, of the
plain model's size. The optimizer stays the same object with the same ``param_groups`` and the same ``state_dict``.
Where something has asked for the gradient of the copies before the step, they have one, and the plain update is taken.
"""

import weakref
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from collegium.train.majority import launched
from collegium.train.majority.clock import is_distributed
from collegium.train.majority.fused_kernel import FusedKernel, FusedStep, norm_of, take
from collegium.train.majority.guards.gradient import FusedParameter, MixedLeaf, is_fusable
from collegium.train.majority.guards.written import within_pass
from collegium.train.majority.kernel import MajorityKernel, majority_copies

__all__ = ["clip_gradient_norm", "fuse"]

_torch: Any = torch  # what torch's own optimizers call has no public name
_untraced: Any = _torch._disable_dynamo  # of what graphs of ``torch.compile(optimizer.step)`` leave out
_KEPT = 1 << 22  # points, at most, that a model keeps between an update and the next: 16 MiB of float32
_hooks: list[Any] = []
_UNSUPPORTED = ("amsgrad", "capturable", "differentiable")


def fuse(optimizer: Optimizer, model: nn.Module) -> Optimizer:
    """Let ``optimizer`` update the majority kernels of ``model`` in one pass over them, where that pays; return it.

    It pays in one process, for SGD (with momentum), Adam and AdamW as torch defines them: on a CPU, for float32 or
    float64 copies, and on a GPU with Triton and a C compiler, for bfloat16 ones too. Elsewhere nothing changes: a
    distributed wrapper needs the gradients of the parameters themselves. Weights are those of the plain update but for
    the order of rounding.

    Whatever reads ``parameter.grad`` sees the gradients of the copies: a gradient scaler, ``clip_grad_norm_``,
    ``model.zero_grad()``. They are then formed, and that step costs what a plain one does; ``clip_gradient_norm`` and
    the optimizer's own ``zero_grad`` form none. ``torch.autograd.grad`` with respect to copies is refused by torch, and
    ``backward(inputs=…)`` does not reach them, since they are not in the graph: do not fuse where these are used.

    On a CPU it is a pass of C code where collegium was installed with a C compiler at hand, for 16 copies at most.
    Operator by operator, as otherwise, it adds half as much again to a step, and more; kernels then keep the random
    numbers of the next step, e − 1 a weight and of its type, as long as a model's are no more than 2^22.

    >>> import torch
    >>> from collegium import expand, fuse
    >>> model = expand(torch.nn.Linear(64, 64), expansion=3)
    >>> optimizer = fuse(torch.optim.Adam(model.parameters()), model)
    >>> model(torch.ones(5, 64)).sum().backward()
    >>> optimizer.step()
    """
    if not isinstance(model, nn.Module) or isinstance(optimizer, nn.Module):
        raise ValueError("fuse takes an optimizer and the model whose parameters it holds, in this order")
    kind = _FUSED.get(type(optimizer))
    if kind is None or is_distributed():
        return optimizer
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    kernels = [
        (kernel, copies)
        for kernel, copies in majority_copies(model)
        if id(copies) in held and type(kernel) is MajorityKernel and is_fusable(copies, kernel.clock.source)
        if type(copies) in (nn.Parameter, FusedParameter)
    ]
    if not kernels or any(group.get(option) for group in optimizer.param_groups for option in _UNSUPPORTED):
        return optimizer
    beside = _beside(model)
    for kernel, copies in kernels:
        if kernel.leaf is None or kernel.leaf.copies is not copies:
            kernel.leaf = MixedLeaf(copies, kernel.clock.source, within_pass)
            kernel.leaf.update = FusedKernel(kernel, copies, kernel.leaf, beside.get(id(copies), ()))
    _share_room(model)
    hooks: Any = optimizer._optimizer_step_pre_hooks
    if type(optimizer) is not kind or _set_aside not in hooks.values():  # a copied optimizer has no hooks
        optimizer.__class__ = kind
        _hook_last(optimizer)
    if "step" in vars(optimizer):  # wrapped by a schedule that was there before
        optimizer.step = _putting_back(optimizer, vars(optimizer)["step"])  # type: ignore[method-assign]
    if not _hooks:
        _hooks.append(register_optimizer_step_post_hook(_forget))
    return optimizer


def _share_room(model: nn.Module) -> None:
    """Decide which kernels keep their points: the first ones that fit, whichever optimizers hold them."""
    room = _KEPT
    for kernel, copies in majority_copies(model):
        if kernel.leaf is not None and kernel.leaf.update is not None:
            points = copies.numel() - copies[0].numel()
            keeps, update = points <= room, kernel.leaf.update
            room -= points if keeps else 0
            if keeps != update.keeps:
                update.keeps = keeps
                update.release()


def _beside(model: nn.Module) -> dict[int, list[Tensor]]:
    """The other parameters of the layers of each kernel, by the identity of its copies."""
    found: dict[int, list[Tensor]] = {}
    for module in model.modules():
        own = [parameter for parameter in module._parameters.values() if parameter is not None]
        for steps in getattr(module, "parametrizations", {}).values():
            found.setdefault(id(getattr(steps, "original", None)), []).extend(own)
    return found


@torch.no_grad()
def clip_gradient_norm(model: nn.Module, optimizer: Optimizer, max_norm: float) -> Tensor:
    """Scale all gradients so that their joint 2-norm is at most ``max_norm``; return the norm they had.

    The norm is that of the gradients the optimizer applies, p_k ∘ g for each copy, whether or not they exist as
    tensors. For plain optimizers this is ``torch.nn.utils.clip_grad_norm_``.

    >>> import torch
    >>> from collegium import clip_gradient_norm, expand, fuse
    >>> model = expand(torch.nn.Linear(64, 64), expansion=3)
    >>> optimizer = fuse(torch.optim.SGD(model.parameters(), lr=0.1), model)
    >>> model(torch.ones(5, 64)).sum().backward()
    >>> norm = clip_gradient_norm(model, optimizer, max_norm=1.0)
    >>> optimizer.step()
    """
    parameters = list(model.parameters())
    fused = [item for item in map(_fused_kernel, parameters) if item is not None and item.has_gradient]
    formed = {id(item.copies) for item in fused}
    gradients = [p.grad for p in parameters if id(p) not in formed and p.grad is not None]
    norms = list(_torch._foreach_norm(gradients)) if gradients else []
    norms += launched.norms([item.summand() for item in fused if not item.on_processor])
    total = norm_of(norms + [item.norm() for item in fused if item.on_processor])
    factor = (max_norm / (total + 1e-6)).clamp(max=1.0)
    _torch._foreach_mul_(gradients + [item.leaf.gradient for item in fused], factor)
    return total


class _Fused:
    """What an optimizer gains: its ``zero_grad`` forms no gradient in order to drop it."""

    param_groups: list[dict[str, Any]]

    def step(self, closure: Any = None) -> Any:
        """The optimizer's own. Gradients stay where they are, whether it ends or is interrupted."""
        try:
            return super().step(closure)  # type: ignore[misc]
        except BaseException:
            for item, _ in _kernels_of(self):
                item.leaf.put_back()
            raise

    def _patch_step_function(self) -> None:
        """The plain class's step calls the hooks; torch, loading a state, would have this one's call them too."""
        plain: Any = next(kind for kind in type(self).__mro__ if kind in _FUSED and not issubclass(kind, _Fused))
        if not hasattr(plain.step, "hooked"):
            step: Any = Optimizer.profile_hook_step(plain.step)
            plain.step, step.hooked = step, True
        self._zero_grad_profile_name = f"Optimizer.zero_grad#{plain.__name__}.zero_grad"

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, g included; zeros in their place are formed for every copy."""
        if set_to_none:
            for item, _ in _kernels_of(self):
                item.leaf.clear()
        super().zero_grad(set_to_none)  # type: ignore[misc]

    def register_step_pre_hook(self, hook: Any) -> Any:
        """As the optimizer's own; hooks see the gradients before they are set aside."""
        handle = super().register_step_pre_hook(hook)  # type: ignore[misc]
        _hook_last(self)
        return handle


class FusedSGD(_Fused, SGD):
    """SGD that updates majority kernels in one pass."""


class FusedAdam(_Fused, Adam):
    """Adam that updates majority kernels in one pass."""


class FusedAdamW(_Fused, AdamW):
    """AdamW that updates majority kernels in one pass."""


_FUSED: dict[type, type] = {kind: kind for kind in (FusedSGD, FusedAdam, FusedAdamW)}
_FUSED |= {SGD: FusedSGD, Adam: FusedAdam, AdamW: FusedAdamW}


def _putting_back(optimizer: Any, step: Any) -> Any:
    """``step``, which knows the method of the plain class, with what that of ``_Fused`` adds."""
    held = weakref.ref(optimizer)

    @wraps(step)
    def call(*arguments: Any, **named: Any) -> Any:
        try:
            return step(*arguments, **named)
        except BaseException:
            for item, _ in _kernels_of(held()):
                item.leaf.put_back()
            raise

    call.puts_back = True  # type: ignore[attr-defined]
    return step if hasattr(step, "puts_back") else call


@_untraced
def _forget(optimizer: Any, *_: Any) -> None:
    """After a step of any optimizer of ``torch.optim`` that does not mix: its fused updates leave no trace."""
    if _update_kernels not in optimizer._optimizer_step_post_hooks.values():
        for item, _group in _kernels_of(optimizer):
            item.leaf.forget()


def _hook_last(optimizer: Any) -> None:
    """Set gradients aside after all other pre-hooks, and update the kernels before all other post-hooks."""
    before, after = optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks
    for hooks, hook in ((before, _set_aside), (after, _update_kernels)):
        for number in [number for number, known in hooks.items() if known is hook]:
            del hooks[number]
    Optimizer.register_step_pre_hook(optimizer, _set_aside)
    handle = Optimizer.register_step_post_hook(optimizer, _update_kernels)
    after.move_to_end(handle.id, last=False)


@_untraced
def _set_aside(optimizer: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Pre-hook of ``step``: the optimizer passes over what has no gradient. A closure computes them first."""
    closure = kwargs.get("closure", args[1] if len(args) > 1 else None)
    if closure is None:
        _take_gradients(optimizer)
        return None

    def evaluate() -> Any:
        loss = closure()
        _untraced(_take_gradients)(optimizer)
        return loss

    return (args[0],), {"closure": evaluate}


def _take_gradients(optimizer: Any) -> None:
    known: tuple[Any, bool] = (None, False)
    for item, group in _kernels_of(optimizer):
        if known[0] is not group:
            known = group, any(group.get(option) for option in _UNSUPPORTED)
        if not known[1] and not item.leaf.take():
            item.leaf.check_reached(item.beside)


@_untraced
def _update_kernels(optimizer: Any, *_: Any) -> None:
    """Post-hook of ``step``: it has updated everything else."""
    with torch.no_grad():
        steps: list[FusedStep] = []
        for item, group in _kernels_of(optimizer):
            if item.leaf.pending is None:
                item.leaf.forget()  # torch's fused updates leave no trace
                item.count.forget()
            else:
                steps.append(item.begin(optimizer.state[item.copies], group))
        take(steps)


def _kernels_of(optimizer: Any) -> list[tuple[FusedKernel, dict[str, Any]]]:
    """The fused kernels that ``optimizer`` holds now, each with its group: ``load_state_dict`` replaces these."""
    return [
        (parameter.leaf.update, group)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if type(parameter) is FusedParameter and parameter.leaf is not None
    ]


def _fused_kernel(parameter: Any) -> FusedKernel | None:
    leaf = parameter.leaf if type(parameter) is FusedParameter else None
    return None if leaf is None else leaf.update
