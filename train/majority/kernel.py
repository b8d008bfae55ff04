"""The majority kernel: e copies of a weight that a layer reads as one (Mazzawi et al. 2024, Eq. 2.1).

It is a parametrization in the sense of ``torch.nn.utils.parametrize``: the layer's parameter becomes the copies, of
shape ``(expansion, *weight.shape)``, and reading ``layer.weight`` gives Σ_k p_k ∘ copies_k while training and the mean
of the copies in evaluation. Every read within one optimizer step uses the same p: a ``Clock`` shared by the kernels of
a model counts the steps, and p is recomputed from (seed, step, kernel) in the backward pass.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from collegium.train.majority.clock import Clock
from collegium.train.majority.draw import Draw, mix
from collegium.train.majority.operators import mix_compiled, mixed

Mode = Literal["sample", "mean"]


class MajorityKernel(nn.Module):
    """One weight as a mixture of ``expansion`` copies; ``index`` makes its random numbers its own."""

    def __init__(self, expansion: int, clock: Clock, index: int) -> None:
        super().__init__()
        self.expansion, self.clock, self.index = expansion, clock, index
        self.mode: Mode | None = None  # None: sample while training
        self.override: Callable[[Tensor], Tensor] | None = None
        self._reset()

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Copies that mix to ``weight`` whatever p is: ``expansion`` times the same."""
        return weight.detach().unsqueeze(0).repeat(self.expansion, *[1] * weight.dim())

    def forward(self, copies: Tensor) -> Tensor:
        """Return the weight, shape ``copies.shape[1:]``: the mixture by the present p, or the mean of the copies."""
        if self.override is not None:
            return self.override(copies)
        if torch.compiler.is_compiling():
            return mix_compiled(copies, self.clock.number, self.index)[0] if self.samples else copies.mean(0)
        if self.samples:
            self.clock.advance_if_updated(self.index, copies)
        if self._owner is not None and self._owner() is copies and self._is_trained(copies):
            return self._mixed_leaf(copies)
        if isinstance(copies, nn.Parameter) and not copies.is_inference():
            return self._shared(copies)
        return self._mixed(copies)

    def _mixed(self, copies: Tensor) -> Tensor:
        return mixed(copies, self.draw, self._spent) if self.samples else copies.mean(0)

    def _shared(self, copies: Tensor) -> Tensor:
        """One tensor for all reads of a pass: T5 and others read a weight several times."""
        token = (
            self.clock.seed, self.clock.step, self.samples, copies._version, copies.data_ptr(), copies.requires_grad,
            torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
        )  # fmt: skip
        if self._token != token or self._source is None or self._source() is not copies or self._spent:
            self._weight, self._spent = None, []
            self._weight, self._token, self._source = self._mixed(copies), token, weakref.ref(copies)
        assert self._weight is not None
        return self._weight

    @property
    def samples(self) -> bool:
        """Whether reading the weight draws p."""
        return self.training if self.mode is None else self.mode == "sample"

    @property
    def draw(self) -> Draw:
        """The present draw of p."""
        return self.clock.draw(self.index)

    def extra_repr(self) -> str:
        """Show the expansion where the model is printed."""
        return f"expansion={self.expansion}, index={self.index}"

    def get_extra_state(self) -> Tensor:
        """Seed, step and whether it has begun, so that a loaded model goes on with the same draws."""
        return torch.tensor((self.clock.seed, self.clock.step, self.index in self.clock.last_mixed))

    def set_extra_state(self, state: Tensor) -> None:
        """Restore them; the next draw is that of the next step."""
        self.clock.seed, self.clock.step, begun = (int(number) for number in state)
        self.clock.last_mixed.pop(self.index, None)
        if begun:
            self.clock.last_mixed[self.index] = (self.clock.step, None)

    def __getstate__(self) -> dict[str, Any]:
        fresh = MajorityKernel.__new__(MajorityKernel)
        fresh.__dict__.update(self.__dict__)
        fresh._reset()
        return fresh.__dict__

    def _reset(self) -> None:
        self._token: Any = None
        self._weight: Tensor | None = None
        self._source: weakref.ref[Tensor] | None = None
        self._spent: list[bool] = []  # whether a backward pass has been through the weight
        self._owner: weakref.ref[Tensor] | None = None
        self.leaf: Tensor | None = None
        self.leaf_draw: Draw | None = None  # the draw that ``leaf`` holds
        self._leaf_token: Any = None

    # An optimizer that applies p_k ∘ g itself (``fused``) needs g alone: the layer then reads a leaf.

    def use_leaf(self, copies: nn.Parameter | None) -> None:
        """From now on give layers a leaf tensor, ``leaf``, in place of a function of ``copies``; ``None`` ends it.

        The gradient of the mixed weight then gathers in ``leaf.grad``, and ``copies.grad`` stays ``None``.
        """
        self._owner = None if copies is None else weakref.ref(copies)
        self.leaf, self._leaf_token = None, None

    def _is_trained(self, copies: Tensor) -> bool:
        return self.samples and copies.requires_grad and torch.is_grad_enabled()

    def _mixed_leaf(self, copies: Tensor) -> Tensor:
        token = (self.clock.seed, self.clock.step, copies._version)
        if self.leaf is None or self.leaf.device != copies.device or self.leaf.dtype != copies.dtype:
            self.leaf, self._leaf_token = torch.empty_like(copies[0]).requires_grad_(), None
        if self._leaf_token != token:
            self.leaf_draw, self._leaf_token = self.draw, token
            with torch.no_grad():
                mix(copies, self.leaf_draw, out=self.leaf)
        return self.leaf

    def set_leaf_draw(self, copies: Tensor, draw: Draw) -> None:
        """Record that ``leaf`` holds the mixture of the present ``copies`` by ``draw`` already."""
        self.leaf_draw, self._leaf_token = draw, (draw.seed, draw.step, copies._version)


def majority_kernels(model: nn.Module) -> dict[str, MajorityKernel]:
    """The majority kernels of ``model`` by the name of their parametrization; shared ones once.

    >>> import torch
    >>> from collegium import expand, majority_kernels
    >>> model = expand(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), expansion=3)
    >>> {name: kernel.expansion for name, kernel in majority_kernels(model).items()}
    {'0.parametrizations.weight.0': 3, '1.parametrizations.weight.0': 3}
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, MajorityKernel)}


@contextmanager
def mixing(model: nn.Module, mode: Mode, *, step: int | None = None) -> Iterator[None]:
    """Context in which all kernels of ``model`` sample (as of ``step``, if given) or take the mean."""
    found = list(majority_kernels(model).values())
    before: list[tuple[MajorityKernel, Mode | None]] = [(kernel, kernel.mode) for kernel in found]
    clocks = {id(kernel.clock): (kernel.clock, kernel.clock.__getstate__()) for kernel in found}
    try:
        for kernel in found:
            kernel.mode = mode
        for clock, _ in clocks.values():
            clock.step = clock.step if step is None else step
        yield
    finally:
        for kernel, previous in before:
            kernel.mode = previous
        if step is not None:
            for clock, state in clocks.values():
                clock.step, clock.last_mixed = state["step"], state["last_mixed"]
