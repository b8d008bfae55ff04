"""A description with the graph of its network, or with the reason why there is none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from collegium.search.describe.graphs.graph import NoGraph, alike, graph_of
from collegium.search.describe.parts import printable
from collegium.search.describe.trace import Piece, Trace, export, stopping_place, tensors_in
from collegium.search.errors import InvalidSpec, readable
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.networks.families.network_graph import check_graph

#: Samples of the second trace, where the first has another number of them.
SECOND, OTHER = 3, 5


def with_graph(baseline: NetworkBaseline, model: nn.Module, found: Trace, given: Any, batch: int) -> NetworkBaseline:
    """The description with its ``graph``, which has its very counts and branches; or with ``no_graph``."""
    try:
        graph = _graph(baseline, model, found, given, batch)
        described = baseline.model_copy(update={"graph": graph})
        check_graph(described)
    except NoGraph as missing:
        return baseline.model_copy(update={"no_graph": printable(str(missing))})
    except InvalidSpec as wrong:
        reason = f"its graph is not that of its branches: {readable(wrong.path)}: {wrong.message}"
        return baseline.model_copy(update={"no_graph": printable(reason)})
    return described


def _graph(baseline: NetworkBaseline, model: nn.Module, found: Trace, given: Any, batch: int) -> Any:
    if found.gaps:
        gap = found.gaps[0]
        raise NoGraph(f"{gap.path or 'the model'}: {gap.why}")
    for each in tensors_in(given):
        if each.dim() < 2 or each.shape[0] != batch:
            raise NoGraph(
                f"an input has the shape {tuple(each.shape)}, which is not a batch of {batch} with other axes"
            )
    layers = {name for name, _ in model.named_modules(remove_duplicate=False)}
    free = (path for each in baseline.branches if each.splittable for paths in each.paths for path in paths)
    bare = next((path for path in free if path not in layers), None)
    if bare is not None:
        raise NoGraph(f"{bare!r} is a parameter that code reads, and no layer's")
    count = OTHER if batch == SECOND else SECOND
    piece, twin = found.pieces[0], _traced(model, given, count)
    if batch == 1 and not alike(piece, twin):  # what is broadcast, or asked for, is another thing for one sample
        batch, count, piece, twin = SECOND, OTHER, twin, _traced(model, given, OTHER)
    canonical: dict[str, str] = {}
    seen: dict[int, str] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        canonical[path] = seen.setdefault(id(parameter), path)
    return graph_of(model, piece, twin, (batch, count), canonical, baseline.input)


def _traced(model: nn.Module, given: Any, count: int) -> Piece:
    """The trace with so many of the first sample. Raises ``NoGraph``."""
    with torch.inference_mode(False):
        args, kwargs = _pytree.tree_map_only(Tensor, lambda each: torch.cat([each[:1]] * count), given)
    try:
        return export("", model, args, kwargs)
    except Exception as error:  # a user's code may raise anything
        raise NoGraph(f"with {count} samples, torch.export stops at {stopping_place(error)}") from None
