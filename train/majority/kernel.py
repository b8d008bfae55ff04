"""The majority kernel: e copies of a weight that a layer reads as one (Mazzawi et al. 2024, Eq. 2.1).

It is a parametrization in the sense of ``torch.nn.utils.parametrize``: the layer's parameter becomes the copies, of
shape ``(expansion, *weight.shape)``, and reading ``layer.weight`` gives Σ_k p_k ∘ copies_k where a training step is
computed and the mean of the copies elsewhere, from the copies as they are at that moment. Every read within one
optimizer step uses the same p: a ``Clock`` shared by the kernels of a model counts the steps, and p is recomputed from
(seed, step, kernel) in the backward pass.

What samples: training mode, as far as gradients are computed. Under ``torch.no_grad`` a pass in training mode takes the
mean (statistics of batch norms, merged adapters), unless p has been used in this step already (a line search) or an
input requires a gradient (a checkpointed function, computed again with gradients).
"""

import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.fx._symbolic_trace import is_fx_symbolic_tracing
from torch.nn.utils import parametrize

from collegium.train.majority.clock import CAPTURED, Clock, is_captured, is_traced
from collegium.train.majority.draw import Draw
from collegium.train.majority.guards.gradient import MixedLeaf
from collegium.train.majority.guards.watch import is_collapsed
from collegium.train.majority.guards.written import WrittenWeight, readable, within_pass
from collegium.train.majority.operators import mix_compiled, mixed

Mode = Literal["sample", "mean"]


class MajorityKernel(nn.Module):
    """One weight as a mixture of ``expansion`` copies; ``index`` makes its random numbers its own."""

    def __init__(self, expansion: int, clock: Clock, index: int) -> None:
        super().__init__()
        self.expansion, self.clock, self.index = expansion, clock, index
        self.mode: Mode | None = None  # None: sample where a training step is computed
        self.override: Callable[[Tensor], Tensor] | None = None
        self.reads: list[weakref.ref[WrittenWeight]] = []  # outside of a pass, as far as they are in use
        self.leaf: MixedLeaf | None = None  # what layers read in training, if an optimizer updates the copies itself

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Copies that mix to ``weight`` whatever p is: ``expansion`` times the same."""
        return weight.detach().unsqueeze(0).repeat(self.expansion, *[1] * weight.dim())

    def forward(self, copies: Tensor) -> Tensor:
        """Return the weight, shape ``copies.shape[1:]``: the mixture by the present p, or the mean of the copies.

        Outside of a pass it is a tensor that can be written to: all copies take the value.
        """
        if self.override is not None:
            return self.override(copies)
        if torch.compiler.is_compiling():
            return self.compiled(copies)
        own = self.clock.present
        if own.outermost is not None and own.is_open():
            if own.quick and self.leaf is not None and self.training and self.mode is None:
                found = self.leaf.ready(copies, self.clock)
                if found is not None:
                    self.clock.drawn = True
                    return found
            return self._read_once(copies)
        if copies.dim() < 2:
            raise RuntimeError(
                "the weight of a majority kernel that FSDP has sharded is read outside of its forward pass"
            )
        with _noticing(copies):
            found = readable(self.read(copies, self.samples), copies, self.average)
        if isinstance(found, WrittenWeight):
            self.reads = [read for read in self.reads if read() is not None]
            self.reads.append(weakref.ref(found))
        return found

    def read(self, copies: Tensor, samples: bool) -> Tensor:
        """The weight as of now, computed from ``copies``: their mixture, or their mean."""
        if is_collapsed(copies):
            raise RuntimeError(
                "these copies have been collapsed with another part of the model: collapse it as a whole"
            )
        if is_fx_symbolic_tracing():
            raise RuntimeError("a graph of torch.fx would hold the present weight for ever: collapse the model first")
        if not samples:
            return self.average(copies)
        if is_traced():
            raise RuntimeError(
                "a trace would hold one sample of the majority kernels: call model.eval(), or collapse the model, first"
            )
        if is_captured():
            raise RuntimeError(CAPTURED)
        self.clock.note_draw(self.index, copies)
        if self.leaf is not None and self.leaf.replaces(copies) and not torch._C._are_functorch_transforms_active():  # type: ignore[attr-defined]
            return self.leaf.read(self.draw)
        return mixed(copies, self.draw)

    def average(self, copies: Tensor) -> Tensor:
        """The weight that ``collapse`` leaves."""
        return copies.mean(0)

    def compiled(self, copies: Tensor) -> Tensor:
        """``read``, where a graph is traced."""
        if self.mode == "mean" or not (self.training or self.mode):
            return self.average(copies)
        if self.leaf is not None and self.leaf.held is not None and torch.is_grad_enabled():
            return self.leaf.held
        always = self.mode == "sample" or torch.is_grad_enabled()
        return mix_compiled(copies, self.clock.number, self.index, always)[0]

    def _read_once(self, copies: Tensor) -> Tensor:
        """One tensor for all reads of a pass: T5 and others read a weight several times."""
        samples = self.training and self.clock.present.samples if self.mode is None else self.mode == "sample"
        if torch._C._are_functorch_transforms_active():  # type: ignore[attr-defined]
            return self.read(copies, samples)  # a tensor of a transform must not leave it
        version = 0 if copies.is_inference() else copies._version
        key = (
            self.index, self.clock.seed, self.clock.step, samples, self.mode, version, copies.requires_grad,
            torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
        )  # fmt: skip
        found = self.clock.weights.get(key)
        if found is None or found[0] is not copies:
            with _noticing(copies):
                weight = within_pass(self.read(copies, samples), copies)
            found = self.clock.weights[key] = copies, weight, 0 if weight.is_inference() else weight._version
        return found[1]

    @property
    def samples(self) -> bool:
        """Whether reading the weight now draws p."""
        return self.training and self.clock.samples if self.mode is None else self.mode == "sample"

    @property
    def draw(self) -> Draw:
        """The present draw of p."""
        return self.clock.draw(self.index)

    def extra_repr(self) -> str:
        """Show the expansion where the model is printed."""
        return f"expansion={self.expansion}, index={self.index}"

    def get_extra_state(self) -> Tensor:
        """Seed, step and whether its p has been used, so that a loaded model goes on with the same draws."""
        step = (self.clock.step + 2**63) % 2**64 - 2**63  # p depends on it modulo 2^64
        return torch.tensor((self.clock.seed, step, self.clock.drawn), device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Restore them. Warns where they have been rounded, as by converting a whole state_dict to half precision."""
        if state.is_floating_point():
            warnings.warn(
                "the seed and the step of majority kernels have been converted to floating numbers: draws go on as the "
                "model's own. Convert only what is_floating_point()",
                stacklevel=2,
            )
            return
        self.clock.seed, step, drawn = (int(number) for number in state)
        self.clock.set_step(step)
        self.clock.drawn = bool(drawn)

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(
            "torch.jit.script takes no weights that are computed, as those of majority kernels are: collapse the "
            "model, or torch.jit.trace it after model.eval()"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "leaf": None, "reads": []}  # a copied model has an optimizer of its own


@contextmanager
def _noticing(copies: Tensor) -> Iterator[None]:
    """Context in which tensors count what is written into them, as those of inference mode do not."""
    if torch.is_inference_mode_enabled() and not copies.is_inference():
        with torch.inference_mode(False), torch.no_grad():
            yield
    else:
        yield


def majority_kernels(model: nn.Module) -> dict[str, MajorityKernel]:
    """The majority kernels of ``model`` by the name of their parametrization; shared ones once.

    >>> import torch
    >>> from collegium import expand, majority_kernels
    >>> model = expand(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), expansion=3)
    >>> {name: kernel.expansion for name, kernel in majority_kernels(model).items()}
    {'0.parametrizations.weight.0': 3, '1.parametrizations.weight.0': 3}
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, MajorityKernel)}


def majority_copies(model: nn.Module) -> list[tuple[MajorityKernel, nn.Parameter]]:
    """Each majority kernel of ``model`` with the parameter that holds its copies; shared ones once."""
    found: dict[int, tuple[MajorityKernel, nn.Parameter]] = {}
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList) and len(module) == 1:
            kernel = module[0]
            if isinstance(kernel, MajorityKernel):
                found.setdefault(id(module.original), (kernel, module.original))  # type: ignore[arg-type]
    return list(found.values())


@contextmanager
def mixed_before(model: nn.Module) -> Iterator[None]:
    """Context of one step's passes in which graphs of ``torch.compile`` take the weights of fused kernels as inputs.

    They are mixed by the present p before the passes, or have been by the last update; their gradients gather where
    that looks for them. Elsewhere a graph mixes the copies itself, and the gradients of the copies are formed.
    """
    found: list[MixedLeaf] = []
    try:
        with torch.enable_grad():
            for kernel, copies in majority_copies(model):
                if kernel.leaf is not None and kernel.samples and kernel.leaf.replaces(copies):
                    kernel.clock.note_draw(kernel.index, copies)
                    kernel.leaf.held = kernel.leaf.read(kernel.draw)
                    kernel.leaf.held.__class__ = Tensor  # which graphs take, and no class of it
                    found.append(kernel.leaf)
        yield
    finally:
        for leaf in found:
            leaf.held = None


def is_sharded(copies: Tensor, expansion: int) -> bool:
    """Whether ``copies`` are those of one process among several, as FSDP leaves them between passes."""
    return hasattr(copies, "placements") or not isinstance(copies, nn.Parameter) or copies.shape[:1] != (expansion,)


def majority_clocks(model: nn.Module) -> list[Clock]:
    """The clocks of the majority kernels of ``model``: one for each call of ``expand``."""
    return list({id(kernel.clock): kernel.clock for kernel in majority_kernels(model).values()}.values())


@contextmanager
def mixing(model: nn.Module, mode: Mode, *, step: int | None = None) -> Iterator[None]:
    """Context in which all kernels of ``model`` sample (as of ``step``, if given) or take the mean."""
    found = list(majority_kernels(model).values())
    before: list[tuple[MajorityKernel, Mode | None]] = [(kernel, kernel.mode) for kernel in found]
    clocks = [(clock, clock.step, clock.drawn) for clock in majority_clocks(model)]
    try:
        for kernel in found:
            kernel.mode = mode
        for clock, _, _ in clocks:
            clock.step = clock.step if step is None else step
        yield
    finally:
        for kernel, previous in before:
            kernel.mode = previous
        if step is not None:
            for clock, previous_step, drawn in clocks:
                clock.step, clock.drawn = previous_step, drawn
