"""A described network as a module that the service builds: its graph at any grouping, with what it takes and costs."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar

from collegium.counted import counted
from collegium.search.errors import InvalidSpec, SampleMismatch
from collegium.search.networks.families.network import Branch, NetworkBaseline
from collegium.search.networks.families.network_chains import layer_widths, searched
from collegium.search.networks.families.network_extents import at_extents, at_tokens
from collegium.search.networks.families.network_graph import graph_at
from collegium.search.networks.families.network_layers import placed
from collegium.search.networks.footprint import Footprint
from collegium.search.networks.graph.content import Input
from collegium.search.networks.graph.infer import Inferred, infer
from collegium.search.networks.graph.reading import Position, logits_at, own_position
from collegium.search.networks.graph.regroup import Change
from collegium.search.networks.graph.spec import ConvLayer, Graph, LinearLayer, Node, RecurrentLayer
from collegium.search.networks.graph.tokens import Role, own_padding, token_roles
from collegium.search.networks.network import Measure, Network, StageGrouping

NOTHING = "this description has no graph: describe the network again, or train the module that was described"


@dataclass(frozen=True)
class GraphNetwork(Network):
    """A network that is built from the graph of its description; ``changes`` are the branches of a grouping."""

    described: NetworkBaseline = field(kw_only=True)

    is_described: ClassVar[bool] = True

    @abstractmethod
    def changes(self, stages: Sequence[StageGrouping]) -> tuple[Change, ...]:
        """The modules that are others where the stages are grouped so."""

    @property
    def not_built(self) -> str | None:
        """The reason why the description has no graph."""
        if self.described.graph is not None:
            return None
        return self.described.no_graph or NOTHING

    def regrouped(self, stages: Sequence[StageGrouping]) -> Inferred:
        """The graph whose branches are grouped so. Raises ``InvalidSpec`` where there is none."""
        if self.described.graph is None:
            raise InvalidSpec(("baseline",), f"a described network without a graph cannot be built: {self.not_built}")
        return _regrouped(_Key(self.described, self.changes(stages)))

    def arguments(self, widths: Sequence[int], multiplicity: int) -> dict[str, Any]:
        """Those of the module: the shape of a sample, and the graph."""
        return self.arguments_of(self.stage_groupings(widths, multiplicity))

    def arguments_of(self, stages: Sequence[StageGrouping]) -> dict[str, Any]:
        """As ``arguments``, of stages that are grouped so."""
        graph = self.regrouped(stages).graph
        return {"sample": list(self.described.input), "graph": graph.model_dump(mode="json", exclude_none=True)}

    def footprints(self, stages: Sequence[StageGrouping], size: int | None = None) -> tuple[Footprint, ...]:
        """Those of the graph's operations, each of which keeps its result."""
        self.sample_shape(size)
        return self.regrouped(stages).footprints()

    def repeated_channels(self, shape: tuple[int, ...]) -> int | None:
        """Samples of the network's own shape, grey images for coloured ones, and as many numbers for a flat input.

        Raises ``SampleMismatch`` otherwise, and where the output is not one row of classes.
        """
        own = self.described.input
        if self._other_inputs is not None:
            raise SampleMismatch(
                f"has samples of numbers and the described network {self._other_inputs}",
                "choose text for a network of tokens, or train the module in a loop of your own",
            )
        if len(own) == 1 and math.prod(shape) == own[0]:
            return None
        if tuple(shape) == own:
            return None
        if len(own) == 3 and len(shape) == 3 and shape[0] == 1 and tuple(shape[1:]) == own[1:]:
            return own[0]
        text = "×".join(map(str, own))
        raise SampleMismatch(
            f"has samples of {'×'.join(map(str, shape))} and the described network takes {text}",
            "describe the network with an example of that shape",
        )

    def sample_shape(self, size: int | None = None) -> tuple[int, int, int]:
        """Channels, height and width; a row of features has one position, and a sequence has a width of 1.

        Raises ``ValueError`` for a ``size`` that the network does not take, and for samples of other axes.
        """
        own = self.described.input
        if not 1 <= len(own) <= 3:
            raise ValueError(f"its samples have {len(own)} axes")
        if size is not None and own[1:] != (size, size):
            raise ValueError(f"this network takes inputs of shape {own} alone")
        channels, height, width = (*own, 1, 1)[:3]
        return channels, height, width

    @property
    def reads(self) -> tuple[Input, ...]:
        """Tensors of one sample, as the graph lists them; none where it is one of numbers."""
        return self.described.graph.inputs if self.described.graph is not None else ()

    @property
    def _other_inputs(self) -> str | None:
        """What the network reads where that is not one tensor of numbers."""
        if len(self.reads) > 1:
            return f"takes {len(self.reads)} tensors: {', '.join(each.name for each in self.reads)}"
        return f"takes {self.reads[0].content}s" if self.reads and self.reads[0].content != "number" else None

    def with_samples(self, shape: tuple[int, ...]) -> GraphNetwork:
        """The network at maps of another extent, where its graph is the network's there too (``any_extent``).

        Raises ``SampleMismatch`` where the graph does not hold together there.
        """
        own = self.described.input
        if not self.described.any_extent or len(shape) != len(own) or shape[0] not in (1, own[0]):
            return self
        return self if tuple(shape[1:]) == own[1:] else self.at(*at_extents(self.described, shape[1:]))

    @property
    def token_roles(self) -> tuple[Role, ...] | None:
        """What each of its inputs is made of, of a network of tokens. Raises ``UnknownInput``."""
        return token_roles(self.reads)

    @property
    def own_padding(self) -> int | None:
        """The token that stands for padding in a network of tokens, which data's padding, 0, is exchanged with."""
        roles, graph = self.token_roles, self.described.graph
        return None if roles is None or graph is None else own_padding(graph, roles)

    def with_tokens(self, length: int, below: int | None = None) -> GraphNetwork:
        """The network as a function of ``length`` tokens alone; masks and the like are made of them.

        Fewer tokens than it reads are followed by padding, 0. Raises ``SampleMismatch`` where it reads no tokens, fewer
        of them, or none up to ``below``.
        """
        return self.at(*at_tokens(self.described, length, below))

    def at(self, described: NetworkBaseline, found: Inferred) -> GraphNetwork:
        """The network of a description that is this one's at other extents, where its graph has these shapes."""
        return replace(self, described=described)

    @property
    def convolves(self) -> bool:
        """Whether any layer is a convolution over images."""
        graph = self.described.graph
        if graph is None:
            return super().convolves
        return any(isinstance(layer, ConvLayer) and len(layer.kernel) == 2 for layer in graph.layers)

    @property
    def outputs(self) -> int:
        """Numbers that the network gives for a sample."""
        return self.described.outputs

    @property
    def draws_apart(self) -> bool:
        """True with convolutions, attention and recurrent layers."""
        graph = self.described.graph
        if graph is None or self.convolves:
            return True
        apart = any(isinstance(layer, ConvLayer | RecurrentLayer) for layer in graph.layers)
        return apart or any(node.op in ("attention", "shared_attention") for node in graph.nodes)

    def logits_at(self, position: Position | None) -> tuple[int, Position | None]:
        """Of a map those at its centre, of a sequence of tokens those of its last one, if nothing is said."""
        graph = self.described.graph
        output = () if graph is None else infer(graph, self.described.input).output
        own = position or own_position(output, (each.shape for each in self.reads if each.content != "number"))
        return logits_at(output, own), own if len(output) > 2 else None

    def together(self, changes: Sequence[Change]) -> RegroupedNetwork:
        """The network of which several parts are grouped: the modules of their branches with a grouping each."""
        names = {piece.paths: piece.name for piece in _pieces(self.described)}
        return _regrouped_network(
            self, changes, [names.get(tuple(map(tuple, paths)), paths[0][0]) for paths, _ in changes]
        )

    @property
    def classifies(self) -> bool:
        """Whether it gives one row of numbers for a sample."""
        graph = self.described.graph
        return graph is not None and infer(graph, self.described.input).output == (-1, self.described.outputs)


class _Key:
    """A description and changes of it, which are equal where they are the same objects and the same groupings."""

    def __init__(self, described: NetworkBaseline, changes: tuple[Change, ...]) -> None:
        self.described, self.changes = described, changes

    def __hash__(self) -> int:
        return hash((id(self.described), self.changes))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.described is other.described and self.changes == other.changes


@lru_cache(maxsize=8)
def _regrouped(key: _Key) -> Inferred:
    return graph_at(key.described, key.changes)


def with_head(baseline: NetworkBaseline, outputs: int) -> NetworkBaseline:
    """The description with a last layer of so many outputs.

    Raises ``SampleMismatch`` where the network does not end in a linear layer that gives its outputs.
    """
    graph = baseline.graph
    head = _head(graph, baseline.outputs) if graph is not None else None
    if graph is None or head is None:
        raise SampleMismatch(
            f"has {counted(outputs, 'class', 'classes')} and the described network "
            f"{counted(baseline.outputs, 'output')}, not given by a linear layer at its end",
            f"describe the network with {counted(outputs, 'output')}",
        )
    changed = head.model_copy(update={"outputs": outputs})
    layers = tuple(changed if layer is head else layer for layer in graph.layers)
    nodes = _with_logits(graph, baseline.outputs, outputs)
    found = infer(graph.model_copy(update={"layers": layers, "nodes": nodes}), baseline.input)
    branches = tuple(_with_end(branch, head.path, outputs) for branch in baseline.branches)
    return baseline.model_copy(
        update={
            "graph": found.graph,
            "branches": branches,
            "outputs": outputs,
            "parameters": found.parameters,
            "flops": found.flops,
        }
    )


def _head(graph: Graph, outputs: int) -> LinearLayer | None:
    """The linear layer that gives the output, used once and of no shared weight; some of its rows may be picked."""
    last = graph.nodes[_behind_head(graph)[0] - 1]
    uses = sum(node.layer == last.layer for node in graph.nodes)
    found = next((layer for layer in graph.layers if layer.path == last.layer), None)
    tied = {name.rpartition(".")[0] for pair in graph.tied for name in pair}
    if not isinstance(found, LinearLayer) or last.op != "layer" or uses > 1 or found.path in tied:
        return None
    return found if (found.groups, found.outputs) == (1, outputs) else None


def _behind_head(graph: Graph) -> tuple[int, set[int]]:
    """The value of which rows are picked in the end, as that of the last token, and what has the size of a row."""
    index, sized = len(graph.nodes), set()
    while index and (node := graph.nodes[index - 1]).op in ("reshape", "gather"):
        sized |= {index, *node.reads[1:]}
        index = node.reads[0]
    return index, sized


def _with_logits(graph: Graph, before: int, outputs: int) -> tuple[Node, ...]:
    """The nodes with rows of so many logits behind the head."""
    nodes = list(graph.nodes)
    for index in _behind_head(graph)[1]:
        node = nodes[index - 1]
        shape = node.options.get("shape")
        if isinstance(shape, tuple) and shape[-1:] == (before,):
            nodes[index - 1] = node.model_copy(update={"options": {"shape": (*shape[:-1], outputs)}})
    return tuple(nodes)


def _with_end(branch: Branch, head: str, outputs: int) -> Branch:
    """The branch with other outputs where the head is its last layer."""
    if not branch.layers or not branch.paths or all(paths[-1] != head for paths in branch.paths):
        return branch
    widths = (*branch.widths[:-1], outputs)
    parts = list(placed(branch.layers, widths, branch.input))
    counts = {name: sum(getattr(part, name) for part in parts) for name in ("parameters", "flops")}
    return branch.model_copy(update={"widths": widths, **counts})


@dataclass(frozen=True)
class RegroupedNetwork(GraphNetwork):
    """A described network some of whose branches are grouped, each in its own way; the others are as they were.

    ``groups`` are the branches' modules with a grouping each, which are its ``stages``; ``names`` those of the
    branches. There is nothing else to group.
    """

    groups: tuple[Change, ...] = field(kw_only=True)
    named: tuple[str, ...] = field(kw_only=True)

    @property
    def stages(self) -> tuple[StageGrouping, ...]:
        """The grouping of each branch."""
        return tuple(grouping for _, grouping in self.groups)

    @property
    def stage_scales(self) -> tuple[int, ...]:
        """One stage for each branch, whose widths are its own."""
        return (1,) * len(self.groups)

    @property
    def separable(self) -> bool:
        """Always."""
        return True

    @property
    def counted_layers(self) -> range:
        """Every weight layer of its chain."""
        return range(len(self.chain.layers))

    def changes(self, stages: Sequence[StageGrouping]) -> tuple[Change, ...]:
        """Its own, whatever the stages."""
        return self.groups

    def affine(self, measure: Measure, widths: Sequence[int]) -> tuple[int, int]:
        """The whole cost, as one unit that stands for it."""
        return self.count_stages(measure, self.stages) - 1, 1

    def count(self, measure: Measure, widths: Sequence[int], multiplicity: int) -> int:
        """That of the graph."""
        return self.count_stages(measure, self.stages)

    def count_stages(self, measure: Measure, stages: Sequence[StageGrouping]) -> int:
        """That of the graph."""
        return int(getattr(self.regrouped(stages), measure))

    def title_at(self, widths: Sequence[int], multiplicity: int) -> str:
        """As ``title_of``."""
        return self.title_of(self.stages)

    def title_of(self, stages: Sequence[StageGrouping]) -> str:
        """Such as ``12×10 in layer1.0, 5×20 in layer2.0 of ResNet``; of many branches, the first ones."""
        texts = [f"{grouping} in {name}" for name, grouping in zip(self.named, self.stages, strict=True)]
        more = ", …" if len(texts) > NAMED else ""
        return f"{', '.join(texts[:NAMED])}{more} of {self.title}"

    def with_outputs(self, outputs: int) -> RegroupedNetwork:
        """The same network with a head for ``outputs`` classes. Raises ``SampleMismatch`` where its end is no head."""
        return replace(self, described=with_head(self.described, outputs))


#: Branches that are named in a title.
NAMED = 3


def regroup_branches(
    network: GraphNetwork, groupings: Sequence[tuple[str, int | Sequence[int], int]]
) -> RegroupedNetwork:
    """The network with ``(branch, widths, multiplicity)`` of each: a branch by its name, or by its first module.

    ``widths`` are the free ones of a member, one for each inner layer, or one for all. Raises ``InvalidSpec`` with the
    place in ``groupings``.
    """
    known = {name: piece for piece in _pieces(network.described) for name in (piece.paths[0][0], piece.name)}
    groups: list[Change] = []
    named: list[str] = []
    for index, (name, widths, multiplicity) in enumerate(groupings):
        if name not in known:
            some = ", ".join(list(known)[:8])
            raise InvalidSpec((index, "branch"), f"no branch that can be grouped is called {name!r}; there are {some}")
        piece = known[name]
        free = len(piece.free)
        given = (widths,) * free if isinstance(widths, int) else tuple(widths)
        inner = layer_widths(piece, given) if len(given) == free else given
        if len(given) != free and not _of_all_layers(piece, given):
            raise InvalidSpec((index, "widths"), f"this branch has {free} inner widths")
        if any(paths in groups_paths for groups_paths, _ in groups for paths in piece.paths):
            raise InvalidSpec((index, "branch"), f"{name!r} is grouped already")
        groups.append((piece.paths, StageGrouping(inner, multiplicity)))
        named.append(piece.name)
    return _regrouped_network(network, groups, named)


def _pieces(described: NetworkBaseline) -> list[Branch]:
    """What can be grouped of the branches that name their modules."""
    return [piece for branch in described.branches for piece in searched(branch) if piece.paths]


def _regrouped_network(network: GraphNetwork, groups: Sequence[Change], named: Sequence[str]) -> RegroupedNetwork:
    return RegroupedNetwork(
        network.title,
        network.chain,
        network.baseline,
        network.multiplicity,
        family=network.family,
        described=network.described,
        groups=tuple(groups),
        named=tuple(named),
    )


def _of_all_layers(piece: Branch, widths: tuple[int, ...]) -> bool:
    """Whether these are a width for each inner layer, as answers have them, tied where depthwise layers tie them."""
    if len(widths) != len(piece.widths) - 2:
        return False
    return layer_widths(piece, [widths[first - 1] for first, *_ in piece.free]) == widths
