"""Gradient of the copies and optimizer update in one pass, so that the expanded gradient never exists.

Plainly, a step of majority kernels writes the gradients p_k ∘ g of e copies, reads them again in the optimizer, and
reads the updated copies once more to mix the next weight. ``fuse`` makes a ``torch.optim`` SGD, Adam or AdamW do
all three at once: redraw p, form p_k ∘ g, update the e copies and their state, mix them with the p of the next step.
On a processor that is done chunk by chunk while the chunk is in the cache, on a GPU in one launch for all kernels
(``launched`` beside this). What is left is the floor: weights and state read and written once.

The layers read a leaf tensor for that (``collegium.train.majority.guards.gradient``); its gradient is g itself, of the
plain model's size. The optimizer stays the same object with the same ``param_groups`` and the same ``state_dict``.
Where something has asked for the gradient of the copies before the step, they have one, and the plain update is taken.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from collegium.train.majority import compiled, launched
from collegium.train.majority.clock import is_distributed
from collegium.train.majority.draw import Draw, length_of_chunks, mix_chunk, shares_of_chunk
from collegium.train.majority.generators.uniforms import Points
from collegium.train.majority.guards.gradient import (
    FusedParameter,
    MixedLeaf,
    is_fusable,
    uses,
)
from collegium.train.majority.guards.written import within_pass
from collegium.train.majority.kernel import MajorityKernel, majority_copies
from collegium.train.majority.updates import adam as _adam
from collegium.train.majority.updates import sgd as _sgd
from collegium.train.majority.updates import state_tensors

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

    On a CPU, kernels keep the random numbers of the next step, e − 1 a weight and of its type, as long as a model's are
    no more than 2^22; others draw them again.

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
    compiles = any(kernel.clock.source == "compiled" and copies.device.type == "cpu" for kernel, copies in kernels)
    if compiles and not compiled.has_compiler():
        raise ValueError("draws='compiled' needs a C++ compiler: install g++, or expand with draws='independent'")
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
    norms += launched.norms([item.summand() for item in fused if not item.in_chunks])
    total = _norm_of(norms + [item.norm() for item in fused if item.in_chunks])
    factor = (max_norm / (total + 1e-6)).clamp(max=1.0)
    _torch._foreach_mul_(gradients + [item.leaf.gradient for item in fused], factor)
    return total


def _norm_of(norms: list[Tensor]) -> Tensor:
    """The joint norm, float32 at least; squares of large gradients would overflow."""
    if not norms:
        return torch.zeros(())
    wide = torch.float64 if any(norm.dtype == torch.float64 for norm in norms) else torch.float32
    return torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device, wide) for norm in norms]))


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
    """SGD that updates majority kernels chunk by chunk."""


class FusedAdam(_Fused, Adam):
    """Adam that updates majority kernels chunk by chunk."""


class FusedAdamW(_Fused, AdamW):
    """AdamW that updates majority kernels chunk by chunk."""


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
        together: list[_Step] = []
        for item, group in _kernels_of(optimizer):
            if item.leaf.pending is None:
                item.leaf.forget()  # torch's fused updates leave no trace
                item.count.forget()
            elif item.in_chunks and item.kernel.clock.source != "compiled":
                item.update(optimizer.state[item.copies], group)
            else:
                together.append(item.begin(optimizer.state[item.copies], group))
        compiled.update([step.to_compile() for step in together if step.item.in_chunks])
        _launch([step for step in together if not step.item.in_chunks])
        if together:  # neither launches nor compiled loops do so
            increment_version([tensor for step in together for tensor in (step.item.copies, step.item.leaf.memory)])
        for step in together:
            step.item.end(step)


def _launch(steps: "list[_Step]") -> None:
    """The updates of kernels on a GPU."""
    counts = launched.count_steps([step.state for step in steps], [step.item.count for step in steps])
    works, known = [], {}
    for step, taken in zip(steps, counts, strict=True):
        alike = id(step.group), taken, "first" in step.state
        if alike not in known:
            known[alike] = launched.numbers(step.group, step.state, taken)
        works.append(step.to_launch(known[alike]))
    launched.update(works)


def _kernels_of(optimizer: Any) -> list[tuple["FusedKernel", dict[str, Any]]]:
    """The fused kernels that ``optimizer`` holds now, each with its group: ``load_state_dict`` replaces these."""
    return [
        (parameter.leaf.update, group)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if type(parameter) is FusedParameter and parameter.leaf is not None
    ]


def _fused_kernel(parameter: Any) -> "FusedKernel | None":
    leaf = parameter.leaf if type(parameter) is FusedParameter else None
    return None if leaf is None else leaf.update


@dataclass
class FusedKernel:
    """One kernel whose copies a fused optimizer updates."""

    kernel: MajorityKernel
    copies: nn.Parameter
    leaf: MixedLeaf
    beside: Sequence[Tensor] = ()  # the other parameters of its layer
    keeps: bool = False  # whether the points of the next step, so that it need not draw them again
    points: Sequence[Points | None] = ()  # those of the draw ``drawn`` for each chunk
    drawn: Draw | None = None
    count: launched.Count = field(default_factory=launched.Count)
    _kept: tuple[Any, Any] = (None, None)

    @property
    def has_gradient(self) -> bool:
        """Whether there is a g, and no gradient of the copies beside it."""
        return self.leaf.gradient is not None and Tensor.grad.__get__(self.copies) is None  # type: ignore[attr-defined]

    @property
    def in_chunks(self) -> bool:
        """Whether its update proceeds in chunks, on a processor, instead of being a part of one launch."""
        return self.copies.device.type == "cpu"

    def summand(self) -> tuple[Tensor, Draw, int]:
        """g, its draw and the expansion: what makes the norm of the gradient of the copies."""
        assert self.leaf.gradient is not None
        return self.leaf.gradient, self._draw(), len(self.copies)

    def norm(self) -> Tensor:
        """√ Σ_k |p_k ∘ g|²."""
        gradient, draw, _ = self.summand()
        norms: list[Tensor] = []
        flat = gradient.contiguous().view(-1)
        for index, part in enumerate(flat.split(length_of_chunks(draw, flat.shape[0]))):
            rows = shares_of_chunk(part, draw, index, len(self.copies))
            norms += _torch._foreach_norm(rows)
        return _norm_of(norms)

    def update(self, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Apply the optimizer, with the options of ``group``, to every copy, and mix the weight of the next step."""
        step, expansion = self.begin(state, group), len(self.copies)
        apply = _sgd if "dampening" in group else _adam
        elements = step.gradient.shape[0]
        length = length_of_chunks(step.draw, elements)
        parts = step.gradient.split(length) if length < elements else [step.gradient]
        views = self.views(step.tensors, length)
        chunks = zip(parts, views, self.points, strict=True)
        known, self.drawn = self.drawn == step.draw, None  # none, if this is interrupted
        for index, (part, (target, weights, *moments), points) in enumerate(chunks):
            shares = shares_of_chunk(part, step.draw, index, expansion, points if known else None)
            apply(group, state, weights, shares, moments)
            mix_chunk(weights, step.following, index, target, points)
        self.drawn = step.following
        increment_version(self.copies)  # torch's fused updates do not
        self.end(step)

    def begin(self, state: dict[str, Any], group: dict[str, Any]) -> "_Step":
        """Count the step; what it needs. Until it ends, no mixture is valid."""
        assert self.leaf.pending is not None
        self.leaf.forget()
        draw, gradient = self._draw(), self.leaf.pending.contiguous()
        tensors = [self.copies, *state_tensors(group, state, self.copies)]
        if self.in_chunks:
            gradient = gradient.view(-1)
            if "step" in state:
                state["step"] += 1  # those of one launch are counted together
        following = Draw(draw.seed, draw.step + 1, draw.kernel, draw.source)
        return _Step(self, group, state, gradient, tensors, draw, following)

    def end(self, step: "_Step") -> None:
        """Record that it has been taken, and the next weight mixed; versions have been counted."""
        step.state.pop("first", None)
        clock = self.kernel.clock
        clock.forget(self.copies)
        clock.expect(step.following)
        self.leaf.renew(self.leaf.memory, step.following)
        self.leaf.put_back()

    def views(self, tensors: list[Tensor], length: int) -> list[tuple[Any, ...]]:
        """For each chunk of ``length``: its part of the mixed weight, the rows of each of ``tensors``; made once."""
        assert self.leaf.tensor is not None
        memory = [length, *(tensor.data_ptr() for tensor in (self.leaf.tensor, *tensors))]
        if self._kept[0] != memory:
            self._kept, self.leaf.aliases = (None, None), 0
            before = uses(self.copies)
            blocks = [Tensor.detach(tensor).view(len(tensor), -1).split(length, dim=1) for tensor in tensors]
            rows = [[block.unbind() for block in column] for column in blocks]
            del blocks
            self._kept = memory, list(zip(self.leaf.tensor.detach().view(-1).split(length), *rows, strict=True))
            self.leaf.aliases = uses(self.copies) - before
            self.points, self.drawn = [self._room(target) for target, *_ in self._kept[1]], None
        return self._kept[1]

    def release(self) -> None:
        """Keep nothing of the memory of copies and state, and no points."""
        self._kept, self.points, self.drawn, self.leaf.aliases = (None, None), (), None, 0

    def _room(self, chunk: Tensor) -> Points | None:
        """Memory for the points of ``chunk``, of the mixed weight."""
        elements, count = chunk.shape[0], len(self.copies) - 1
        if not self.keeps or elements * count == 0 or self.kernel.clock.source != "independent":
            return None
        with torch.inference_mode(False):  # memory of that mode could not be written outside of it
            return Points(torch.empty(count, elements, dtype=self.copies.dtype, device="cpu"))

    def _draw(self) -> Draw:
        assert self.leaf.draw is not None
        return self.leaf.draw


@dataclass
class _Step:
    """One step of one kernel."""

    item: FusedKernel
    group: dict[str, Any]
    state: dict[str, Any]
    gradient: Tensor  # flat, where the update is one of chunks
    tensors: list[Tensor]  # copies and state
    draw: Draw
    following: Draw

    def to_launch(self, numbers: tuple[float, ...]) -> launched.Work:
        """The step as a part of one launch."""
        is_adam, target = "dampening" not in self.group, self.item.leaf.memory
        return launched.Work(is_adam, self.gradient, target, self.tensors, self.draw, self.following, numbers)

    def to_compile(self) -> compiled.Work:
        """The step as a compiled update."""
        ((target, *rows),) = self.item.views(self.tensors, max(1, self.gradient.shape[0]))
        return compiled.Work.of(self.group, self.state, self.gradient, target, rows, self.draw, self.following)
