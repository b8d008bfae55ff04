"""The modules of one branch, replaced by those of m members: the first feeds all of them, and the last sums them."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from collegium.search.networks.network import member_groups
from collegium.search.regroup.grouped import GroupedLayerNorm, GroupedLinear
from collegium.search.regroup.laws import fan_in, fill, law

#: The modules that have each module, by its identity, with the names that they have for it.
Places = Mapping[int, Sequence[tuple[nn.Module, str]]]
#: What a module keeps of its hooks.
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_is_full_backward_hook",
)


def places_of(model: nn.Module) -> Places:
    """Where each module below ``model`` is: one that has two names is replaced at both.

    >>> layer = nn.Linear(2, 2)
    >>> [name for _, name in places_of(nn.ModuleDict({"a": layer, "b": layer}))[id(layer)]]
    ['a', 'b']
    """
    found: dict[int, list[tuple[nn.Module, str]]] = {}
    for parent in model.modules():
        for name, module in parent._modules.items():
            if module is not None:
                found.setdefault(id(module), []).append((parent, name))
    return found


def regroup_one(
    model: nn.Module,
    places: Places,
    paths: Sequence[str],
    members: tuple[int, Sequence[int]],
    generator: Generator | None,
) -> list[str]:
    """Replace the modules of one occurrence by those of ``members``, m and a member's inner widths; their names.

    Without a ``generator`` parameters are left as ``torch.empty`` makes them. Raises ``ValueError`` where a layer
    cannot be resized or drawn; what has been replaced before it stays so.

    >>> model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    >>> regroup_one(model, places_of(model), ["0", "2", "4"], (3, [5, 5]), None)
    ['0', '2', '4']
    >>> model[2]
    GroupedLinear(in_features=15, out_features=15, groups=3, bias=True)
    """
    m, widths = members
    modules = [submodule(model, path) for path in paths]
    last = sum(isinstance(module, _ConvNd | nn.Linear) for module in modules) - 1
    if last != len(widths):
        raise ValueError(f"{paths[0]}: {last + 1} weight layers where {len(widths) + 1} were described")
    at, width, before = -1, 0, _members(modules)
    for path, module in zip(paths, modules, strict=True):
        if isinstance(module, _ConvNd | nn.Linear):
            at += 1
            inputs = _inputs(module) if at == 0 else width
            width = _outputs(module) if at == last else m * widths[at]
            groups = m * _groups(module) // before if 0 < at < last else 1
            if _depthwise(module):
                groups = inputs  # a depthwise layer's channels stay apart
            made: nn.Module = resized(path, module, inputs, width, groups, generator)
        elif at < last:
            made = resized_norm(path, module, width, m, before, generator is not None)
        else:
            continue  # a norm of the branch's outputs
        replace(places, module, made)
    return list(paths)


def _members(modules: Sequence[nn.Module]) -> int:
    """Members that a branch has already: what the groups of its inner layers have in common."""
    inner = [module for module in modules if isinstance(module, _ConvNd | nn.Linear)][1:-1]
    return math.gcd(*(_groups(module) for module in inner if not _depthwise(module))) or 1


def _groups(module: nn.Module) -> int:
    return module.groups if isinstance(module, _ConvNd) else 1


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) and module.groups == module.in_channels > 1


def replaced(model: nn.Module, paths: Sequence[str]) -> Sequence[str]:
    """The modules of a branch from its first weight layer to its last; a norm of its outputs stays."""
    weighted = [index for index, path in enumerate(paths) if isinstance(submodule(model, path), _ConvNd | nn.Linear)]
    return paths[: weighted[-1] + 1] if weighted else ()


def submodule(model: nn.Module, path: str) -> nn.Module:
    """The module of this path. Raises ``ValueError`` where there is none."""
    try:
        return model.get_submodule(path)
    except AttributeError:
        if path in dict(model.named_parameters(remove_duplicate=False)):
            raise ValueError(f"{path} is a parameter that code reads, and no layer's: it is not regrouped") from None
        raise ValueError(f"the model has no module {path!r}: it is not the one that was described") from None


def replace(places: Places, module: nn.Module, made: nn.Module) -> None:
    """``made`` under every name that ``module`` has."""
    for parent, name in places[id(module)]:
        setattr(parent, name, made)


def _inputs(module: _ConvNd | nn.Linear) -> int:
    return module.in_channels if isinstance(module, _ConvNd) else module.in_features


def _outputs(module: _ConvNd | nn.Linear) -> int:
    return module.out_channels if isinstance(module, _ConvNd) else module.out_features


def resized(
    path: str, module: _ConvNd | nn.Linear, inputs: int, outputs: int, groups: int, generator: Generator | None
) -> nn.Module:
    """A layer of the same class at other sizes, with weights like its own at the new fan-in."""
    if parametrize.is_parametrized(module) or "weight" not in module._parameters:
        raise ValueError(f"{path}: its weight is computed from others; regroup before it is parametrized")
    if groups > 1 and isinstance(module, nn.Linear) and _own_code(module, nn.Linear):
        raise ValueError(f"{path}: {type(module).__name__} has code of its own, and no grouped form")
    if isinstance(module, _ConvTransposeNd):
        raise ValueError(f"{path}: a transposed convolution is not regrouped")
    weight, bias = module._parameters["weight"], module._parameters["bias"]
    assert weight is not None
    if isinstance(module, _ConvNd):
        shape: tuple[int, ...] = (outputs, inputs // groups, *weight.shape[2:])
        made: Any = _copied(module)
        made.in_channels, made.out_channels, made.groups = inputs, outputs, groups
    elif groups == 1:
        shape, made = (outputs, inputs), _copied(module)
        made.in_features, made.out_features = inputs, outputs
    else:
        shape = (groups, outputs // groups, inputs // groups)
        made = GroupedLinear(inputs, outputs, groups, bias=bias is not None, device=weight.device, dtype=weight.dtype)
        _keep_hooks(module, made)
        made.train(module.training)
    growth = fan_in(module), math.prod(shape[1:]) if isinstance(module, _ConvNd) else inputs // groups
    made.weight = _like(path, weight, shape, growth, generator)
    if bias is not None:
        made.bias = _like(path, bias, (outputs,), growth, generator)
    return made


def _copied(module: nn.Module) -> Any:
    """A copy that shares nothing which is about to change."""
    made = copy.copy(module)
    made.__dict__ = {name: copy.copy(value) for name, value in module.__dict__.items()}
    return made


def _keep_hooks(old: nn.Module, new: nn.Module) -> None:
    for name in _HOOKS:
        setattr(new, name, copy.copy(getattr(old, name)))


def _like(
    path: str, old: Tensor, shape: tuple[int, ...], fan_ins: tuple[int | None, int], generator: Generator | None
) -> nn.Parameter:
    """Numbers distributed as those of ``old``, whose variance is that of the old fan-in, at the new one."""
    made = torch.empty(shape, dtype=old.dtype, device=old.device)
    before, after = fan_ins
    assert before is not None
    if generator is not None and old.device.type != "meta":
        try:
            fill(made, law(old, before / after, before), generator)
        except ValueError as error:
            raise ValueError(f"{path} cannot be drawn anew: {error}") from None
    return nn.Parameter(made, requires_grad=old.requires_grad)


def resized_norm(
    path: str, module: nn.Module, width: int, members: int, before: int, numbers: bool = True
) -> nn.Module:
    """The same norm over the channels of all members, each normalized alone; ``before`` are those that there were."""
    made: Any
    if isinstance(module, _NormBase):
        made = _copied(module)
        made.num_features = width
        for name in ("running_mean", "running_var"):
            old = module._buffers.get(name)
            if old is not None:
                made.register_buffer(name, old.new_full((width,), float(name == "running_var")))
    elif isinstance(module, nn.GroupNorm):
        made = _copied(module)
        made.num_channels, made.num_groups = width, member_groups(module.num_groups, before) * members
    elif isinstance(module, nn.LayerNorm | nn.RMSNorm) and len(module.normalized_shape) == 1:
        if members == 1:
            made = _copied(module)
            made.normalized_shape = (width,)
            return _with_affine(made, module, width, numbers)
        centered = isinstance(module, nn.LayerNorm)
        if _own_code(module, nn.LayerNorm if centered else nn.RMSNorm):
            raise ValueError(f"{path}: {type(module).__name__} has code of its own, and no grouped form")
        eps = module.eps if module.eps is not None else torch.finfo(torch.float32).eps
        made = GroupedLayerNorm(width, members, eps=eps, scale=False, shift=False, centered=centered)
        _keep_hooks(module, made)
        made.train(module.training)
    else:
        raise ValueError(f"{path}: a norm of class {type(module).__name__} cannot be resized")
    return _with_affine(made, module, width, numbers)


def _with_affine(made: nn.Module, module: nn.Module, width: int, numbers: bool) -> nn.Module:
    """The norm with a scale and shift as wide as it is, where it had them: the constants that they were, or 1 and 0."""
    for name in ("weight", "bias"):
        old = module._parameters.get(name)
        if old is not None:
            values = old.detach()
            constant = numbers and old.device.type != "meta" and bool((values == values.flatten()[0]).all())
            start = values.flatten()[0].item() if constant else float(name == "weight")
            filled = torch.empty(width, dtype=old.dtype, device=old.device).fill_(start)
            setattr(made, name, nn.Parameter(filled, requires_grad=old.requires_grad))
    return made


def _own_code(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it computes something else than the class of PyTorch that it is derived from."""
    return type(module).forward is not kind.forward or "forward" in vars(module)
