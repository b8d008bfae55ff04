"""Optimizers that treat a parameter as a whole, as a matrix above all: one parameter for each copy.

Elementwise optimizers (SGD, Adam) take the stack of copies as it is. One that works on a weight matrix, as Muon does
when it makes the momentum orthogonal, has to be given the copies one by one: the stack has one axis more than the
weight, and ``torch.optim.Muon`` refuses it.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from collegium.train.majority.guards.watch import is_expanded


class PerCopy(Optimizer):
    """An optimizer ``kind(parameters, **options)`` that sees every copy as a parameter of its own.

    ``parameters`` are those of an expanded model, or groups of them; others than copies are passed on as they are.
    Groups, gradients, schedules and clipping are those of the given parameters; a state_dict holds the state of the
    copies of a kernel as stacks. Raises ``RuntimeError`` in a step after ``collapse``.

    >>> import torch
    >>> from collegium import PerCopy, expand
    >>> model = expand(torch.nn.Linear(4, 2), expansion=3)
    >>> kernels = [parameter for parameter in model.parameters() if parameter.dim() == 3]
    >>> optimizer = PerCopy(kernels, torch.optim.RMSprop, lr=0.01)
    >>> model(torch.ones(5, 4)).sum().backward()
    >>> optimizer.step()
    """

    def __init__(self, parameters: Iterable[Any], kind: Callable[..., Optimizer], **options: Any) -> None:
        if isinstance(kind, type) and issubclass(kind, torch.optim.LBFGS):
            raise ValueError(
                "PerCopy is for optimizers that need no closure: LBFGS takes the stacks of copies as they are"
            )
        super().__init__(parameters, options)
        self._stacks = {p: is_expanded(p) for group in self.param_groups for p in group["params"]}
        self._parts = {
            p: [nn.Parameter(row, p.requires_grad) for row in _rows(p.detach(), stacked)]
            for p, stacked in self._stacks.items()
        }
        groups = [
            {**group, "params": [part for p in group["params"] for part in self._parts[p]]}
            for group in self.param_groups
        ]
        self.inner = kind(groups, **options)
        for own, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            own.update({name: value for name, value in inner.items() if name != "params"})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in ("_stacks", "_parts", "inner")}}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One step of the inner optimizer, with the present options of each group."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for own, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            inner.update({name: value for name, value in own.items() if name != "params"})
        for parameter, parts in self._parts.items():
            self._give_gradients(parameter, parts)
        self.inner.step()
        for own, inner in zip(self.param_groups, self.inner.param_groups, strict=True):
            own.update({name: value for name, value in inner.items() if name != "params"})  # some count steps there
        for parts in self._parts.values():
            for part in parts:
                part.grad = None
        return loss

    def _give_gradients(self, parameter: nn.Parameter, parts: list[nn.Parameter]) -> None:
        stacked, gradient = self._stacks[parameter], parameter.grad
        if stacked != is_expanded(parameter):
            raise RuntimeError(
                "the model of this PerCopy has been expanded or collapsed: make the optimizer after that"
            )
        gradients = [None] * len(parts) if gradient is None else _rows(gradient, stacked)
        for part, row, own in zip(parts, _rows(parameter.detach(), stacked), gradients, strict=True):
            if part.data_ptr() != row.data_ptr() or part.dtype != row.dtype:  # the model has been moved
                part.data = row
            part.grad = own

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused once the optimizer has been made."""
        if hasattr(self, "inner"):
            raise RuntimeError("PerCopy takes all its groups when it is made")
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """As every optimizer's; tensors of the copies of one kernel are stacked."""
        for parameter, parts in self._parts.items():
            states = [self.inner.state[part] for part in parts if part in self.inner.state]
            if states:
                self.state[parameter] = {name: _stacked([state[name] for state in states]) for name in states[0]}
        state = super().state_dict()
        self.state.clear()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take what ``state_dict`` returned."""
        super().load_state_dict(state_dict)
        for parameter, parts in self._parts.items():
            stacks = self.state.get(parameter, {})
            for index, part in enumerate(parts):
                self.inner.state[part] = {name: _unstacked(stack, index) for name, stack in stacks.items()}
                if not stacks:
                    del self.inner.state[part]
        self.state.clear()


def _rows(tensor: Tensor, stacked: bool) -> list[Tensor]:
    return list(tensor.unbind()) if stacked else [tensor]


def _stacked(values: list[Any]) -> Any:
    return torch.stack(values) if isinstance(values[0], Tensor) else list(values)


def _unstacked(stack: Any, index: int) -> Any:
    return stack[index].clone() if isinstance(stack, Tensor) else stack[index]
