"""``describe``: an ``nn.Module`` becomes the baseline of a search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils import _pytree

from collegium.search.describe.as_written import as_written
from collegium.search.describe.attention import attention_of
from collegium.search.describe.graphs.attached import with_graph
from collegium.search.describe.parts import Ledger, Part, branch_of, parts_of, printable
from collegium.search.describe.trace import Trace, tensors_in, trace
from collegium.search.errors import NotTraceable, SampleMismatch, readable
from collegium.search.networks.families.network import Branch, NetworkBaseline

#: What batch norm in training mode says of a batch of one sample.
_TOO_FEW = "more than 1 value per channel"


def describe(
    model: nn.Module, example_input: Any, *, name: str | None = None, other_input: Any = None
) -> NetworkBaseline:
    """What of a module can be split into members, what it would change, and why the rest cannot.

    ``example_input`` is a batch as the module takes it: a tensor, a tuple of arguments, or a mapping of keyword
    arguments. The module is traced in the mode it is in, with tensors that have no memory, and is left as it was. On
    the device ``meta`` a model of any size costs no memory.

    A *branch* is a maximal chain of convolutions and linear layers, with norms, pools and elementwise functions between
    them, whose inner widths nothing else reads. Its ends are fixed, and its inner widths are free. Parts that cannot be
    split are listed with the reason ``why``. ``parameters`` are all of the module's, tied ones once; ``flops`` are
    multiply–accumulates of one sample. ``attention`` lists blocks of attention with their heads, which are members
    already.

    Where all of it consists of known layers and operations, ``graph`` has them with how their parameters start, read
    off the module's own numbers: from it the service builds the network. Otherwise ``no_graph`` names what stops it.
    With ``other_input``, an example with maps of another extent, the description has ``any_extent`` where the graph is
    the same there: then the network is trained on images of other sizes too.

    Raises ``NotTraceable`` where the module can neither be traced nor run, and ``SampleMismatch`` where the example's
    FLOPs are not the same for each of its samples.

    >>> from torch import nn, zeros
    >>> from collegium import describe
    >>> layers = [nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)]
    >>> baseline = describe(nn.Sequential(*layers), zeros(1, 8, 8), name="digits")
    >>> (branch,) = baseline.branches
    >>> branch.widths, branch.splittable, branch.parameters, baseline.fixed_cost("parameters")
    ((64, 100, 100, 10), True, 17610, 0)
    >>> ffn = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
    >>> print(describe(ffn, zeros(1, 64)).branches[0].why)
    a single hidden layer has nothing to gain: m members of width n are one layer of width m·n
    """
    with as_written():
        found = _described(model, example_input, name)
        if other_input is None or found.graph is None:
            return found
        other = _described(model, other_input, name)
    moved = len(other.input) > 1 and other.input[0] == found.input[0] and other.input != found.input
    return found.model_copy(update={"any_extent": moved and other.graph == found.graph})


def _described(model: nn.Module, example_input: Any, name: str | None) -> NetworkBaseline:
    _check_module(model)
    if any(isinstance(each, UninitializedParameter | UninitializedBuffer) for each in _tensors(model)):
        raise NotTraceable("the module has lazy layers: run it once with the example input, which gives them shapes")
    args, kwargs = _arguments(example_input, _device(model))
    batch = _batch(args, kwargs)
    try:
        found = trace(model, args, kwargs)
    except NotTraceable as error:
        if _TOO_FEW not in str(error):
            raise
        args, kwargs = _twice((args, kwargs), batch)
        batch *= 2
        found = trace(model, args, kwargs)
    parts = parts_of(found, _ledger(model), batch, model)
    return with_graph(_baseline(model, name, parts, found, (args, kwargs), batch), model, found, (args, kwargs), batch)


def _check_module(model: Any) -> None:
    """Raise ``NotTraceable`` for what is no module, or is one of TorchScript."""
    if not isinstance(model, nn.Module):
        what = f"the class {model.__name__}: call it first" if isinstance(model, type) else f"{type(model).__name__}"
        raise NotTraceable(f"what is described is a torch.nn.Module, not {what}")
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            which = f"its module {name!r}" if name else "the module"
            raise NotTraceable(f"{which} is one of TorchScript, which has no Python code: give what was scripted")


def _arguments(example: Any, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments, with tensors on the model's device."""
    args, kwargs = (), {}
    if isinstance(example, Mapping):
        kwargs = dict(example)
    else:
        args = tuple(example) if isinstance(example, tuple | list) else (example,)
    return _pytree.tree_map_only(Tensor, lambda tensor: tensor.to(device), (args, kwargs))


def _device(model: nn.Module) -> torch.device:
    first = next(_tensors(model), None)
    return torch.device("cpu") if first is None else first.device


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _batch(args: Any, kwargs: Any) -> int:
    first = next(tensors_in((args, kwargs)), None)
    if first is None:
        raise SampleMismatch("has no tensor", "give the module's input as 'example_input'")
    batch = first.shape[0] if first.dim() else 1
    if first.numel() == 0:
        raise SampleMismatch(f"has the shape {tuple(first.shape)} with no numbers", "give an example of one sample")
    return batch


def _twice(value: Any, batch: int) -> Any:
    """The same samples again, for norms that need several."""
    return _pytree.tree_map_only(
        Tensor, lambda each: torch.cat([each, each]) if each.dim() and each.shape[0] == batch else each, value
    )


def _ledger(model: nn.Module) -> Ledger:
    first: dict[int, str] = {}
    canonical: dict[str, str] = {}
    sizes: dict[str, int] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        canonical[path] = first.setdefault(id(parameter), path)
        sizes[canonical[path]] = parameter.numel()
    return Ledger(sizes, canonical, dict(model.named_modules(remove_duplicate=False)))


def _baseline(
    model: nn.Module, name: str | None, parts: list[Part], found: Trace, given: Any, batch: int
) -> NetworkBaseline:
    flops = sum(part.flops for part in parts)
    merged: dict[Hashable, list[Part]] = {}
    for part in parts:
        merged.setdefault(part.key, []).append(part)
    if any(sum(part.flops for part in each) % batch for each in merged.values()):
        raise SampleMismatch(
            f"has a batch of {batch} samples, and not all FLOPs are the same for each", "give an example of one sample"
        )
    first = next(tensors_in(given))
    outputs = found.outputs[0].numel() // batch if found.outputs else 1
    try:
        return NetworkBaseline(
            family="network",
            name=printable(name or type(model).__name__),
            input=tuple(first.shape[1:]),
            outputs=max(1, outputs),
            branches=_branches(list(merged.values()), batch),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            flops=flops // batch,
            attention=attention_of(found, batch),
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        place = readable(wrong["loc"])
        raise NotTraceable(f"the module is beyond what a specification holds: {place}: {wrong['msg']}") from error


def _branches(merged: list[list[Part]], batch: int) -> tuple[Branch, ...]:
    """The branches; those of the same inner structure are one group, named after the first of them."""
    plain: list[Branch] = []
    for each in merged:
        plain.append(branch_of(each, batch, taken=[branch.name for branch in plain]))
    structures = Counter(branch.structure for branch in plain if branch.splittable)
    named: dict[Hashable, str] = {}
    for branch in plain:
        if branch.splittable and structures[branch.structure] > 1:
            named.setdefault(branch.structure, branch.name)
    return tuple(
        branch.model_copy(update={"group": named.get(branch.structure)}) if branch.splittable else branch
        for branch in plain
    )
