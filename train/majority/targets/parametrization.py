"""Put a parametrization in a parameter's place and take it out again, ties and order of parameters included."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from collegium.train.majority.guards.gradient import FusedParameter
from collegium.train.majority.guards.watch import is_expanded, watch
from collegium.train.majority.guards.written import assign
from collegium.train.majority.targets.choice import KernelTarget, is_parametrized


def register(module: nn.Module, name: str, kernel: nn.Module, *, unsafe: bool = False) -> Any:
    """Parametrize ``module.name`` by ``kernel``; the parameter stays the same object. Return the parametrization."""
    order = tuple(module._parameters)
    if "parametrizations" in module._modules:
        _own_class(module)
    parametrize.register_parametrization(module, name, kernel, unsafe=unsafe)
    lists: Any = module.parametrizations
    lists[name].__class__ = _Copies
    _complete(type(module))
    _read_directly(type(module), name)
    if not hasattr(lists, "order"):
        lists.order = order  # a parameter that leaves and comes back would be last otherwise
        if isinstance(module, nn.RNNBase):
            module.register_forward_pre_hook(_read_weights)
            module.register_forward_hook(_drop_weights, always_call=True)
    if isinstance(module, nn.RNNBase):
        _drop_weights(module)
    return lists[name]


def register_shared(targets: Sequence[KernelTarget], kernel: nn.Module) -> nn.Parameter:
    """Parametrize all ``targets`` that share one parameter by one kernel; return the parameter, in its new shape."""
    (first, name), *others = targets
    parameter = getattr(first, name)
    register(first, name, kernel)
    for module, other in others:
        # The shared parameter has its new shape by now, which the other targets must hold as it is.
        register(module, other, _AsIs(), unsafe=True)[0] = kernel
    return parameter


def remove(model: nn.Module, kind: type[nn.Module], where: Callable[[Any], bool] = lambda step: True) -> None:
    """Replace every parameter parametrized by a ``kind`` by the tensor that it computes, in place.

    ``where`` chooses among these parametrizations.
    """
    done: set[int] = set()
    for module in list(model.modules()):
        names = _parametrized(module, kind, where)
        if names:
            _own_class(module)
        for name in names:
            lists: Any = module.parametrizations
            original = lists[name].original
            order = getattr(lists, "order", (*lists, *module._parameters))  # none where torch has put it elsewhere
            original.grad = None
            if type(original) is FusedParameter:
                original.leave()
            # The first target computes the tensor into the shared parameter, the others keep it.
            parametrize.remove_parametrizations(module, name, leave_parametrized=id(original) not in done)
            done.add(id(original))
            _reorder(module._parameters, order)
        if names and isinstance(module, nn.RNNBase) and "parametrizations" not in module._modules:
            _release_weights(module)


def _parametrized(module: nn.Module, kind: type[nn.Module], where: Callable[[Any], bool]) -> list[str]:
    lists: Any = module._modules.get("parametrizations") or ()
    names = [name for name in lists if is_parametrized(module, name)]
    return [name for name in names if any(isinstance(step, kind) and where(step) for step in lists[name])]


# A recurrent layer computes with a list of its weights, which it fills once; parametrized, once for every call.


def _read_weights(module: Any, inputs: Any = None) -> None:
    module._flat_weights = [getattr(module, name, None) for name in module._flat_weights_names]


def _drop_weights(module: Any, inputs: Any = None, output: Any = None) -> None:
    module._flat_weights = [None] * len(module._flat_weights_names)


def _release_weights(module: Any) -> None:
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for number in [n for n, hook in hooks.items() if hook in (_read_weights, _drop_weights)]:
            del hooks[number]
            module._forward_hooks_always_called.pop(number, None)
    module._init_flat_weights()


# What torch's class of a parametrized module lacks.


def _complete(own: Any) -> None:
    """``own`` is made by torch for one module."""
    plain = own.__bases__[0]
    own.register_parameter = _keeping(plain)
    own._load_from_state_dict = _loading(plain)
    own.__reduce_ex__ = _reduce
    if issubclass(plain, nn.RNNBase):
        own._apply = _converting(plain)


def _read_directly(own: Any, name: str) -> None:
    """Let ``layer.weight`` call a sole kernel without four calls of modules on the way, which find no cache warm."""
    inherited: Any = own.__dict__[name]

    def read(module: nn.Module) -> Tensor:
        if not (torch.compiler.is_compiling() or parametrize._cache_enabled):
            steps: Any = module._modules["parametrizations"]._modules[name]  # type: ignore[union-attr]
            kernel, copies = steps._modules["0"], steps._parameters.get("original")
            if copies is not None and type(steps) is _Copies and not (_is_changed(steps) or _is_changed(kernel)):
                return kernel.forward(copies)
        return inherited.fget(module)

    def write(module: nn.Module, value: Tensor) -> None:
        steps: Any = module._modules["parametrizations"]._modules[name]  # type: ignore[union-attr]
        kernel, copies = steps._modules["0"], steps._parameters.get("original")
        reads = [read for read in (reference() for reference in getattr(kernel, "reads", ())) if read is not None]
        if isinstance(steps, _Copies) and hasattr(kernel, "clock") and kernel.clock.in_pass:
            raise RuntimeError(
                f"{name!r} has copies, and is not assigned within a forward pass: write to layer.{name}.data, or give "
                f"functional calls the copies by their name, parametrizations.{name}.original"
            )
        if copies is None or not assign(value, reads, copies):
            inherited.fset(module, value)

    setattr(own, name, property(read, write))


def _is_changed(module: Any) -> bool:
    """Whether calling ``module`` is more than its class's ``forward``, as where accelerate loads weights."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or "forward" in module.__dict__


def _reduce(module: nn.Module, protocol: Any) -> Any:
    """For ``torch.save`` of a whole model and for processes that are spawned; torch refuses."""
    lists: Any = module.parametrizations
    plain: Any = type(module).__bases__[0]
    return _blank, (plain, tuple(lists)), plain.__getstate__(module)


def _blank(plain: type[nn.Module], names: Sequence[str]) -> nn.Module:
    """A module of class ``plain`` with parametrized ``names``, whose state follows."""
    module = plain.__new__(plain)
    module.__dict__.update(_parameters={}, _buffers={}, _modules={})
    parametrize._inject_new_class(module)
    for name in names:
        parametrize._inject_property(module, name)
        _read_directly(type(module), name)
    _complete(type(module))
    return module


def _loading(plain: Any) -> Callable[..., None]:
    """``_load_from_state_dict`` of the class ``plain``, which takes the weight of a plain model for all copies."""

    def _load_from_state_dict(self: nn.Module, state: dict[str, Any], prefix: str, *arguments: Any) -> None:
        lists: Any = self.parametrizations
        for name, steps in lists.items():
            held = f"{prefix}parametrizations.{name}."
            if prefix + name in state and held + "original" not in state and isinstance(steps, _Copies):
                kernel: Any = steps[0]
                state[held + "original"] = kernel.right_inverse(state.pop(prefix + name))
                if type(kernel).get_extra_state is not nn.Module.get_extra_state:
                    state[held + "0._extra_state"] = kernel.get_extra_state()
        plain._load_from_state_dict(self, state, prefix, *arguments)

    return _load_from_state_dict


def _converting(plain: Any) -> Callable[..., nn.Module]:
    """``_apply`` of the class ``plain``, a recurrent layer, which then reads its weights: no pass of a step."""

    def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        with torch.no_grad():
            plain._apply(self, fn, recurse)
        _drop_weights(self)
        return self

    return _apply


def _own_class(module: nn.Module) -> None:
    """Give ``module`` a class of its own: torch takes parameters out of the class, which deep copies share."""
    shared = type(module)
    namespace = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, namespace)  # type: ignore[assignment]


def _reorder(parameters: dict[str, nn.Parameter | None], order: tuple[str, ...]) -> None:
    """Put ``parameters`` in the order they had before they were parametrized; others come last."""
    for name in [name for name in order if name in parameters] + [name for name in parameters if name not in order]:
        parameters[name] = parameters.pop(name)


class _Copies(parametrize.ParametrizationList):
    """The list of one kernel, whose copies are converted as each of them would be alone."""

    def _get_name(self) -> str:
        return parametrize.ParametrizationList.__name__

    def forward(self) -> Tensor:
        """As torch's, whose loop over further parametrizations ends by an exception at each read."""
        steps: Any = self._modules
        return steps["0"](self.original) if len(steps) == 1 else super().forward()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def convert(tensor: Tensor) -> Tensor:
            try:
                found = fn(tensor)
            except RuntimeError as error:
                if "channels_last" not in str(error):  # a layout of images, for a kernel that has one axis less
                    raise
                found = torch.stack([fn(copy) for copy in tensor])
            return found.contiguous() if tensor.is_contiguous() and not found.is_contiguous() else found

        before = self._parameters.get("original")
        found = super()._apply(convert, recurse)
        self._keep_watch(before)
        return found

    def append(self, module: nn.Module) -> Any:
        """Refused: ``collapse`` could not keep it, and it would be taken for a part of the kernel."""
        raise RuntimeError(
            f"a weight with copies takes no further parametrization, such as {type(module).__name__}: collapse the "
            "model first, or register it on the plain model, whose parametrized weights expand leaves alone"
        )

    # Other parameters that come in the place of the copies are watched as these are.

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As of ``load_state_dict(assign=True)``."""
        before = self._parameters.get(name)
        super().register_parameter(name, param)
        self._keep_watch(before, name)

    def _keep_watch(self, before: Any, name: str = "original") -> None:
        after = self._parameters.get(name)
        if before is not None and after is not None and after is not before and is_expanded(before):
            watch(after, expanded=True)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "watched": [parameter for parameter in self.parameters() if is_expanded(parameter)]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for parameter in state.pop("watched"):
            watch(parameter, expanded=True)
        super().__setstate__(state)


def _keeping(plain: type[nn.Module]) -> Callable[[nn.Module, str, nn.Parameter | None], None]:
    """``register_parameter`` of the class ``plain``, with a refusal; ``layer.weight = Parameter(…)`` comes to it."""

    def register_parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if is_parametrized(self, name):
            raise RuntimeError(
                f"{name!r} has copies here, in whose place no other parameter can be put: assign a tensor, which all "
                f"copies take (layer.{name} = value.detach()), or collapse the model first"
            )
        if isinstance(param, Tensor) and not isinstance(param, nn.Parameter):
            raise RuntimeError(
                f"a weight with copies cannot become the parameter {name!r}, as pruning wants: collapse the model "
                "first, or write into the weight (layer.weight.data.mul_(mask))"
            )
        plain.register_parameter(self, name, param)

    return register_parameter


class _AsIs(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return value
