"""``draw.mix`` and ``draw.spread`` as differentiable operators, each the derivative of the other.

Nothing is kept for the backward pass but the key of the draw. There are two forms: autograd functions, which
``torch.func`` can transform, and custom operators, which ``torch.compile`` calls as they are without tracing them.
These read the clock when they run: a value read while a graph is traced would be compiled into it.
"""

from typing import Any

import torch
from torch import Tensor

from collegium.train.majority.clock import clock_by_number
from collegium.train.majority.draw import Draw, mix, spread
from collegium.train.majority.generators.uniforms import SOURCES


def mixed(copies: Tensor, draw: Draw, spent: list[bool]) -> Tensor:
    """Σ_k p_k ∘ copies_k, differentiable; a backward pass appends to the list ``spent``."""
    transformed = torch._C._are_functorch_transforms_active()  # type: ignore[attr-defined]
    return (TransformedMix if transformed else Mix).apply(copies, draw, spent)  # type: ignore[return-value]


class Mix(torch.autograd.Function):
    """``mixed`` without transforms: torch takes longer for a function that has them than a GPU for small kernels."""

    @staticmethod
    def forward(ctx: Any, copies: Tensor, draw: Draw, spent: list[bool]) -> Tensor:  # type: ignore[override]
        """Mix."""
        ctx.expansion, ctx.draw, ctx.spent = copies.shape[0], draw, spent
        return mix(copies, draw)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """Spread."""
        ctx.spent.append(True)
        if torch.is_grad_enabled():
            return Spread.apply(gradient, ctx.draw, ctx.expansion), None, None  # type: ignore[return-value]
        return spread(gradient, ctx.draw, ctx.expansion), None, None


class TransformedMix(torch.autograd.Function):
    """``mixed`` for ``torch.func``."""

    @staticmethod
    def forward(copies: Tensor, draw: Draw, spent: list[bool]) -> Tensor:
        """Mix."""
        return mix(copies, draw)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Draw, list[bool]], output: Tensor) -> None:
        """Keep the key."""
        ctx.expansion, ctx.draw, ctx.spent = inputs[0].shape[0], inputs[1], inputs[2]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """Spread."""
        ctx.spent.append(True)
        return Spread.apply(gradient, ctx.draw, ctx.expansion), None, None  # type: ignore[return-value]

    @staticmethod
    def vmap(info: Any, dims: Any, copies: Tensor, draw: Draw, spent: list[bool]) -> tuple[Tensor, int]:  # type: ignore[override]
        """One p for the whole batch."""
        return torch.stack([mixed(part, draw, spent) for part in copies.unbind(dims[0])]), 0


class Spread(torch.autograd.Function):
    """(p_k ∘ gradient)_k for ``(gradient, draw, expansion)``."""

    @staticmethod
    def forward(gradient: Tensor, draw: Draw, expansion: int) -> Tensor:
        """Spread."""
        return spread(gradient, draw, expansion)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Draw, int], output: Tensor) -> None:
        """Keep the key."""
        ctx.draw = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        """Mix."""
        return mixed(gradients, ctx.draw, []), None, None

    @staticmethod
    def vmap(info: Any, dims: Any, gradient: Tensor, draw: Draw, expansion: int) -> tuple[Tensor, int]:  # type: ignore[override]
        """One p for the whole batch."""
        return torch.stack([Spread.apply(part, draw, expansion) for part in gradient.unbind(dims[0])]), 0  # type: ignore[misc]


@torch.library.custom_op("collegium::mix", mutates_args=())
def mix_compiled(copies: Tensor, clock: int, index: int) -> tuple[Tensor, Tensor]:
    """``Mix`` with the present draw of kernel ``index`` of clock number ``clock``, and that draw's seed,
    step and source.
    """
    found = clock_by_number(clock)
    found.advance_if_updated(index, copies)
    source = SOURCES.index(found.source)
    return mix(copies, found.draw(index)), torch.tensor((found.seed, found.step, source))


@torch.library.custom_op("collegium::spread", mutates_args=())
def spread_compiled(gradient: Tensor, key: Tensor, index: int, expansion: int) -> Tensor:
    """``Spread`` with the key that ``mix_compiled`` returned."""
    seed, step, source = key.tolist()
    return spread(gradient, Draw(seed, step, index, SOURCES[source]), expansion)


@mix_compiled.register_fake
def _(copies: Tensor, clock: int, index: int) -> tuple[Tensor, Tensor]:
    return copies.new_empty(copies.shape[1:]), torch.empty(3, dtype=torch.int64)


@spread_compiled.register_fake
def _(gradient: Tensor, key: Tensor, index: int, expansion: int) -> Tensor:
    return gradient.new_empty((expansion, *gradient.shape))


def _keep_key(ctx: Any, inputs: tuple[Tensor, int, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.expansion, ctx.index = inputs[0].shape[0], inputs[2]
    ctx.save_for_backward(output[1])


def _mix_backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None, None]:
    return spread_compiled(gradient, *ctx.saved_tensors, ctx.index, ctx.expansion), None, None


mix_compiled.register_autograd(_mix_backward, setup_context=_keep_key)
