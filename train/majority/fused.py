"""Gradient of the copies and optimizer update in one pass, so that the expanded gradient never exists.

Plainly, a step of majority kernels writes the gradients p_k ∘ g of e copies, reads them again in the optimizer, and
reads the updated copies once more to mix the next weight. ``fuse`` makes a ``torch.optim`` SGD, Adam or AdamW do
all three chunk by chunk while the chunk is in the cache: redraw p, form p_k ∘ g for the chunk, update the e copies and
their state, mix them with the p of the next step. What is left is the floor: weights and state read and written once.

The layers read a leaf tensor for that (``MajorityKernel.use_leaf``); its gradient is g itself, of the plain model's
size.
The optimizer stays the same object with the same ``param_groups`` and the same ``state_dict``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.nn.utils import parametrize
from torch.optim import SGD, Adam, AdamW, Optimizer

from collegium.train.majority import compiled
from collegium.train.majority.draw import CHUNK, Draw, mix_chunk, spread_chunk
from collegium.train.majority.generators.uniforms import scratch
from collegium.train.majority.kernel import MajorityKernel

__all__ = ["clip_gradient_norm", "fuse"]

_torch: Any = torch  # what torch's own optimizers call has no public name
_KINDS = (SGD, Adam, AdamW)
_UNSUPPORTED = ("amsgrad", "capturable", "differentiable")


def fuse(optimizer: Optimizer, model: nn.Module) -> Optimizer:
    """Let ``optimizer`` update the majority kernels of ``model`` chunk by chunk, where that pays; return it.

    It pays on a CPU in one process, for SGD (with momentum), Adam and AdamW as torch defines them and float32 or
    float64 copies. Elsewhere nothing changes: a GPU's optimizer already is one launch over all tensors, and a
    distributed wrapper needs the gradients of the parameters themselves. Gradients of a fused kernel are not in
    ``copies.grad``: clip them with ``clip_gradient_norm``, clear them with the optimizer's ``zero_grad``.

    >>> import torch
    >>> from collegium import expand, fuse
    >>> model = expand(torch.nn.Linear(64, 64), expansion=3)
    >>> optimizer = fuse(torch.optim.Adam(model.parameters()), model)
    >>> model(torch.ones(5, 64)).sum().backward()
    >>> optimizer.step()
    """
    if type(optimizer) not in _KINDS or _is_distributed():
        return optimizer
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    fused = [
        FusedKernel(kernel, copies)
        for kernel, copies in majority_copies(model)
        if id(copies) in groups and _pays(kernel, copies, groups[id(copies)])
    ]
    if any(item.kernel.clock.source == "compiled" for item in fused) and not compiled.has_compiler():
        raise ValueError("draws='compiled' needs a C++ compiler: install g++, or expand with draws='independent'")
    if fused:
        for item in fused:
            item.kernel.use_leaf(item.copies)
        optimizer.__class__ = _fused_class(type(optimizer))
        optimizer._kernels = fused  # type: ignore[attr-defined]
        optimizer.register_step_post_hook(_update_kernels)
    return optimizer


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
    fused: list[FusedKernel] = [item for item in getattr(optimizer, "_kernels", []) if item.gradient is not None]
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    squares = [norm.float().square() for norm in _torch._foreach_norm(gradients)] if gradients else []
    total = torch.stack(squares + [item.squared_norm() for item in fused]).sum().sqrt()
    factor = (max_norm / (total + 1e-6)).clamp(max=1.0)
    _torch._foreach_mul_(gradients + [item.gradient for item in fused], factor)
    return total


def majority_copies(model: nn.Module) -> list[tuple[MajorityKernel, nn.Parameter]]:
    """Each majority kernel of ``model`` with the parameter that holds its copies; shared ones once."""
    found: dict[int, tuple[MajorityKernel, nn.Parameter]] = {}
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList) and len(module) == 1:
            kernel = module[0]
            if isinstance(kernel, MajorityKernel):
                found.setdefault(id(module.original), (kernel, module.original))  # type: ignore[arg-type]
    return list(found.values())


def _pays(kernel: MajorityKernel, copies: Tensor, group: dict[str, Any]) -> bool:
    return (
        type(kernel) is MajorityKernel
        and copies.device.type == "cpu"
        and copies.dtype in (torch.float32, torch.float64)
        and copies.is_contiguous()
        and not any(group.get(option) for option in _UNSUPPORTED)
    )


def _is_distributed() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


class _Fused:
    """What an optimizer gains: its ``zero_grad`` also clears the gradients of the leaves that layers read."""

    _kernels: "list[FusedKernel]"

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)  # type: ignore[misc]
        for item in self._kernels:
            item.clear()


_classes: dict[type, type] = {}


def _fused_class(kind: type[Optimizer]) -> type[Optimizer]:
    return _classes.setdefault(kind, type(kind.__name__, (_Fused, kind), {}))


def _update_kernels(optimizer: Any, *_: Any) -> None:
    """Post-hook of ``optimizer.step``: it has updated everything but the fused kernels, which have no ``grad``."""
    # Groups are looked up at each step: ``load_state_dict`` replaces them.
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    with torch.no_grad():
        for item in optimizer._kernels:
            if item.gradient is not None:
                item.update(optimizer.state[item.copies], groups[id(item.copies)])
                item.clear()


@dataclass
class FusedKernel:
    """One kernel whose copies a fused optimizer updates."""

    kernel: MajorityKernel
    copies: nn.Parameter
    _views: tuple[Any, Any] = (None, None)

    @property
    def gradient(self) -> Tensor | None:
        """g, the gradient of the mixed weight."""
        return None if self.kernel.leaf is None else self.kernel.leaf.grad

    def clear(self) -> None:
        """Drop g."""
        if self.kernel.leaf is not None:
            self.kernel.leaf.grad = None

    def squared_norm(self) -> Tensor:
        """Σ_k |p_k ∘ g|²."""
        parts, draw = self._parts(), self._draw()
        squares = []
        for index, part in enumerate(parts):
            rows = self._rows(part)
            spread_chunk(part, draw, index, rows)
            squares += [norm.float().square() for norm in _torch._foreach_norm(rows)]
        return torch.stack(squares).sum()

    def update(self, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Apply the optimizer, with the options of ``group``, to every copy, and mix the weight of the next step."""
        kernel, copies = self.kernel, self.copies
        moments, draw = _state(group, state, copies), self._draw()
        following = replace(draw, step=draw.step + 1)
        if draw.source == "compiled":
            assert self.gradient is not None
            assert kernel.leaf is not None
            compiled.update(group, state, self.gradient, copies, moments, kernel.leaf, (draw, following))
        else:
            self._update_chunks(group, state, moments, draw, following)
        state.pop("first", None)
        increment_version(copies)  # torch's fused updates do not
        kernel.set_leaf_draw(copies, following)

    def _update_chunks(self, group: Any, state: Any, moments: Any, draw: Draw, following: Draw) -> None:
        apply = _sgd if "dampening" in group else _adam
        chunks = self._chunks([self.copies, *moments])
        for index, (part, (target, weights, *moments)) in enumerate(zip(self._parts(), chunks, strict=True)):
            rows = self._rows(part)
            spread_chunk(part, draw, index, rows)
            apply(group, state, weights, rows, moments)
            mix_chunk(weights, following, index, target)

    def _chunks(self, tensors: list[Tensor]) -> list[tuple[Any, ...]]:
        """For each chunk: its part of the mixed weight, and the rows of each of ``tensors``; views made once."""
        assert self.kernel.leaf is not None
        memory = [tensor.data_ptr() for tensor in (self.kernel.leaf, *tensors)]
        if self._views[0] != memory:
            blocks = [tensor.detach().view(len(tensor), -1).split(CHUNK, dim=1) for tensor in tensors]
            rows = [[block.unbind() for block in column] for column in blocks]
            self._views = memory, list(zip(self.kernel.leaf.detach().view(-1).split(CHUNK), *rows, strict=True))
        return self._views[1]

    def _parts(self) -> Sequence[Tensor]:
        assert self.gradient is not None
        return self.gradient.contiguous().view(-1).split(CHUNK)

    def _rows(self, part: Tensor) -> list[Tensor]:
        return [scratch(("gradient", row), part.shape[0], part.dtype) for row in range(len(self.copies))]

    def _draw(self) -> Draw:
        assert self.kernel.leaf_draw is not None
        return self.kernel.leaf_draw


def _state(group: dict[str, Any], state: dict[str, Any], copies: Tensor) -> list[Tensor]:
    """The state tensors of a parameter, made as torch's own optimizers make them; the step is counted."""
    if "dampening" in group:
        if group["momentum"] == 0:
            return []
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"], state["first"] = torch.zeros_like(copies), True
        return [state["momentum_buffer"]]
    if not state:
        state["step"] = torch.tensor(0.0, dtype=torch.float32)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(copies), torch.zeros_like(copies)
    state["step"] += 1
    return [state["exp_avg"], state["exp_avg_sq"]]


Columns = Sequence[Sequence[Tensor]]


def _adam(group: dict[str, Any], state: dict[str, Any], weights: Any, rows: list[Tensor], moments: Columns) -> None:
    update = _torch._fused_adamw_ if group.get("decoupled_weight_decay") else _torch._fused_adam_
    beta1, beta2 = group["betas"]
    update(
        weights,
        rows,
        *moments,
        [],
        [state["step"]] * len(rows),
        lr=float(group["lr"]),
        beta1=float(beta1),
        beta2=float(beta2),
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        amsgrad=False,
        maximize=group["maximize"],
    )


def _sgd(group: dict[str, Any], state: dict[str, Any], weights: Any, rows: list[Tensor], moments: Columns) -> None:
    _torch._fused_sgd_(
        weights,
        rows,
        moments[0] if moments else [],
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=float(group["lr"]),
        dampening=group["dampening"],
        nesterov=group["nesterov"],
        maximize=group["maximize"],
        is_first_step=state.get("first", False),
    )
