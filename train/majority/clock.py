"""Which optimizer step it is, as far as the draws of a model's kernels are concerned, and what one pass is.

p belongs to a step. A step ends when an optimizer of ``torch.optim`` that holds parameters of the model has taken its
own, or where ``set_step`` says so: microbatches, the passes of a line search, of LBFGS and of sharpness-aware
minimization all have the p of their step, and so has the whole of a backward pass in which optimizers take theirs.
Nothing is concluded from whether copies have changed.

A pass is a call of a module that has kernels. Within the outermost one each weight is one tensor, however often it is
read; nothing is kept from one pass to the next.
"""

import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._pytree import tree_leaves

from collegium.train.majority.generators.uniforms import Draw, Source
from collegium.train.majority.guards.watch import warn_of_unheld

WRITTEN = (
    "the weight of a majority kernel was written to within a forward pass, where that is lost: write to "
    "layer.weight.data there, which all copies take, or outside of the pass"
)
CAPTURED = (
    "a CUDA graph would replay one draw of the majority kernels for ever: capture a collapsed model, or model.eval()"
)
_SEED_MASK = (1 << 63) - 1
_PASSES = 1000  # of one draw, after which there is a warning
_CHANGES = 64  # of a kernel's copies within one draw, after which there is a warning
_ROUNDS = 3  # steps after which copies that are in no optimizer are warned of
_clocks: "weakref.WeakValueDictionary[int, Clock]" = weakref.WeakValueDictionary()
_count = 0
_hooks: list[Any] = []
_torch: Any = torch
_untraced: Any = _torch._disable_dynamo  # of what graphs of ``torch.compile(optimizer.step)`` leave out


class Clock:
    """A seed and the number of the optimizer step, shared by the kernels of a model. Evaluation uses negative steps."""

    number: int  # identifies the clock in this process, for compiled graphs, which hold no objects

    def __init__(self, seed: int, *, source: Source = "independent") -> None:
        self.seed, self._step = seed & _SEED_MASK, 0
        self.source: Source = source
        self.drawn = False  # whether the p of this step has been used
        self._register()

    def _register(self) -> None:
        global _count
        _count += 1
        if not _hooks:
            _hooks.append(register_optimizer_step_post_hook(_advance_clocks))
        self.number = _count
        self.present = Pass()  # the pass that is under way, of each thread its own
        self._draws: dict[int, Draw] = {}
        # The expanded module, and modules in it that are called on their own: their optimizers end steps.
        self.modules: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._optimizers: weakref.WeakSet[Any] = weakref.WeakSet()
        self.ended = 0  # steps that an optimizer has ended
        self._ends = False  # whether one has, in a backward pass that still goes on
        self._begin()
        _clocks[self.number] = self  # from now on optimizers of other threads see it too

    def _begin(self) -> None:
        self._passes, self._versions, self._warned = 0, {}, getattr(self, "_warned", False)

    def __getstate__(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "_step": self.step,
            "source": self.source,
            "drawn": False,
        }  # a copy has taken no pass

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._register()

    def draw(self, index: int) -> Draw:
        """The draw of p for kernel ``index`` in the present step."""
        found = self._draws.get(index)
        if found is None or (found.seed, found.step, found.source) != (self.seed, self.step, self.source):
            found = self._draws[index] = Draw(self.seed, self.step, index, self.source)
        return found

    def expect(self, draw: Draw) -> None:
        """Keep ``draw``, of the next step."""
        self._draws[draw.kernel] = draw

    def is_present(self, draw: Draw) -> bool:
        """Whether ``draw`` is one of the present step; not where that is ending."""
        return draw.step == self._step and not self._ends and draw.seed == self.seed and draw.source == self.source

    # Steps

    @property
    def step(self) -> int:
        """The number of the present step."""
        self._settle()
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step, self._ends = (step + 2**63) % 2**64 - 2**63, False  # p depends on it modulo 2^64

    def set_step(self, step: int) -> None:
        """Begin optimizer step ``step``."""
        self.step, self.drawn = step, False
        self._begin()

    def _settle(self) -> None:
        """Begin the next step where the present one has ended in a backward pass that is over."""
        if self._ends and not _in_backward():
            self.set_step(self._step + 1)

    def note_draw(self, index: int, copies: Tensor) -> None:
        """Record that kernel ``index`` has been mixed by the p of this step; warn where the step never ends."""
        self.drawn = True
        if copies.is_inference():
            return
        version, changes = self._versions.get(index, (copies._version, 0))
        self._versions[index] = copies._version, changes + (copies._version != version)
        if not self._warned and (self._passes > _PASSES or self._versions[index][1] >= _CHANGES):
            self._warned = True
            warnings.warn(
                f"majority kernels still use the p of step {self.step}: the copies have been updated, or passed "
                "through many times, without a step of a torch.optim optimizer that holds them. Call "
                "collegium.set_step(model, step) in each step of this loop",
                stacklevel=2,
            )

    def end_step(self, optimizer: Any) -> None:
        """Begin the next step if ``optimizer``, which has taken one, holds parameters of the model."""
        if not self.belongs_to(optimizer):
            return  # of another thread, perhaps, which may be in a backward pass of its own
        self._settle()
        if self.drawn and not self._ends:
            if _in_backward():  # which computes checkpointed blocks again, with the p of this step
                self._ends = True
            else:
                self.set_step(self._step + 1)
            self.ended += 1
            if self.ended == _ROUNDS:  # by now each of several optimizers has taken a step
                warn_of_unheld(self.modules, self._optimizers)

    def belongs_to(self, optimizer: Any) -> bool:
        """Whether ``optimizer`` holds a parameter of a module that was called with this clock's kernels."""
        if optimizer not in self._optimizers:
            held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            if not any(id(parameter) in held for parameter in _parameters(self.modules)):
                return False
            self._optimizers.add(optimizer)
        return True

    # Passes

    @property
    def in_pass(self) -> bool:
        """Whether a module with kernels of this clock is being called."""
        return self.present.outermost is not None and self.present.is_open()

    @property
    def weights(self) -> dict[Any, tuple[Tensor, Tensor, int]]:
        """Of this pass: copies, what they are mixed to, and its version."""
        return self.present.weights

    @property
    def samples(self) -> bool:
        """Whether training mode samples: in a pass that is differentiated, or one more of a step that has begun."""
        return self.present.samples if self.in_pass else torch.is_grad_enabled() or _in_function()

    def enter(self, module: nn.Module, inputs: Any = None) -> None:
        """``module`` is called: begin a pass, unless one is under way."""
        if torch.compiler.is_compiling():
            return
        own = self.present
        if own.outermost is None or not own.is_open():  # the latter after an interrupt
            own.weights.clear()
            own.outermost, own.frame = module, None
            self.modules.add(module)
            self._settle()
            own.samples = torch.is_grad_enabled() or self.drawn or _to_be_differentiated(inputs)
            self._passes += module.training and own.samples
            recorded = is_distributed() or is_traced() or is_captured()
            own.quick = own.samples and self._passes <= _PASSES and not recorded

    def leave(self, module: nn.Module) -> None:
        """``module`` returns: end the pass that it began."""
        if not torch.compiler.is_compiling() and self.present.outermost is module:
            kept = self.present.weights.values()
            written = any(weight._version != version for _, weight, version in kept if not weight.is_inference())
            self.present.end()
            if written:
                raise RuntimeError(WRITTEN)

    def forget(self, copies: Tensor) -> None:
        """Of this pass, what ``copies`` were mixed to: they are updated within it."""
        weights = self.present.weights
        for key in [key for key, (of, *_) in weights.items() if of is copies]:
            del weights[key]

    def attach(self, modules: list[nn.Module]) -> None:
        """Begin and end passes where any of ``modules`` is called; the first contains the others."""
        for module in modules:
            hooks = _PassHooks(self, module if module is modules[0] else None)
            module.register_forward_pre_hook(hooks.enter)
            module.register_forward_hook(hooks.leave, always_call=True)


class Pass(threading.local):
    """The pass that is under way, of each thread its own: one may train what another evaluates."""

    def __init__(self) -> None:
        self.outermost: Any = None
        self.samples = False
        self.quick = False  # whether it samples, and a read needs to be neither counted nor shared by processes
        self.frame: Any = None  # of the call
        self.weights: dict[Any, tuple[Tensor, Tensor, int]] = {}

    def is_open(self) -> bool:
        """Whether the call still goes on: torch runs no hooks when it is interrupted. If not, the pass is ended."""
        if self.frame is None:
            return True
        try:
            self.frame.clear()  # refused as long as it is executed; walking up to it takes ten times as long
        except RuntimeError:
            return True
        self.end()
        return False

    def calls_itself(self) -> bool:
        """Whether it goes on although its module returns: a call of that within its own."""
        return self.frame is not None and self.is_open()

    def end(self) -> None:
        """Nothing of it is kept."""
        self.outermost = self.frame = None
        self.weights.clear()


class _PassHooks:
    """Forward hooks of a module with kernels. Copied with the module, they join the copy to its own clock."""

    def __init__(self, clock: Clock, root: nn.Module | None) -> None:
        self.__setstate__({"clock": clock, "root": root})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.clock: Clock = state["clock"]
        if state["root"] is not None:
            self.clock.modules.add(state["root"])

    def enter(self, module: nn.Module, inputs: Any) -> None:
        if torch.compiler.is_compiling():
            return
        own = self.clock.present
        if own.outermost is None or not own.is_open():
            self.clock.enter(module, inputs)
            own.frame = sys._getframe(1)

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        own = self.clock.present
        if own.outermost is module and (own.frame is sys._getframe(1) or not own.calls_itself()):
            self.clock.leave(module)


def is_distributed() -> bool:
    """Whether there are other processes, which need the gradients of the parameters themselves."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def is_traced() -> bool:
    """Whether ``torch.jit.trace`` records what is computed."""
    return torch._C._get_tracing_state() is not None


def is_captured() -> bool:
    """Whether a CUDA graph records what is computed."""
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def _to_be_differentiated(inputs: Any) -> bool:
    """Whether a pass without gradients is one of a checkpointed function, which is computed again with gradients."""
    return any(isinstance(leaf, Tensor) and leaf.requires_grad for leaf in tree_leaves(inputs)) or _in_function()


def _in_function() -> bool:
    """Whether the ``forward`` of an autograd function that is to be differentiated is under way, as of a reentrant
    checkpoint: what it has computed before this pass requires no gradients.
    """
    frame: Any = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_name == "forward" and code.co_argcount and code.co_varnames[0] != "self":
            context = frame.f_locals.get(code.co_varnames[0])
            if isinstance(context, BackwardCFunction) and any(context.needs_input_grad):
                return True
        frame = frame.f_back
    return False


def detach_clocks(module: nn.Module) -> None:
    """Undo ``attach`` for one module."""
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for number in [n for n, hook in hooks.items() if isinstance(getattr(hook, "__self__", None), _PassHooks)]:
            del hooks[number]
            module._forward_hooks_always_called.pop(number, None)


@contextmanager
def one_pass(clocks: list[Clock], module: nn.Module) -> Iterator[None]:
    """Context that is a pass of ``module`` for each of ``clocks``."""
    try:
        for clock in clocks:
            clock.enter(module)
        yield
    finally:
        for clock in clocks:
            clock.leave(module)


def _parameters(modules: Any) -> Iterator[nn.Parameter | None]:
    """Those of ``modules``, which other threads may be changing: what is iterated over are copies."""
    left: list[Any] = [reference() for reference in list(modules.data)]
    done: set[int] = set()
    while left:
        module = left.pop()
        if module is not None and id(module) not in done:
            done.add(id(module))
            yield from list(module._parameters.values())
            left += list(module._modules.values())


@_untraced
def _advance_clocks(optimizer: Any, *_: Any) -> None:
    """After a step of any optimizer of ``torch.optim``: the next p for the models whose parameters it holds."""
    for reference in _clocks.valuerefs():
        clock = reference()
        if clock is None:
            continue
        if clock.drawn or 0 < clock.ended < _ROUNDS:  # not of models that only evaluate
            clock.end_step(optimizer)


def clock_by_number(number: int) -> Clock:
    """The clock with this number. Raises ``RuntimeError`` where its model is gone."""
    if number not in _clocks:
        raise RuntimeError(
            "this graph samples the weights of a model that this process does not have: collapse it, or "
            "call model.eval(), before it is exported"
        )
    return _clocks[number]
