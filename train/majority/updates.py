"""The optimizer's own arithmetic on a chunk of the copies, and the state it keeps for them, as torch keeps it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_torch: Any = torch  # what torch's own optimizers call has no public name
Columns = Sequence[Sequence[Tensor]]


def state_tensors(group: dict[str, Any], state: dict[str, Any], copies: Tensor) -> list[Tensor]:
    """The state tensors of a parameter, made as torch's own optimizers make them; the step is counted."""
    if "dampening" in group:
        if group["momentum"] == 0:
            return []
        if state.get("momentum_buffer") is None:
            state["momentum_buffer"], state["first"] = torch.zeros_like(copies), True
        return [_like(copies, state, "momentum_buffer")]
    if not state:
        state["step"] = torch.tensor(0.0, dtype=torch.float32, device="cpu")
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(copies), torch.zeros_like(copies)
    state["step"] += 1
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
