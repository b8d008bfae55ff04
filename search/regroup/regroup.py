"""A module with its branches regrouped as an answer says: m members in the place of one branch.

The first layer of a branch feeds all members, the layers between are grouped, and the last one sums the members. Its
fan-in is that of all of them, so that weights drawn for that fan-in scale the sum by 1/√m (Littwin et al. 2020, Eq. 4).
All other parameters are drawn anew as well, or kept.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from collegium.search.networks.families.network import Branch, NetworkBaseline
from collegium.search.networks.families.network_chains import layer_widths, member_widths, width_grains
from collegium.search.networks.families.network_grouping import searched_groups
from collegium.search.networks.network import StageGrouping, member_groups
from collegium.search.regroup.grouped import GroupedLayerNorm, GroupedLinear
from collegium.search.regroup.laws import draw_anew, fan_in, fill, law, seed_of
from collegium.search.result import CurveRow, RegroupedBranch, SolvedEnsemble

#: Forward passes of each module whose median is its latency.
TIMED = 7

#: What of the given module's numbers stays: none of them, or those outside of the branches.
Keep = Literal["nothing", "rest"]
#: A grouping of one branch by hand: m, and the width of a member or its inner widths.
Members = tuple[int, int | Sequence[int]]


@dataclass(frozen=True)
class Regrouping:
    """What ``regroup`` changed: counts before and after, and the modules that are others now, by name.

    ``kept`` names the parameters outside of the branches that have the given module's numbers still. ``flops`` are
    those of the answer, None where a grouping was given by hand. ``latency_ms`` are medians of forward passes of both
    modules in turn, None without an example input.
    """

    parameters: tuple[int, int]
    flops: int | None
    latency_ms: tuple[float, float] | None
    modules: tuple[str, ...]
    kept: tuple[str, ...] = ()

    def __str__(self) -> str:
        before, after = self.parameters
        text = f"{len(self.modules)} modules changed; {before:,} parameters before, {after:,} now"
        if self.kept:
            names = ", ".join(self.kept[:4]) + (", …" if len(self.kept) > 4 else "")
            text += f"; numbers kept of {len(self.kept)} parameters ({names})"
        if self.latency_ms is not None:
            text += f"; {self.latency_ms[0]:.3g} ms before, {self.latency_ms[1]:.3g} ms now"
        return text


def regroup(
    model: nn.Module,
    member: SolvedEnsemble | CurveRow | Mapping[str, Members],
    *,
    baseline: NetworkBaseline | None = None,
    seed: int = 0,
    keep: Keep = "nothing",
    example_input: Tensor | None = None,
) -> nn.Module:
    """The same module with every branch of ``member`` replaced by m grouped paths, freshly initialized.

    ``member`` is an answer of a search of ``collegium.describe(model, …)``: its primal, dual or recommended ensemble.
    With that description as ``baseline`` it may also be a row of the curve, taken with its primal multiplicity, or a
    grouping by hand: a branch's name, or that of its first module → (m, n) or (m, [n_1, n_2, …]).

    Classes, names, hooks and devices are kept; ``model`` itself is not changed. New weights have the distribution of
    those in their place, uniform or normal, at the new fan-in, and follow from ``seed``. Linear layers inside a branch
    become ``GroupedLinear``.

    All else starts anew as well: PyTorch's layers by the distribution that they have in ``model``, modules of other
    classes by their own ``reset_parameters``. What cannot (frozen parameters, those of modules without one) keeps its
    numbers and is named in the report; with ``keep="rest"`` everything outside of the branches does. The distribution
    is that of the numbers given: give a newly built model, not a trained one, for its own initialization.

    What changed is the attribute ``regrouped`` of the result, a ``Regrouping``; ``example_input`` lets it time both
    modules.

    Raises ``ValueError`` where the module is not the one that was described, or a layer cannot be resized or drawn.

    >>> import collegium, torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10))
    >>> baseline = collegium.describe(model, torch.randn(1, 64))
    >>> answer = collegium.find_ensemble(baseline)
    >>> ensemble = collegium.regroup(model, answer.primal)
    >>> ensemble(torch.randn(2, 64)).shape, ensemble.regrouped.parameters[1] == answer.primal.parameters
    (torch.Size([2, 10]), True)
    """
    if keep not in get_args(Keep):
        raise ValueError(f"keep is one of {', '.join(map(repr, get_args(Keep)))}, got {keep!r}")
    branches = _branches(member, baseline)
    if not branches:
        raise ValueError("the answer names no modules: search what collegium.describe made of this model")
    made = _copy_of(model)
    within = {path for branch in branches for paths in branch.paths for path in _replaced(made, paths)}
    kept = draw_anew(made, seed, within) if keep == "nothing" else _outside(made, within)
    generator = Generator().manual_seed(seed_of(seed, "branches"))
    changed: list[str] = []
    for branch in branches:
        for paths in branch.paths:
            changed += _regroup_one(made, paths, branch, generator)
    before, after = _count(model), _count(made)
    if isinstance(member, SolvedEnsemble) and after != member.parameters:
        raise ValueError(
            f"the regrouped module has {after:,} parameters and the answer {member.parameters:,}: this is not the "
            "module that was described"
        )
    timed = None if example_input is None else _latency(model, made, example_input)
    flops = member.flops if isinstance(member, SolvedEnsemble) else None
    made.regrouped = Regrouping((before, after), flops, timed, tuple(changed), tuple(kept))  # type: ignore[assignment]
    return made


def _branches(
    member: SolvedEnsemble | CurveRow | Mapping[str, Members], baseline: NetworkBaseline | None
) -> tuple[RegroupedBranch, ...]:
    if isinstance(member, SolvedEnsemble):
        return member.branches
    if baseline is None:
        raise ValueError("give the description as 'baseline': only an ensemble of an answer names its modules")
    if isinstance(member, CurveRow):
        return _of_row(member, baseline)
    known = {branch.name: branch for branch in baseline.branches}
    first = {branch.paths[0][0]: branch for branch in baseline.branches if branch.paths}
    found = []
    for name, (multiplicity, widths) in member.items():
        branch = known.get(name) or first.get(name)
        if branch is None:
            raise ValueError(f"no branch is called {name!r}; there are {', '.join(known)}")
        given = (widths,) * len(branch.free) if isinstance(widths, int) else tuple(widths)
        why = branch.why or _misfit(branch, multiplicity, given)
        if why is not None:
            raise ValueError(f"{name} cannot be grouped so: {why}")
        widths = layer_widths(branch, given)
        found.append(RegroupedBranch(paths=branch.paths, widths=widths, multiplicity=multiplicity))
    return tuple(found)


def _misfit(branch: Branch, multiplicity: int, widths: tuple[int, ...]) -> str | None:
    """Why a branch has no such members; None where it has."""
    if len(widths) != len(branch.free):
        return f"{len(branch.free)} inner widths are expected, got {len(widths)}"
    if multiplicity < 1 or min(widths) < 1:
        return f"members and their widths are at least 1, got {multiplicity} × {widths}"
    for width, grain in zip(widths, width_grains(branch), strict=True):
        if width % grain:
            return f"the groups of its layers and norms must divide a member's width: {width} is no multiple of {grain}"
    return None


def _copy_of(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # a user's code may raise anything
        raise ValueError(f"the module cannot be copied: {error}") from error


def _of_row(row: CurveRow, baseline: NetworkBaseline) -> tuple[RegroupedBranch, ...]:
    """The row's members in every branch of the one group that was searched."""
    groups = searched_groups(baseline)
    if len(groups) != 1 or row.primal_multiplicity is None:
        raise ValueError("a row of the curve is an ensemble where one group of branches is searched, and m is known")
    base = member_widths(groups[0][0])
    found = []
    for branch in groups[0]:
        scale = member_widths(branch)[0] // base[0]
        own = StageGrouping(tuple(scale * width for width in row.widths), row.primal_multiplicity)
        widths = layer_widths(branch, own.widths)
        found.append(RegroupedBranch(paths=branch.paths, widths=widths, multiplicity=own.multiplicity))
    return tuple(found)


def _regroup_one(model: nn.Module, paths: Sequence[str], branch: RegroupedBranch, generator: Generator) -> list[str]:
    """Replace the modules of one occurrence; their names."""
    m = branch.multiplicity
    modules = [_submodule(model, path) for path in paths]
    last = sum(isinstance(module, _ConvNd | nn.Linear) for module in modules) - 1
    if last != len(branch.widths):
        raise ValueError(f"{paths[0]}: {last + 1} weight layers where {len(branch.widths) + 1} were described")
    at, width, members = -1, 0, _members(modules)
    for path, module in zip(paths, modules, strict=True):
        if isinstance(module, _ConvNd | nn.Linear):
            at += 1
            inputs = _inputs(module) if at == 0 else width
            width = _outputs(module) if at == last else m * branch.widths[at]
            groups = m * _groups(module) // members if 0 < at < last else 1
            if _depthwise(module):
                groups = inputs  # a depthwise layer's channels stay apart
            made: nn.Module = _resized(path, module, inputs, width, groups, generator)
        elif at < last:
            made = _norm(path, module, width, m, members)
        else:
            continue  # a norm of the branch's outputs
        _replace(model, path, made)
    return list(paths)


def _members(modules: Sequence[nn.Module]) -> int:
    """Members that a branch has already: what the groups of its inner layers have in common."""
    inner = [module for module in modules if isinstance(module, _ConvNd | nn.Linear)][1:-1]
    return math.gcd(*(_groups(module) for module in inner if not _depthwise(module))) or 1


def _groups(module: nn.Module) -> int:
    return module.groups if isinstance(module, _ConvNd) else 1


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, _ConvNd) and module.groups == module.in_channels > 1


def _replaced(model: nn.Module, paths: Sequence[str]) -> Sequence[str]:
    """The modules of a branch from its first weight layer to its last; a norm of its outputs stays."""
    weighted = [index for index, path in enumerate(paths) if isinstance(_submodule(model, path), _ConvNd | nn.Linear)]
    return paths[: weighted[-1] + 1] if weighted else ()


def _outside(model: nn.Module, within: set[str]) -> list[str]:
    """Parameters of other modules than these."""
    return [name for name, _ in model.named_parameters() if name.rpartition(".")[0] not in within]


def _submodule(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError:
        if path in dict(model.named_parameters(remove_duplicate=False)):
            raise ValueError(f"{path} is a parameter that code reads, and no layer's: it is not regrouped") from None
        raise ValueError(f"the model has no module {path!r}: it is not the one that was described") from None


def _replace(model: nn.Module, path: str, made: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, made)


def _inputs(module: _ConvNd | nn.Linear) -> int:
    return module.in_channels if isinstance(module, _ConvNd) else module.in_features


def _outputs(module: _ConvNd | nn.Linear) -> int:
    return module.out_channels if isinstance(module, _ConvNd) else module.out_features


def _resized(
    path: str, module: _ConvNd | nn.Linear, inputs: int, outputs: int, groups: int, generator: Generator
) -> nn.Module:
    """A layer of the same class at other sizes, with weights like its own at the new fan-in."""
    if parametrize.is_parametrized(module) or "weight" not in module._parameters:
        raise ValueError(f"{path}: its weight is computed from others; regroup before it is parametrized")
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
    for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        setattr(new, name, copy.copy(getattr(old, name)))


def _like(
    path: str, old: Tensor, shape: tuple[int, ...], fan_ins: tuple[int | None, int], generator: Generator
) -> nn.Parameter:
    """Numbers distributed as those of ``old``, whose variance is that of the old fan-in, at the new one."""
    made = torch.empty(shape, dtype=old.dtype, device=old.device)
    before, after = fan_ins
    assert before is not None
    if old.device.type != "meta":
        try:
            fill(made, law(old, before / after, before), generator)
        except ValueError as error:
            raise ValueError(f"{path} cannot be drawn anew: {error}") from None
    return nn.Parameter(made, requires_grad=old.requires_grad)


def _norm(path: str, module: nn.Module, width: int, members: int, before: int) -> nn.Module:
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
        centered = isinstance(module, nn.LayerNorm)
        eps = module.eps if module.eps is not None else torch.finfo(torch.float32).eps
        made = GroupedLayerNorm(width, members, eps=eps, scale=False, shift=False, centered=centered)
        _keep_hooks(module, made)
        made.train(module.training)
    else:
        raise ValueError(f"{path}: a norm of class {type(module).__name__} cannot be resized")
    for name in ("weight", "bias"):
        old = module._parameters.get(name)
        if old is not None:
            values = old.detach()
            constant = old.device.type != "meta" and bool((values == values.flatten()[0]).all())
            start = values.flatten()[0].item() if constant else float(name == "weight")
            filled = torch.empty(width, dtype=old.dtype, device=old.device).fill_(start)
            setattr(made, name, nn.Parameter(filled, requires_grad=old.requires_grad))
    return made


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _latency(before: nn.Module, after: nn.Module, example: Tensor) -> tuple[float, float]:
    """Median milliseconds of a forward pass of each, in turn."""
    times: tuple[list[float], list[float]] = [], []
    with torch.no_grad():
        for turn in range(TIMED + 1):
            for model, own in ((before, times[0]), (after, times[1])):
                started = time.perf_counter()
                model(example)
                if example.device.type == "cuda":
                    torch.cuda.synchronize(example.device)
                if turn:
                    own.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times[0]), statistics.median(times[1])
