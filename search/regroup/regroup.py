"""A module with its branches regrouped as an answer says: m members in the place of one branch.

The first layer of a branch feeds all members, the layers between are grouped, and the last one sums the members. Its
fan-in is that of all of them, so that weights drawn for that fan-in scale the sum by 1/√m (Littwin et al. 2020, Eq. 4).
All other parameters are drawn anew as well, or kept.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor, nn

from collegium.counted import counted
from collegium.search.networks.families.network import Branch, NetworkBaseline
from collegium.search.networks.families.network_chains import layer_widths, member_widths, width_grains
from collegium.search.networks.families.network_grouping import searched_groups
from collegium.search.networks.network import StageGrouping
from collegium.search.regroup.laws import draw_anew, seed_of
from collegium.search.regroup.members import places_of, regroup_one, replaced, submodule
from collegium.search.result import CurveRow, RegroupedBranch, SearchResult, SolvedEnsemble

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
        text = f"{counted(len(self.modules), 'module')} changed; {counted(before, 'parameter')} before, {after:,} now"
        if self.kept:
            names = ", ".join(self.kept[:4]) + (", …" if len(self.kept) > 4 else "")
            text += f"; numbers kept of {counted(len(self.kept), 'parameter')} ({names})"
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
    if not isinstance(model, nn.Module):
        raise ValueError(f"what is regrouped is a torch.nn.Module, not {type(model).__name__}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ValueError(f"seed is a whole number, not {seed!r:.80}")
    branches = _branches(member, baseline)
    if not branches:
        raise ValueError("the answer names no modules: search what collegium.describe made of this model")
    made = copy_of(model)
    inside = {id(submodule(made, path)) for each in branches for paths in each.paths for path in replaced(made, paths)}
    within = {name for name, module in made.named_modules(remove_duplicate=False) if id(module) in inside}
    kept = draw_anew(made, seed, within) if keep == "nothing" else _outside(made, within)
    generator = Generator().manual_seed(seed_of(seed, "branches"))
    changed: list[str] = []
    places = places_of(made)
    for branch in branches:
        for paths in branch.paths:
            changed += regroup_one(made, places, paths, (branch.multiplicity, branch.widths), generator)
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
    if member is None:
        raise ValueError("there is no ensemble: the search found none, its outcome says why")
    if isinstance(member, SearchResult):
        raise ValueError("give one of the answer's ensembles: answer.primal, .dual or .recommended")
    if not isinstance(member, CurveRow | Mapping):
        raise ValueError(f"give an answer's ensemble, a row of its curve, or (m, n) by branch, not {member!r:.80}")
    if baseline is None:
        raise ValueError("give the description as 'baseline': only an ensemble of an answer names its modules")
    if isinstance(member, CurveRow):
        return _of_row(member, baseline)
    known = {branch.name: branch for branch in baseline.branches}
    first = {branch.paths[0][0]: branch for branch in baseline.branches if branch.paths}
    found = []
    for name, pair in member.items():
        multiplicity, widths = _pair(name, pair)
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


def _pair(name: str, pair: Any) -> Members:
    """m and n of a branch as they were given. Raises ``ValueError`` where they are none."""
    if isinstance(pair, tuple | list) and len(pair) == 2:
        many = isinstance(pair[1], tuple | list)
        whole = all(isinstance(each, int) for each in (pair[0], *(pair[1] if many else pair[1:])))
        if whole:
            return pair[0], pair[1]
    raise ValueError(f"{name}: a grouping is (m, n) or (m, [n_1, n_2, …]) of whole numbers, not {pair!r:.80}")


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


def copy_of(model: nn.Module) -> nn.Module:
    """A deep copy of a module. Raises ``ValueError``, which names the attribute that has none, where it has no copy.

    >>> copy_of(nn.Linear(2, 3))
    Linear(in_features=2, out_features=3, bias=True)
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:  # a user's code may raise anything
        held = _without_copy(model)
        raise ValueError(f"the module cannot be copied: {error}{f' ({held})' if held else ''}") from error


def _without_copy(model: nn.Module) -> str:
    """The first attribute that has no copy, of the module that has it; empty where none is found."""
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if name not in ("_modules", "_parameters", "_buffers"):
                try:
                    copy.deepcopy(value)
                except Exception:  # a user's code may raise anything
                    return f"its attribute {(f'{path}.{name}' if path else name)!r}"
    return ""


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


def _outside(model: nn.Module, within: set[str]) -> list[str]:
    """Parameters of other modules than these."""
    return [name for name, _ in model.named_parameters() if name.rpartition(".")[0] not in within]


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
