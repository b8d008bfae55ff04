"""Which optimizer step it is, as far as the draws of a model's kernels are concerned."""

import weakref
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.optim.optimizer import register_optimizer_step_post_hook

from collegium.train.majority.generators.uniforms import Draw, Source

_SEED_MASK = (1 << 63) - 1
_clocks: "weakref.WeakValueDictionary[int, Clock]" = weakref.WeakValueDictionary()
_count = 0
_hooks: list[Any] = []


class Clock:
    """A seed and the number of the optimizer step, shared by the kernels of a model.

    It moves on by itself when a kernel's copies have changed in place since they were last mixed, as every
    ``torch.optim`` optimizer changes them: microbatches whose gradients are accumulated share p, the next step has
    another. A loop may also set ``step`` itself, which makes p a function of its own count, and must do so if it
    updates parameters through ``.data``, which does not count as a change. Evaluation uses negative steps.
    """

    number: int  # identifies the clock in this process, for compiled graphs, which hold no objects

    def __init__(self, seed: int, *, source: Source = "independent") -> None:
        self.seed, self.step = seed & _SEED_MASK, 0
        self.source: Source = source
        # kernel: the step in which its copies were last mixed, and their version then
        self.last_mixed: dict[int, tuple[int, int | None]] = {}
        self._register()

    def _register(self) -> None:
        global _count
        _count += 1
        if not _hooks:
            _hooks.append(register_optimizer_step_post_hook(_increment_versions))
        self.number = _count
        _clocks[self.number] = self

    def __getstate__(self) -> dict[str, Any]:
        return {"seed": self.seed, "step": self.step, "source": self.source, "last_mixed": dict(self.last_mixed)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copied model has copied parameters, whose versions count anew: they take part from the present step on.
        self.seed, self.step, self.source, self.last_mixed = state["seed"], state["step"], state["source"], {}
        self._register()

    def draw(self, index: int, ahead: int = 0) -> Draw:
        """The draw of p for kernel ``index`` in the present step, or ``ahead`` steps later."""
        return Draw(self.seed, self.step + ahead, index, self.source)

    def advance_if_updated(self, index: int, copies: Tensor) -> None:
        """Move to the next step if ``copies`` have changed since kernel ``index`` last mixed them; it does so now."""
        if not isinstance(copies, nn.Parameter) or copies.is_inference():
            return  # a functional call's own tensors
        version = copies._version
        step, before = self.last_mixed.get(index, (None, None))
        if step == self.step and version != before:
            self.step += 1
        self.last_mixed[index] = (self.step, version)


def _increment_versions(optimizer: Any, *_: Any) -> None:
    """Count an optimizer's step in its parameters' versions, which torch's fused updates leave as they are."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is not None:
                increment_version(parameter)


def clock_by_number(number: int) -> Clock:
    """The clock with this number. Raises ``KeyError`` where its model is gone."""
    return _clocks[number]
