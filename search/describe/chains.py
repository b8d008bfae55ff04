"""Chains of weight layers whose inner widths nothing else reads, and for every end of one the reason that ends it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import fx

from collegium.search.describe.layers import WEIGHT_LAYERS, Step, WeightNode, step_from, weight_node
from collegium.search.describe.operators import NORMS, name_of, readers, reason_of
from collegium.search.describe.trace import Piece
from collegium.search.networks.families.network_layers import Conv, Norm

#: Steps between two weight layers; more are not followed.
_MOST_STEPS = 64
#: Parameters of ``nn.MultiheadAttention`` that project what it reads.
_PROJECTIONS = {"in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"}


@dataclass(frozen=True, eq=False)
class Chain:
    """Weight layers in order, the steps between each and the next, and why the chain goes no further.

    ``fixed``: why none of its widths is free, None where they are.
    """

    layers: tuple[WeightNode, ...]
    between: tuple[tuple[Step, ...], ...]
    ended: str
    fixed: str | None = None

    def cut(self, after: Sequence[int], why: str) -> list[Chain]:
        """The chains that end behind the layers ``after``, and the rest; not split at all where there are none."""
        if not after:
            return [replace(self, fixed=why)]
        found, start = [], 0
        for end in sorted(after):
            found += _with_whole_ends(Chain(self.layers[start : end + 1], self.between[start:end], why))
            start = end + 1
        return found + _with_whole_ends(Chain(self.layers[start:], self.between[start:], self.ended))

    @property
    def parameters(self) -> list[fx.Node]:
        """The parameters of its layers and of the norms between them."""
        norms = [parameter for steps in self.between for step in steps for parameter in step.parameters]
        return [parameter for layer in self.layers for parameter in layer.parameters] + norms


@dataclass
class Uses:
    """How often each parameter, by its canonical path, is read in all pieces of a model, and each norm called.

    ``containers`` are the modules that have layers inside.
    """

    counts: Counter[str] = field(default_factory=Counter)
    norms: Counter[str] = field(default_factory=Counter)
    containers: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, pieces: Sequence[Piece], canonical: Mapping[str, str]) -> Uses:
        """Counted over the readers of every parameter; ``canonical`` gives tied ones a single path."""
        found = cls()
        for piece in pieces:
            for node, path in piece.parameters.items():
                found.counts[canonical[path]] += len(readers(node))
            found.norms.update(piece.module(node) for node in piece.graph.nodes if name_of(node) in NORMS)
            for node in piece.graph.nodes:
                if name_of(node) in NORMS or name_of(node) in WEIGHT_LAYERS:
                    steps = piece.module(node).split(".")
                    found.containers.update(".".join(steps[:count]) for count in range(len(steps)))
        return found

    def own_module(self, path: str) -> bool:
        """Whether a norm is a module of its own, which is called once."""
        return bool(path) and self.norms[path] == 1 and path not in self.containers


def chains_of(piece: Piece, uses: Uses, canonical: Mapping[str, str]) -> list[Chain]:
    """Every weight layer of a piece, in chains that are as long as can be."""
    found = {}
    for node in piece.graph.nodes:
        layer = weight_node(node, piece.parameters)
        if layer is not None:
            found[node] = layer

    def shared(nodes: Sequence[fx.Node]) -> bool:
        return any(uses.counts[canonical[piece.parameters[node]]] > 1 for node in nodes)

    following: dict[fx.Node, tuple[tuple[Step, ...], fx.Node]] = {}
    ended: dict[fx.Node, str] = {}
    for node, layer in found.items():
        if shared(layer.parameters):
            ended[node] = "its weights are used in several places"
            continue
        steps, reason, reader = _follow(layer, piece, found)
        if reader is not None and shared(found[reader].parameters):
            reason = "the next layer's weights are used in several places"
        elif reader is not None and _is_of_attention(found[reader], piece):
            reason = "a projection inside of MultiheadAttention reads its outputs, which is no layer of its own"
        elif reader is not None and any(shared(step.parameters) for step in steps):
            reason = "a norm that is used in several places reads its outputs"
        elif reader is not None and not all(
            uses.own_module(piece.module(step.node)) for step in steps if isinstance(step.layer, Norm)
        ):
            reason = "a norm that is no module of its own reads its outputs"
        elif reader is not None:
            following[node] = (steps, reader)
            continue
        ended[node] = reason
    return list(_assembled(found, following, ended))


def _is_of_attention(node: WeightNode, piece: Piece) -> bool:
    """Whether the weight is the module's that splits what it projects into heads, and is built with it."""
    return piece.parameters[node.weight].rpartition(".")[2] in _PROJECTIONS


def _follow(
    layer: WeightNode, piece: Piece, found: Mapping[fx.Node, WeightNode]
) -> tuple[tuple[Step, ...], str, fx.Node | None]:
    """The steps from a layer to the next one, which is None where something else comes first, for the reason given."""
    node, channels, steps = layer.node, layer.channels, []
    for _ in range(_MOST_STEPS):
        reading = readers(node)
        if not reading:
            return (), "nothing reads its outputs", None
        if len(reading) == 1 and reading[0] in found:
            return _joined(layer, node, channels, tuple(steps), found[reading[0]])
        step = step_from(node, channels, piece.parameters)
        if step is None:
            several = len(reading) > 1
            reason = f"its outputs are read in {len(reading)} places" if several else reason_of(reading[0])
            return (), reason, None
        steps.append(step)
        node, channels = step.node, step.channels
    return (), f"more than {_MOST_STEPS} operations lie before the next layer", None


def _joined(
    layer: WeightNode, node: fx.Node, channels: int, steps: tuple[Step, ...], after: WeightNode
) -> tuple[tuple[Step, ...], str, fx.Node | None]:
    """The next layer, where it reads the outputs along their channels."""
    if after.reads is not node:
        return (), "its outputs are another layer's weight", None
    if channels != after.channels or layer.outputs != after.inputs:
        return (), "the next layer reads another axis than the channels", None
    return steps, "", after.node


def _assembled(
    found: Mapping[fx.Node, WeightNode],
    following: Mapping[fx.Node, tuple[tuple[Step, ...], fx.Node]],
    ended: Mapping[fx.Node, str],
) -> list[Chain]:
    continued = {reader for _, reader in following.values()}
    chains = []
    for start in found:
        if start in continued:
            continue
        nodes, between = [start], []
        while nodes[-1] in following:
            steps, reader = following[nodes[-1]]
            between.append(steps)
            nodes.append(reader)
        layers = tuple(found[node] for node in nodes)
        chains += _with_whole_ends(Chain(layers, tuple(between), ended[nodes[-1]]))
    return chains


def _with_whole_ends(chain: Chain) -> list[Chain]:
    """The chain between its first and its last layer without groups; grouped layers beyond stand alone.

    Their widths are tied to an end, or their groups read parts of it: what lies between whole layers can be split.
    """
    grouped = [isinstance(layer.layer, Conv) and layer.layer.groups > 1 for layer in chain.layers]
    whole = [index for index, each in enumerate(grouped) if not each]
    first, last = (whole[0], whole[-1]) if whole else (0, -1)
    beyond = [index for index in range(len(chain.layers)) if not first <= index <= last]
    single = [Chain((chain.layers[index],), (), _grouped_end(chain.layers[index])) for index in beyond]
    if not whole:
        return single
    ended = chain.ended if last == len(chain.layers) - 1 else _grouped_next(chain.layers[last + 1])
    middle = Chain(chain.layers[first : last + 1], chain.between[first:last], ended)
    before = [each for index, each in zip(beyond, single, strict=True) if index < first]
    return [*before, middle, *single[len(before) :]]


def _grouped_end(layer: WeightNode) -> str:
    if isinstance(layer.layer, Conv) and layer.layer.depthwise:
        return "a depthwise convolution at the end of a chain: its width is that of the fixed map beside it"
    return "a grouped convolution at the end of a chain: its groups are parts of a fixed map"


def _grouped_next(layer: WeightNode) -> str:
    depthwise = isinstance(layer.layer, Conv) and layer.layer.depthwise
    return f"a {'depthwise' if depthwise else 'grouped'} convolution with fixed outputs reads its outputs"
