"""A description with the graph of its network, or with the reason why there is none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from collegium.search.describe.graphs.graph import NoGraph, graph_of
from collegium.search.describe.parts import printable
from collegium.search.describe.trace import Trace, export, stopping_place
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
    args, kwargs = given
    if len(args) != 1 or kwargs or not isinstance(args[0], Tensor):
        kwargs_one = len(kwargs) == 1 and not args and isinstance(next(iter(kwargs.values())), Tensor)
        if not kwargs_one:
            raise NoGraph("it takes several inputs, and a network of one tensor is expected")
    first = args[0] if args else next(iter(kwargs.values()))
    if not first.dtype.is_floating_point:
        raise NoGraph(f"it reads numbers of type {str(first.dtype).removeprefix('torch.')}")
    if first.dim() < 2:
        raise NoGraph("its input has no axis beside that of the batch")
    count = OTHER if batch == SECOND else SECOND
    with torch.inference_mode(False):
        second = torch.cat([first[:1]] * count)
    try:
        twin = export("", model, (second,) if args else (), {} if args else {next(iter(kwargs)): second})
    except Exception as error:  # a user's code may raise anything
        raise NoGraph(f"with {count} samples, torch.export stops at {stopping_place(error)}") from None
    canonical: dict[str, str] = {}
    seen: dict[int, str] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        canonical[path] = seen.setdefault(id(parameter), path)
    return graph_of(model, found.pieces[0], twin, (batch, count), canonical, baseline.input)
