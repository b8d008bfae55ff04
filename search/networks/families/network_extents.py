"""A described network at samples of another extent, as of images that are larger or smaller than the described one.

The graph is the same, and its shapes follow from it by arithmetic anew: where it does not hold together, as where a map
is too small for a kernel, samples of that extent are refused with the operation that does not fit. Fewer tokens than a
network reads are followed by padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from collegium.counted import counted
from collegium.search.errors import SampleMismatch, readable
from collegium.search.networks.families.network import Branch, NetworkBaseline
from collegium.search.networks.families.network_layers import Layer, Linear, placed
from collegium.search.networks.graph.infer import GraphError, Inferred, infer
from collegium.search.networks.graph.spec import LinearLayer
from collegium.search.networks.graph.tokens import on_tokens, token_roles


def at_extents(baseline: NetworkBaseline, extents: Sequence[int]) -> tuple[NetworkBaseline, Inferred]:
    """The description at samples of its channels and these extents, and its graph with the shapes there.

    Branches have the extents and FLOPs that they have there; parts without layers, as norms, are left as they were.
    Raises ``SampleMismatch`` where the graph does not hold together.
    """
    assert baseline.graph is not None
    shape = (baseline.input[0], *extents)
    text = "×".join(map(str, shape))
    try:
        found = infer(baseline.graph, shape)
    except GraphError as error:
        raise SampleMismatch(
            f"has samples of {text}, at which the described network does not hold together: "
            f"{readable(error.place)}: {error.message}",
            f"choose samples of {'×'.join(map(str, baseline.input))}, or larger ones",
        ) from None
    applied = {node.layer for node in found.graph.nodes}
    branches = tuple(
        at_graph(each, found) if each.layers and each.paths and each.paths[0][0] in applied else each
        for each in baseline.branches
    )
    return baseline.model_copy(update={"input": shape, "flops": found.flops, "branches": branches}), found


def at_tokens(baseline: NetworkBaseline, length: int, below: int | None) -> tuple[NetworkBaseline, Inferred]:
    """The description as a function of ``length`` tokens alone, and its graph with the shapes there.

    Tokens are ``below`` a number, where that is known. Raises ``SampleMismatch`` where the network does not read them.
    """
    graph = baseline.graph
    roles = token_roles(graph.inputs) if graph is not None else None
    if graph is None or roles is None:
        raise SampleMismatch("holds sequences of tokens", "describe one that reads tokens, or train a transformer")
    own = graph.inputs[roles.index("tokens")]
    if length > own.shape[0]:
        raise SampleMismatch(
            f"has sequences of {counted(length, 'token')} and the described network reads {own.shape[0]} as "
            f"{own.name!r}",
            f"choose a length of {own.shape[0]} or less in the data's options, or describe the network at {length}",
        )
    if below is not None and own.below is not None and below > own.below:
        raise SampleMismatch(
            f"has a vocabulary of {counted(below, 'token')} and {own.name!r} of the described network is below "
            f"{own.below}",
            f"choose a vocabulary of {own.below} or less in the data's options, or describe the network with an "
            f"embedding of {counted(below, 'row')}",
        )
    changed = on_tokens(graph, roles, length)
    found = infer(changed, (length,))
    return baseline.model_copy(update={"input": (length,), "graph": changed, "flops": found.flops}), found


def at_graph(branch: Branch, found: Inferred) -> Branch:
    """A branch with the extents of what its first layer reads in this graph, and its FLOPs there."""
    first = branch.paths[0][0]
    node = next(node for node in found.graph.nodes if node.layer == first)
    read = found.shapes[node.reads[0]]
    last = isinstance(next(layer for layer in found.graph.layers if layer.path == first), LinearLayer)
    extents = read[1:-1] if last else read[2:]
    layers = _at(branch.layers, extents)
    flops = sum(each.flops for each in placed(layers, branch.widths, extents))
    return branch.model_copy(update={"input": extents, "layers": layers, "flops": flops})


def _at(layers: Sequence[Layer], extents: tuple[int, ...]) -> tuple[Layer, ...]:
    """The layers, linear ones with the positions of the map before them."""
    found: list[Layer] = []
    for layer in layers:
        if isinstance(layer, Linear):
            found.append(layer.model_copy(update={"positions": math.prod(extents)}))
        else:
            found.append(layer)
        extents = found[-1].after(extents)
    return tuple(found)
