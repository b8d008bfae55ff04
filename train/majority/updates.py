"""The optimizer's own arithmetic on a chunk of the copies, and the state it keeps for them, as torch keeps it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from collegium.train.majority.generators.uniforms import Draw

_torch: Any = torch  # what torch's own optimizers call has no public name
Columns = Sequence[Sequence[Tensor]]


class Work(NamedTuple):
    """One kernel's update: ``gradient`` and ``target``, the mixed weight, of its shape; copies and state, e of that."""

    is_adam: bool
    gradient: Tensor
    target: Tensor
    tensors: Sequence[Tensor]
    draw: Draw
    following: Draw
    numbers: tuple[float, ...]

    @property
    def addresses(self) -> list[int]:
        """Where its tensors lie, in the order of the fields."""
        return [tensor.data_ptr() for tensor in (self.gradient, self.target, *self.tensors)]


def state_tensors(group: dict[str, Any], state: dict[str, Any], copies: Tensor) -> list[Tensor]:
    """The state tensors of a parameter, made as torch's own optimizers make them."""
    if "dampening" in group:
        if group["momentum"] == 0:
            return []
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"], state["first"] = torch.zeros_like(copies), True
        return [_like(copies, state, "momentum_buffer")]
    if not state:
        device = copies.device if group.get("fused") else "cpu"
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(copies), torch.zeros_like(copies)
    return [_like(copies, state, "exp_avg"), _like(copies, state, "exp_avg_sq")]


def _like(copies: Tensor, state: dict[str, Any], name: str) -> Tensor:
    """The state tensor of this name, of the type of ``copies`` and contiguous, whatever gradients have made it."""
    found = state[name]
    if found.dtype != copies.dtype or not found.is_contiguous():
        found = state[name] = found.to(copies.dtype).contiguous()
    return found


def adam(group: dict[str, Any], state: dict[str, Any], weights: Any, rows: Sequence[Tensor], moments: Columns) -> None:
    """A step of Adam or AdamW; all tensors are flat."""
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


def sgd(group: dict[str, Any], state: dict[str, Any], weights: Any, rows: Sequence[Tensor], moments: Columns) -> None:
    """A step of SGD."""
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


def numbers(group: dict[str, Any], state: dict[str, Any], taken: float) -> tuple[float, ...]:
    """What a step in one launch or pass needs of the options; ``taken`` are the steps with this one.

    With the share p_k ∘ g of copy w, its state m and v, or b, and s = share · sign + w · decay, Adam is

        m += (s − m) · rest1,    v += (s² − v) · rest2,    w = w · shrink − rate · m / (√v · root + ε),

    which takes (rate, decay, sign, shrink, root, ε, rest1, rest2); SGD is w −= rate · s, and with momentum

        b = b · kept + s · added,    w −= rate · (b · momentum + s · own),

    which takes (rate, decay, sign, kept, added, momentum, own). The first b is the gradient itself.
    """
    rate, decay, sign = float(group["lr"]), float(group["weight_decay"]), -1.0 if group["maximize"] else 1.0
    if "dampening" in group:
        momentum, nesterov, first = float(group["momentum"]), bool(group["nesterov"]), bool(state.get("first"))
        kept, added = (0.0, 1.0) if first else (momentum, 1 - float(group["dampening"]))
        return rate, decay, sign, kept, added, *((momentum, 1.0) if nesterov else (1.0, 0.0))
    beta1, beta2 = map(float, group["betas"])
    decay, shrink = (0.0, 1 - rate * decay) if group.get("decoupled_weight_decay") else (decay, 1.0)
    rate, root = rate / (1 - beta1**taken), (1 - beta2**taken) ** -0.5
    return rate, decay, sign, shrink, root, float(group["eps"]), 1 - beta1, 1 - beta2
