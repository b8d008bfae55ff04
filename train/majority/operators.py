"""``draw.mix`` and ``draw.spread`` as differentiable operators, each the derivative of the other.

Nothing is kept for the backward pass but the key of the draw. There are two forms: autograd functions, which
``torch.func`` can transform, and custom operators, which ``torch.compile`` calls as they are without tracing them.
These read the clock when they run: a value read while a graph is traced would be compiled into it.
"""

from typing import Any

import torch
from torch import Tensor

from collegium.train.majority.clock import CAPTURED, clock_by_number, is_captured
from collegium.train.majority.draw import Draw, mix, spread
from collegium.train.majority.generators.uniforms import SOURCES

#: Of ``torch.autograd.grad(is_grads_batched=True)``, which knows no rule of an autograd function.
_is_batched: Any = getattr(torch._C._functorch, "is_legacy_batchedtensor", lambda tensor: False)  # type: ignore[attr-defined]


def mixed(copies: Tensor, draw: Draw) -> Tensor:
    """Σ_k p_k ∘ copies_k, differentiable."""
    transformed = torch._C._are_functorch_transforms_active()  # type: ignore[attr-defined]
    return (TransformedMix if transformed else Mix).apply(copies, draw)  # type: ignore[return-value]


def spread_differentiably(gradient: Tensor, draw: Draw, expansion: int) -> Tensor:
    """(p_k ∘ gradient)_k."""
    if _is_batched(gradient):
        return _shares(gradient, draw, expansion) * gradient
    return Spread.apply(gradient, draw, expansion)  # type: ignore[return-value]


def _shares(like: Tensor, draw: Draw, expansion: int) -> Tensor:
    """p itself, of the type of ``like`` and for its shape."""
    return spread(torch.ones(like.shape, dtype=like.dtype, device=like.device), draw, expansion)


class Mix(torch.autograd.Function):
    """``mixed`` without transforms: torch takes longer for a function that has them than a GPU for small kernels."""

    @staticmethod
    def forward(ctx: Any, copies: Tensor, draw: Draw) -> Tensor:  # type: ignore[override]
        """Mix."""
        ctx.expansion, ctx.draw = copies.shape[0], draw
        return mix(copies, draw)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:  # type: ignore[override]
        """Mix, which is linear."""
        return mixed(tangent, ctx.draw)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Spread."""
        if torch.is_grad_enabled() or _is_batched(gradient):
            return spread_differentiably(gradient, ctx.draw, ctx.expansion), None
        return spread(gradient, ctx.draw, ctx.expansion), None


class TransformedMix(torch.autograd.Function):
    """``mixed`` for ``torch.func``."""

    @staticmethod
    def forward(copies: Tensor, draw: Draw) -> Tensor:
        """Mix."""
        return mix(copies, draw)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Draw], output: Tensor) -> None:
        """Keep the key."""
        ctx.expansion, ctx.draw = inputs[0].shape[0], inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        """Spread."""
        return spread_differentiably(gradient, ctx.draw, ctx.expansion), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:  # type: ignore[override]
        """Mix, which is linear."""
        return mixed(tangent, ctx.draw)

    @staticmethod
    def vmap(info: Any, dims: Any, copies: Tensor, draw: Draw) -> tuple[Tensor, int]:  # type: ignore[override]
        """One p for the whole batch."""
        return torch.stack([mixed(part, draw) for part in copies.unbind(dims[0])]), 0


class Spread(torch.autograd.Function):
    """(p_k ∘ gradient)_k for ``(gradient, draw, expansion)``."""

    @staticmethod
    def forward(gradient: Tensor, draw: Draw, expansion: int) -> Tensor:
        """Spread."""
        return spread(gradient, draw, expansion)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Draw, int], output: Tensor) -> None:
        """Keep the key."""
        ctx.draw, ctx.expansion = inputs[1:]

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """Mix."""
        if _is_batched(gradients):
            return (_shares(gradients[0], ctx.draw, ctx.expansion) * gradients).sum(0), None, None
        return mixed(gradients, ctx.draw), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None, __: None) -> Tensor:  # type: ignore[override]
        """Spread, which is linear."""
        return spread_differentiably(tangent, ctx.draw, ctx.expansion)

    @staticmethod
    def vmap(info: Any, dims: Any, gradient: Tensor, draw: Draw, expansion: int) -> tuple[Tensor, int]:  # type: ignore[override]
        """One p for the whole batch."""
        return torch.stack([spread_differentiably(part, draw, expansion) for part in gradient.unbind(dims[0])]), 0


@torch.library.custom_op("collegium::mix", mutates_args=())
def mix_compiled(copies: Tensor, clock: int, index: int, always: bool) -> tuple[Tensor, Tensor]:
    """``Mix`` with the present draw of kernel ``index`` of clock number ``clock``, and that draw's seed,
    step and source.

    Unless ``always``, the mean where this step's p has not been used yet.
    """
    found = clock_by_number(clock)
    key = torch.tensor((found.seed, found.step, SOURCES.index(found.source)), device="cpu")
    if not always and not found.drawn:
        return copies.mean(0), key
    if is_captured():
        raise RuntimeError(CAPTURED)
    found.note_draw(index, copies)
    return mix(copies, found.draw(index)), key


@torch.library.custom_op("collegium::spread", mutates_args=())
def spread_compiled(gradient: Tensor, key: Tensor, index: int, expansion: int) -> Tensor:
    """``Spread`` with the key that ``mix_compiled`` returned."""
    seed, step, source = key.tolist()
    return spread(gradient, Draw(seed, step, index, SOURCES[source]), expansion)


@mix_compiled.register_fake
def _(copies: Tensor, clock: int, index: int, always: bool) -> tuple[Tensor, Tensor]:
    return copies.new_empty(copies.shape[1:]), torch.empty(3, dtype=torch.int64, device="cpu")


@spread_compiled.register_fake
def _(gradient: Tensor, key: Tensor, index: int, expansion: int) -> Tensor:
    return gradient.new_empty((expansion, *gradient.shape))


def _keep_key(ctx: Any, inputs: tuple[Tensor, int, int, bool], output: tuple[Tensor, Tensor]) -> None:
    ctx.expansion, ctx.index = inputs[0].shape[0], inputs[2]
    ctx.save_for_backward(output[1])


def _mix_backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None, None, None]:
    return spread_compiled(gradient, *ctx.saved_tensors, ctx.index, ctx.expansion), None, None, None


mix_compiled.register_autograd(_mix_backward, setup_context=_keep_key)
