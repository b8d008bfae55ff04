"""The parts of a baseline: each chain as a branch, and everything else with the reason why it cannot be split."""

from __future__ import annotations

import math
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import ValidationError
from torch import fx, nn

from collegium.search.describe.chains import Chain, Uses, chains_of
from collegium.search.describe.counts import flops_of, is_recurrent, is_region
from collegium.search.describe.free.trials import Candidate
from collegium.search.describe.free.widths import fixed_widths
from collegium.search.describe.layers import WeightNode
from collegium.search.describe.operators import name_of, readers, shape_of
from collegium.search.describe.trace import Gap, Piece, Trace
from collegium.search.errors import SampleMismatch
from collegium.search.fields import MAX_LAYERS
from collegium.search.networks.families.network import FEWEST_FREE, SINGLE_HIDDEN, Branch
from collegium.search.networks.families.network_layers import Conv, Layer, Linear, Norm, Pad, Pool, Reshape, free_widths

_OF_PARAMETERS = {
    "mul": "a scale of a width that is fixed",
    "add": "parameters that are added to a fixed map",
    "batch_norm": "a norm of a width that is fixed",
    "layer_norm": "a norm of a width that is fixed",
    "group_norm": "a norm of a width that is fixed",
    "instance_norm": "a norm of a width that is fixed",
    "rms_norm": "a norm of a width that is fixed",
    "embedding": "an embedding: a table has no width inside",
    "embedding_bag": "an embedding: a table has no width inside",
    "conv_transpose1d": "a transposed convolution",
    "conv_transpose2d": "a transposed convolution",
    "conv_transpose3d": "a transposed convolution",
}
_RECURRENT = "a recurrent cell: its width is read again at the next step"
_PRODUCTS = "products of two maps, as in attention, which have no weights"
_UNREACHED, _NOT_TRACED = "nothing that was computed depends on it", "no part that was traced reads it"
#: How often chains are cut where code reads a width, and what is left of them tried again.
_ROUNDS = 3
#: The most that a specification holds of each.
_OCCURRENCES, _TEXT, _BRANCHES = 2048, 512, 1024


@dataclass
class Part:
    """One occurrence: its weight layers' paths, what it costs for the whole batch, and the branch that it is."""

    paths: tuple[str, ...]
    parameters: int
    flops: int
    why: str | None
    layers: tuple[Layer, ...] = ()
    widths: tuple[int, ...] = ()
    extents: tuple[int, ...] = ()

    @property
    def key(self) -> Hashable:
        """What equal occurrences have in common."""
        return (self.why, self.layers, self.widths, self.extents) if self.layers else self.why


@dataclass
class Ledger:
    """What is known of a model's parameters: sizes by canonical path, and which part each has been counted in."""

    sizes: Mapping[str, int]
    canonical: Mapping[str, str]
    modules: Mapping[str, Any]
    counted: set[str] = field(default_factory=set)

    def take(self, paths: Sequence[str]) -> int:
        """Numbers in those of the parameters that no part has yet; they are counted from now on."""
        new = {self.canonical[path] for path in paths} - self.counted
        self.counted |= new
        return sum(self.sizes[path] for path in new)

    def layer_path(self, parameter: str) -> str:
        """The module whose ``weight`` a parameter is; the parameter's own path where there is none."""
        module, _, name = parameter.rpartition(".")
        return module if name == "weight" and module in self.modules else parameter


def parts_of(trace: Trace, ledger: Ledger, batch: int, model: nn.Module) -> list[Part]:
    """Every part of a model, in the order in which it runs: together they have all parameters and FLOPs."""
    parts: list[Part] = []
    for piece, chains in _chains(trace, ledger, batch, model).items():
        chained: set[fx.Node] = set()
        for chain in chains:
            chained |= {layer.node for layer in chain.layers}
            parts.append(_part_of(chain, piece, ledger, batch))
        parts += _others(piece, chained, ledger)
    parts += _gaps(trace.gaps, ledger)
    left = [path for path in ledger.sizes if path not in ledger.counted]
    if left:
        parts.append(Part((left[0],), ledger.take(left), 0, _NOT_TRACED if trace.gaps else _UNREACHED))
    return _fitting(parts)


def _chains(trace: Trace, ledger: Ledger, batch: int, model: nn.Module) -> dict[Piece, list[Chain]]:
    """The chains of every piece, ended where code reads a width inside of them."""
    uses = Uses.of(trace.pieces, ledger.canonical)
    found = {piece: chains_of(piece, uses, ledger.canonical) for piece in trace.pieces}
    for turn in range(_ROUNDS):
        scratch = Ledger(ledger.sizes, ledger.canonical, ledger.modules)
        candidates = []
        for piece, chains in found.items():
            for chain in chains:
                part = _part_of(chain, piece, scratch, batch)
                if part.why is None:
                    candidates.append(Candidate(piece, chain, branch_of([part], batch), part.paths))
        fixed = fixed_widths(model, candidates, trace.run if trace.gaps else None)
        if not fixed:
            break
        cuts = {
            candidate.chain: candidate.chain.cut(each.after if turn + 1 < _ROUNDS else (), each.why)
            for candidate, each in fixed.items()
        }
        found = {piece: [each for chain in own for each in cuts.get(chain, [chain])] for piece, own in found.items()}
    return found


def _fitting(parts: list[Part]) -> list[Part]:
    """Parts of no more kinds than a specification holds: beyond that, those that cannot be split have no layers."""
    if len({part.key for part in parts}) <= _BRANCHES:
        return parts
    kinds: dict[Hashable, None] = {}
    found = []
    for part in parts:
        if part.why is None and len(kinds) < _BRANCHES // 2:
            kinds[part.key] = None
        if part.key not in kinds:
            part = _without_layers(part, part.why or "more different branches than a specification holds")
        found.append(part)
    return found


def _part_of(chain: Chain, piece: Piece, ledger: Ledger, batch: int) -> Part:
    names = [piece.parameters[node] for node in chain.parameters]
    paths = tuple(_paths(chain, piece, ledger))
    part = Part(paths, ledger.take(names), sum(layer.flops for layer in chain.layers), chain.ended)
    if part.parameters != sum(ledger.sizes[ledger.canonical[name]] for name in names):
        return part  # tied weights are counted once
    try:
        built = _built(chain, batch)
    except ValueError as error:
        built = f"its layers have no form in a specification: {error}"
    if isinstance(built, str):
        return replace(part, why=built)
    extents, layers = built
    widths = (chain.layers[0].inputs, *(layer.outputs for layer in chain.layers))
    free = len(free_widths(layers))
    why = None if free >= FEWEST_FREE else SINGLE_HIDDEN if free else chain.ended
    why = chain.fixed or why
    full = replace(part, layers=layers, widths=widths, extents=extents, why=why)
    refused = _refusal(full, batch)
    return full if refused is None else replace(part, why=refused)


def _without_layers(part: Part, why: str) -> Part:
    return replace(part, layers=(), widths=(), extents=(), why=why)


def _paths(chain: Chain, piece: Piece, ledger: Ledger) -> Iterator[str]:
    """The modules of the weight layers and of the norms between them, in order."""
    for layer, steps in zip(chain.layers, [*chain.between, ()], strict=True):
        yield ledger.layer_path(piece.parameters[layer.weight])
        for step in steps:
            if isinstance(step.layer, Norm):
                yield piece.module(step.node)


def _built(chain: Chain, batch: int) -> tuple[tuple[int, ...], tuple[Layer, ...]] | str:
    """The extents before a chain and its layers for one sample; where there are none, why not."""
    if len(chain.layers) > MAX_LAYERS:
        return f"a chain of more than {MAX_LAYERS} layers"
    extents = start = _extents(chain.layers[0], batch)
    layers: list[Layer] = []
    for layer, steps in zip(chain.layers, [*chain.between, ()], strict=True):
        if layer.repeats % batch:
            raise SampleMismatch(
                f"has a batch of {batch} samples, and a layer reads {layer.repeats} positions of them all",
                "give an example of one sample",
            )
        if isinstance(layer.layer, Conv) and layer.repeats != batch:
            return "it is applied to several maps of one sample"
        own = layer.layer if isinstance(layer.layer, Conv) else _linear(layer, batch)
        before = layer.extents if isinstance(own, Conv) else extents
        if math.prod(extents) != math.prod(_extents(layer, batch)):
            return "the number of positions changes inside"
        extents = _append(layers, own, extents, before)
        node, channels = layer.node, layer.channels
        for step in steps:
            if step.layer is not None:
                mapped = isinstance(step.layer, Pad) or (isinstance(step.layer, Pool) and step.layer.kernel is not None)
                before = shape_of(node)[channels + 1 :] if mapped else extents
                extents = _append(layers, step.layer, extents, before)
            node, channels = step.node, step.channels
    return start, tuple(layers)


def _append(layers: list[Layer], layer: Layer, extents: tuple[int, ...], before: tuple[int, ...]) -> tuple[int, ...]:
    """Add a layer that reads a map of the extents ``before``, after the reshape to these where one is needed."""
    if extents != before:
        layers.append(Reshape(kind="reshape", extents=before))
    layers.append(layer)
    return layer.after(before)


def _linear(layer: WeightNode, batch: int) -> Linear:
    assert isinstance(layer.layer, Linear)
    return layer.layer.model_copy(update={"positions": layer.repeats // batch})


def _extents(layer: WeightNode, batch: int) -> tuple[int, ...]:
    """Extents before a layer; positions in a row where the batch is no axis of its own."""
    positions = max(1, layer.repeats // batch)
    if isinstance(layer.layer, Conv) or math.prod(layer.extents) == positions:
        return layer.extents
    return (positions,) if positions > 1 else ()


def _refusal(part: Part, batch: int) -> str | None:
    """Why a part is no branch of a specification; None where it is one, with the very counts of the graph."""
    try:
        branch_of([part], batch)
    except ValidationError as error:
        first = error.errors()[0]
        return f"beyond what a specification holds: {'.'.join(map(str, first['loc']))}: {first['msg']}"
    return None


def _others(piece: Piece, chained: set[fx.Node], ledger: Ledger) -> list[Part]:
    """Nodes beside the chains that have parameters or FLOPs."""
    parts = []
    for node in piece.graph.nodes:
        if node.op == "placeholder" and node in piece.parameters and not readers(node):
            continue
        if node.op != "call_function" or node in chained:
            continue
        names = [piece.parameters[each] for each in node.all_input_nodes if each in piece.parameters]
        parameters, flops = ledger.take(names), flops_of(node)
        if parameters or flops:
            place = names[0].rpartition(".")[0] or names[0] if names else piece.module(node) or "(model)"
            parts.append(Part((place,), parameters, flops, _reason(node, bool(names))))
    return parts


def _reason(node: fx.Node, has_parameters: bool) -> str:
    name = name_of(node)
    if is_recurrent(node):
        return _RECURRENT
    if is_region(node):
        return f"code in a region of its own, '{name}'"
    if name.startswith("conv_transpose"):
        return _OF_PARAMETERS[name]
    if name in ("conv1d", "conv2d", "conv3d", "linear", "addmm"):
        return "its weight is computed in each pass, and is no parameter itself"
    if has_parameters:
        return _OF_PARAMETERS.get(name, f"parameters that '{name}' reads outside of any layer")
    return _PRODUCTS


def _gaps(gaps: Sequence[Gap], ledger: Ledger) -> list[Part]:
    """Code that was not traced; of modules within each other that one line stops, those that cost something."""
    parts = []
    for gap in gaps:
        own = [path for path in ledger.sizes if path.rpartition(".")[0] == gap.path and path not in ledger.counted]
        parts.append(Part((gap.path or "(model)",), ledger.take(own), gap.flops, gap.why))
    costly = {part.why for part in parts if part.parameters or part.flops}
    return [part for part in parts if part.parameters or part.flops or part.why not in costly]


def branch_of(occurrences: Sequence[Part], batch: int, taken: Container[str] = ()) -> Branch:
    """Equal occurrences as one branch; parts without layers are added up where their costs differ.

    Names in ``taken`` are not used again.

    Raises ``ValidationError`` where a specification cannot hold it, or its layers have other counts than the graph.
    """
    first = occurrences[0]
    parameters = sum(part.parameters for part in occurrences)
    flops = sum(part.flops for part in occurrences) // batch
    costs = {(part.parameters, part.flops) for part in occurrences}
    count = len(occurrences) if first.layers or len(costs) == 1 else 1
    kept = first.layers and count <= _OCCURRENCES and all(_fits(path) for part in occurrences for path in part.paths)
    return Branch(
        name=printable(_name(occurrences, count, taken)),
        count=count,
        input=first.extents,
        layers=first.layers,
        widths=first.widths,
        paths=tuple(part.paths for part in occurrences) if kept else (),
        parameters=parameters // count,
        flops=flops // count,
        splittable=first.why is None,
        why=first.why and printable(first.why),
    )


def printable(text: str) -> str:
    """A text as a specification holds it: without control characters, and not too long."""
    found = "".join(each if each.isprintable() else " " for each in text)
    return found if len(found) <= _TEXT else found[: _TEXT - 1] + "…"


def _fits(path: str) -> bool:
    return printable(path) == path


def _name(occurrences: Sequence[Part], count: int, taken: Container[str] = ()) -> str:
    """The module that has all layers of the first occurrence; its first and last layer where that has others too."""
    paths = occurrences[0].paths
    name = ".".join(_common([path.split(".") for path in paths]))
    if not name or (len(paths) > 1 and name in taken):
        name = f"{paths[0]} … {paths[-1]}"
    return f"{name} and {len(occurrences) - 1} more" if len(occurrences) > count else name


def _common(paths: Sequence[Sequence[str]]) -> list[str]:
    found = []
    for steps in zip(*paths, strict=False):
        if len(set(steps)) > 1:
            break
        found.append(steps[0])
    return found
