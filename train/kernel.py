"""The majority kernel: e copies of a weight that a layer sees as one (Mazzawi et al. 2024, Eq. 2.1).

It is a parametrization in the sense of ``torch.nn.utils.parametrize``: the layer's parameter becomes the copies, of
shape ``(expansion, *weight.shape)``, and reading ``layer.weight`` gives Σ_k p_k ∘ copies_k while training and the mean
of the copies in evaluation. Every read within one optimizer step sees the same p: a ``Clock`` shared by
the kernels of a model says which step it is, and p is recomputed from (seed, step, kernel) in the backward pass.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from train import simplex
from train.simplex import Draw

Mode = Literal["sample", "mean"]
_SEED_MASK = (1 << 63) - 1
_clocks: "weakref.WeakSet[Clock]" = weakref.WeakSet()
_watching: list[Any] = []


class Clock:
    """Which draw of p the kernels of a model use: a seed, and the number of the optimizer step.

    It moves on by itself after every step of a ``torch.optim`` optimizer in this process, so that microbatches whose
    gradients are accumulated share p. A loop may also set ``step`` itself, which makes p a function of its own count.
    """

    def __init__(self, seed: int, step: int = 0) -> None:
        self.seed = seed & _SEED_MASK
        self.step = step
        if not _watching:
            _watching.append(register_optimizer_step_post_hook(_tick))
        _clocks.add(self)

    @property
    def step(self) -> int:
        """The present step; evaluation uses negative numbers."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step = step
        # A new tensor each time: graphs compiled by torch.compile, and those awaiting backward, hold the old one.
        self.key = torch.tensor((self.seed, step))

    def __getstate__(self) -> dict[str, int]:
        return {"seed": self.seed, "step": self.step}

    def __setstate__(self, state: dict[str, int]) -> None:
        Clock.__init__(self, **state)


def _tick(*_: Any) -> None:
    for clock in tuple(_clocks):
        clock.step += 1


class MajorityKernel(nn.Module):
    """One weight as a mixture of ``expansion`` copies; ``index`` tells its random numbers from other kernels'."""

    def __init__(self, expansion: int, clock: Clock, index: int) -> None:
        super().__init__()
        self.expansion, self.clock, self.index = expansion, clock, index
        self.mode: Mode | None = None  # None: sample while training
        self.override: Callable[[Tensor], Tensor] | None = None
        self._forget()

    def _forget(self) -> None:
        self._token: Any = None
        self._weight: Tensor | None = None
        self._source: weakref.ref[Tensor] | None = None
        self._owner: weakref.ref[Tensor] | None = None
        self.virtual: Tensor | None = None
        self._virtual_token: Any = None

    def __getstate__(self) -> dict[str, Any]:
        fresh = MajorityKernel.__new__(MajorityKernel)
        fresh.__dict__.update(self.__dict__)
        fresh._forget()
        return fresh.__dict__

    def extra_repr(self) -> str:
        """Show the expansion where the model is printed."""
        return f"expansion={self.expansion}, index={self.index}"

    def get_extra_state(self) -> Tensor:
        """Seed and step, so that a loaded model goes on with the same draws."""
        return torch.tensor((self.clock.seed, self.clock.step))

    def set_extra_state(self, state: Tensor) -> None:
        """Restore seed and step."""
        self.clock.seed, self.clock.step = (int(number) for number in state)

    @property
    def samples(self) -> bool:
        """Whether reading the weight draws p."""
        return self.training if self.mode is None else self.mode == "sample"

    @property
    def draw(self) -> Draw:
        """The present draw of p."""
        return Draw(self.clock.seed, self.clock.step, self.index)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Copies that mix to ``weight`` whatever p is: ``expansion`` times the same."""
        return weight.detach().unsqueeze(0).repeat(self.expansion, *[1] * weight.dim())

    def forward(self, copies: Tensor) -> Tensor:
        """Return the weight, shape ``copies.shape[1:]``."""
        if self.override is not None:
            return self.override(copies)
        if torch.compiler.is_compiling():
            return self._mixed(copies)
        if self._owner is not None and self._owner() is copies and self._is_trained(copies):
            return self._virtual_leaf(copies)
        if not isinstance(copies, nn.Parameter) or copies.is_inference():
            return self._mixed(copies)
        # T5 and others read a weight several times in one pass; all readers share one tensor.
        token = (
            self.clock.seed, self.clock.step, self.samples, copies._version, copies.data_ptr(), copies.requires_grad,
            torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
        )  # fmt: skip
        if self._token != token or self._source is None or self._source() is not copies:
            self._weight = None
            self._weight, self._token, self._source = self._mixed(copies), token, weakref.ref(copies)
        assert self._weight is not None
        return self._weight

    def _mixed(self, copies: Tensor) -> Tensor:
        return mix(copies, self.clock.key, self.index) if self.samples else copies.mean(0)

    # An optimizer that applies p_k ∘ g itself (train.fused) asks for g alone: the layer then reads a leaf.

    def lend(self, copies: nn.Parameter | None) -> None:
        """From now on give layers a leaf tensor, ``virtual``, in place of a function of ``copies``; ``None`` ends it.

        The gradient of the mixed weight then gathers in ``virtual.grad``, and ``copies.grad`` stays ``None``.
        """
        self._owner = None if copies is None else weakref.ref(copies)
        self.virtual, self._virtual_token = None, None

    def _is_trained(self, copies: Tensor) -> bool:
        return self.samples and copies.requires_grad and torch.is_grad_enabled()

    def _virtual_leaf(self, copies: Tensor) -> Tensor:
        token = (self.clock.seed, self.clock.step, copies._version)
        if self.virtual is None or self.virtual.device != copies.device or self.virtual.dtype != copies.dtype:
            self.virtual, self._virtual_token = torch.empty_like(copies[0]).requires_grad_(), None
        if self._virtual_token != token:
            with torch.no_grad():
                simplex.mix(copies, self.draw, out=self.virtual)
            self._virtual_token = token
        return self.virtual

    def lent_draw(self) -> Draw:
        """The draw that ``virtual`` holds."""
        seed, step, _ = self._virtual_token
        return Draw(seed, step, self.index)

    def foresee(self, copies: Tensor, step: int) -> None:
        """Say that ``virtual`` already holds the mixture of the present ``copies`` for ``step``."""
        self._virtual_token = (self.clock.seed, step, copies._version)


@torch.library.custom_op("collegium::mix", mutates_args=())
def mix(copies: Tensor, key: Tensor, index: int) -> Tensor:
    """``simplex.mix`` as a differentiable operator; ``key`` is a clock's. Nothing but the key is kept for backward."""
    seed, step = key.tolist()
    return simplex.mix(copies, Draw(seed, step, index))


@torch.library.custom_op("collegium::spread", mutates_args=())
def spread(gradient: Tensor, key: Tensor, index: int, expansion: int) -> Tensor:
    """``simplex.spread`` as a differentiable operator."""
    seed, step = key.tolist()
    return simplex.spread(gradient, Draw(seed, step, index), expansion)


@mix.register_fake
def _(copies: Tensor, key: Tensor, index: int) -> Tensor:
    return copies.new_empty(copies.shape[1:])


@spread.register_fake
def _(gradient: Tensor, key: Tensor, index: int, expansion: int) -> Tensor:
    return gradient.new_empty((expansion, *gradient.shape))


def _keep_mix(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    # Not save_for_backward: microbatches that share the weight go backward through this node more than once.
    ctx.expansion, ctx.key, ctx.index = inputs[0].shape[0], inputs[1], inputs[2]


def _keep_spread(ctx: Any, inputs: tuple[Tensor, Tensor, int, int], output: Tensor) -> None:
    ctx.key, ctx.index = inputs[1], inputs[2]


def _mix_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return spread(gradient, ctx.key, ctx.index, ctx.expansion), None, None


def _spread_backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, None, None, None]:
    return mix(gradients, ctx.key, ctx.index), None, None, None


mix.register_autograd(_mix_backward, setup_context=_keep_mix)
spread.register_autograd(_spread_backward, setup_context=_keep_spread)


@mix.register_vmap
def _(info: Any, dims: tuple[int | None, ...], copies: Tensor, key: Tensor, index: int) -> tuple[Tensor, int]:
    return torch.stack([mix(part, key, index) for part in copies.unbind(dims[0] or 0)]), 0


@spread.register_vmap
def _(info: Any, dims: tuple[int | None, ...], gradient: Tensor, key: Tensor, index: int, expansion: int) -> Any:
    return torch.stack([spread(part, key, index, expansion) for part in gradient.unbind(dims[0] or 0)]), 0


def kernels(model: nn.Module) -> dict[str, MajorityKernel]:
    """The majority kernels of ``model`` by the name of their parametrization; shared ones once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MajorityKernel)}


@contextmanager
def mixing(model: nn.Module, mode: Mode, *, step: int | None = None) -> Iterator[None]:
    """Context in which all kernels of ``model`` sample (as of ``step``, if given) or take the mean."""
    found = list(kernels(model).values())
    before: list[tuple[MajorityKernel, Mode | None]] = [(kernel, kernel.mode) for kernel in found]
    clocks = {id(kernel.clock): (kernel.clock, kernel.clock.step) for kernel in found}
    try:
        for kernel in found:
            kernel.mode = mode
        for clock, _ in clocks.values():
            clock.step = clock.step if step is None else step
        yield
    finally:
        for kernel, previous in before:
            kernel.mode = previous
        for clock, previous in clocks.values():
            clock.step = previous
