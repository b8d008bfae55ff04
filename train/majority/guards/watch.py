"""What goes wrong between an expanded model, optimizers and adapters, mended or said when it happens.

* State of the optimizer from before ``expand`` or ``collapse`` has another shape than the parameter; torch's fused
  updates then write past its end.
* Copies are named ``….parametrizations.weight.original``: groups that are made by names ending in ``weight`` leave them
  without weight decay, or out of every optimizer.
* ``from_pretrained`` does not know these names, and initializes the weights anew.
* Adapters of PEFT are merged by ``merge``, which in training mode would read one sample of their kernels.
"""

import warnings
import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils.weak import WeakIdKeyDictionary

_resized = WeakIdKeyDictionary()  # parameters whose shape expand or collapse has changed
_checked: "weakref.WeakSet[Any]" = weakref.WeakSet()  # optimizers whose state is as it should be
_seen: "weakref.WeakSet[Any]" = weakref.WeakSet()  # optimizers whose groups have been looked at
_hooks: list[Any] = []
_torch: Any = torch
_untraced: Any = _torch._disable_dynamo  # of what graphs of ``torch.compile(optimizer.step)`` leave out
_ELEMENTWISE = tuple(
    getattr(torch.optim, name)
    for name in ["SGD", "Adam", "AdamW", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "Rprop", "ASGD"]
)


def watch(parameter: Tensor, *, expanded: bool) -> None:
    """From now on check ``parameter``, whose shape has been changed, before each step of an optimizer that holds it."""
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_check))
    _resized[parameter] = expanded
    _checked.clear()


def is_expanded(parameter: Tensor) -> bool:
    """Whether ``parameter`` is the copies of a kernel."""
    return bool(_resized.get(parameter, False))


def is_collapsed(parameter: Tensor) -> bool:
    """Whether ``parameter`` has been the copies of a kernel, and is a weight again."""
    return _resized.get(parameter) is False


@_untraced
def _check(optimizer: Any, *_: Any) -> None:
    """Pre-hook of every optimizer's step. Raises ``RuntimeError`` for state of another shape."""
    if optimizer in _checked:
        return
    held = [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]
    found = [(parameter, group) for parameter, group in held if parameter in _resized]
    if not found:
        _checked.add(optimizer)
        return
    kind = "expand" if _resized[found[0][0]] else "collapse"
    elements = sum(parameter.numel() for parameter, _ in held)
    for parameter, _ in held:
        state = optimizer.state.get(parameter)
        if state and _is_of_another_shape(parameter, state, type(optimizer), elements):
            raise RuntimeError(
                f"this {type(optimizer).__name__} has state from before {kind} for a parameter of shape "
                f"{tuple(parameter.shape)}: make the optimizer after {kind}, or load a state saved after it"
            )
    _checked.add(optimizer)
    if optimizer not in _seen:
        _seen.add(optimizer)
        optimizer.register_load_state_dict_post_hook(_checked.discard)
        _check_decay(optimizer, [group for parameter, group in found if _resized[parameter]])


def _is_of_another_shape(parameter: Tensor, state: dict[str, Any], kind: type, elements: int) -> bool:
    """Whether ``state`` is that of another parameter than ``parameter``, one of an optimizer that holds ``elements``.

    Other than elementwise optimizers have shapes of their own. LBFGS keeps all parameters in one row, Adafactor means
    over the last axes; of others: whether all tensors have the shape that the parameter had, or would have, without
    copies.
    """
    shapes = [value.shape for value in state.values() if isinstance(value, Tensor) and value.dim()]
    if issubclass(kind, _ELEMENTWISE):
        return any(shape != parameter.shape for shape in shapes)
    if issubclass(kind, torch.optim.LBFGS):
        return any(shape != (elements,) for shape in shapes)
    if issubclass(kind, torch.optim.Adafactor):
        return any(len(shape) != parameter.dim() for shape in shapes)
    if not shapes or parameter.shape in shapes:
        return False
    return all(shape in (parameter.shape[1:], shape[:1] + parameter.shape) for shape in shapes)


def _check_decay(optimizer: Any, groups: list[dict[str, Any]]) -> None:
    decays = [group.get("weight_decay", 0) for group in optimizer.param_groups]
    if any(decays) and any(not group.get("weight_decay", 0) for group in groups):
        warnings.warn(
            "copies of kernels are in a group without weight decay, beside groups with it; their names end in "
            "'.original', not in 'weight': make groups by shape or by module, or by '.parametrizations.' in the name",
            stacklevel=3,
        )


def guard_methods(model: nn.Module) -> None:
    """As long as ``model`` is expanded: ``save_pretrained`` of its modules warns, and adapters are merged by means."""
    for module in model.modules():
        for names, methods in _GUARDED.items():
            if all(callable(getattr(type(module), name, None)) for name in names) and _is_meant(module, names):
                for name, method in zip(names, methods, strict=True):
                    object.__setattr__(module, name, partial(method, module))


def _is_meant(module: nn.Module, names: tuple[str, ...]) -> bool:
    """Whether methods of these names are what they are guarded as: adapters say whether they are merged."""
    return "merge" not in names or hasattr(module, "merged")


def unguard_methods(model: nn.Module) -> None:
    """Undo ``guard_methods``."""
    guards = {method for methods in _GUARDED.values() for method in methods}
    for module in model.modules():
        for name in [name for name, value in vars(module).items() if getattr(value, "func", None) in guards]:
            del module.__dict__[name]


def save_pretrained(self: Any, *arguments: Any, **named: Any) -> Any:
    """``save_pretrained`` of the class of ``self``, after a warning."""
    warnings.warn(
        "this model is expanded: from_pretrained does not know the names of its copies, and would initialize these "
        "weights anew. Save collegium.collapse(model), or for going on with the training model.state_dict()",
        stacklevel=2,
    )
    return type(self).save_pretrained(self, *arguments, **named)


@torch.no_grad()  # outside of a pass, weights are then the means of their copies
def merge(self: Any, *arguments: Any, **named: Any) -> Any:
    """``merge`` of the class of ``self``, an adapter."""
    return type(self).merge(self, *arguments, **named)


@torch.no_grad()
def unmerge(self: Any, *arguments: Any, **named: Any) -> Any:
    """``unmerge`` of the class of ``self``, an adapter."""
    return type(self).unmerge(self, *arguments, **named)


#: Methods of modules' classes, each kind of which is known by all its names, and what takes their place.
_GUARDED: dict[tuple[str, ...], tuple[Any, ...]] = {
    ("save_pretrained",): (save_pretrained,),
    ("merge", "unmerge"): (merge, unmerge),
}


def warn_of_unheld(modules: Iterable[nn.Module], optimizers: Iterable[Any]) -> None:
    """Warn of trainable copies in ``modules`` that have a gradient and are in none of ``optimizers``."""
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    names: dict[int, str] = {}
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter in _resized and id(parameter) not in held and parameter.grad is not None:
                names[id(parameter)] = max(name, names.get(id(parameter), ""), key=len)  # from the outermost module
    if names:
        listed = ", ".join(list(names.values())[:3]) + (", …" if len(names) > 3 else "")
        warnings.warn(
            f"no optimizer that has taken a step holds the copies {listed}: they are not trained. Their names end in "
            "'.original', not in 'weight'",
            stacklevel=3,
        )
