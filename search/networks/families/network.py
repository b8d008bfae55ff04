"""Any network, as the branches in it that can be split and the fixed cost of the rest.

``collegium.describe`` makes such a baseline of an ``nn.Module``. It is plain data: what it says about sizes follows
from its layers by arithmetic, and whatever does not is refused by the field that is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from collegium.search.fields import MAX_LAYERS, Strict, Width
from collegium.search.networks.families.attention import AttentionBlock
from collegium.search.networks.families.network_layers import (
    ActivationLayer,
    Conv,
    Dropout,
    Extents,
    Layers,
    Linear,
    Norm,
    Pad,
    Pool,
    Reshape,
    WeightedLayer,
    free_widths,
    maps,
    placed,
    weight_layers,
    with_modules,
)
from collegium.search.networks.families.network_table import html_table, text_table
from collegium.search.networks.family import FamilyBaseline
from collegium.search.networks.graph.spec import Graph
from collegium.search.networks.network import Measure

#: Widths that a branch needs to be free before grouping changes anything.
FEWEST_FREE = 2
SINGLE_HIDDEN = "a single hidden layer has nothing to gain: m members of width n are one layer of width m·n"

Count = Annotated[int, Field(ge=0, le=10**15)]
Text = Annotated[str, Field(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$")]
Path = Annotated[str, Field(max_length=512, pattern=r"^[^\x00-\x1f\x7f]*$")]
Paths = Annotated[
    tuple[Annotated[tuple[Path, ...], Field(min_length=1, max_length=8 * MAX_LAYERS, strict=False)], ...],
    Field(max_length=2048, strict=False),
]


class Branch(Strict):
    """A chain of layers between two fixed ends, or a part of the network that cannot be split.

    ``count`` is how often it occurs, and ``paths`` names the modules of each occurrence: those of its convolutions,
    linear layers and norms, in order. ``input`` has the extents of the map that it reads, without channels. ``widths``
    are the channels that it reads and the outputs of its weight layers, of which the inner ones are free;
    ``parameters`` and ``flops`` are those of one occurrence. Branches of one ``group`` have the same inner structure,
    so that a search may tie them.

    A part that is no chain has no ``layers``; ``why`` gives the reason why a part cannot be split.
    """

    name: Text
    count: Annotated[int, Field(ge=1, le=10**6)] = 1
    input: Extents = ()
    layers: Layers = ()
    widths: Annotated[tuple[Width, ...], Field(max_length=MAX_LAYERS + 1, strict=False, validate_default=True)] = ()
    paths: Paths = ()
    parameters: Count
    flops: Count
    splittable: bool
    why: Text | None = Field(default=None, validate_default=True)
    group: Text | None = Field(default=None, validate_default=True)

    @field_validator("layers")
    @classmethod
    def _layers_fit(cls, layers: Layers, info: ValidationInfo) -> Layers:
        if "input" in info.data:
            list(maps(layers, info.data["input"]))
        if layers and not (_weighted(layers[0]) and _weighted(layers[-1])):
            raise ValueError("a branch begins and ends with a 'conv' or a 'linear' layer")
        return layers

    @field_validator("widths")
    @classmethod
    def _widths_fit(cls, widths: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if "layers" not in info.data:
            return widths
        layers = info.data["layers"]
        expected = len(weight_layers(layers)) + 1 if layers else 0
        if len(widths) != expected:
            raise ValueError(f"{expected} widths are expected here: the input's and one for each weight layer")
        for index, layer in enumerate(weight_layers(layers)):
            _check_groups(layer, index, widths[index], widths[index + 1])
        current = iter(widths)
        width = next(current, 0)
        for layer in layers:
            if isinstance(layer, Conv | Linear):
                width = next(current)
            elif isinstance(layer, Norm) and width % layer.groups:
                raise ValueError(f"the {layer.groups} groups of a norm must divide the width {width} before it")
        return widths

    @field_validator("paths")
    @classmethod
    def _paths_fit(cls, paths: Paths, info: ValidationInfo) -> Paths:
        if not paths or not {"layers", "count"} <= info.data.keys():
            return paths
        if len(paths) != info.data["count"]:
            raise ValueError(f"as many occurrences are expected here as 'count' says, {info.data['count']}")
        named = len(with_modules(info.data["layers"]))
        if named and any(len(each) != named for each in paths):
            raise ValueError(f"each occurrence must name the modules of its {named} weight layers and norms")
        return paths

    @field_validator("parameters", "flops")
    @classmethod
    def _counts_follow(cls, value: int, info: ValidationInfo) -> int:
        if not info.data.get("layers") or not {"widths", "input"} <= info.data.keys():
            return value
        data = info.data
        found = sum(
            getattr(each, str(info.field_name)) for each in placed(data["layers"], data["widths"], data["input"])
        )
        if value != found:
            raise ValueError(f"the layers have {found}")
        return value

    @field_validator("splittable")
    @classmethod
    def _can_be_split(cls, splittable: bool, info: ValidationInfo) -> bool:
        layers = info.data.get("layers")
        if not splittable or layers is None:
            return splittable
        if len(free_widths(layers)) < FEWEST_FREE:
            raise ValueError(f"must be false: fewer than {FEWEST_FREE} widths are free, and {SINGLE_HIDDEN}")
        if any(isinstance(end, Conv) and end.groups > 1 for end in (layers[0], layers[-1])):
            raise ValueError("must be false: the first and the last layer may not be grouped, since the ends are fixed")
        return splittable

    @field_validator("why")
    @classmethod
    def _reason_given(cls, why: str | None, info: ValidationInfo) -> str | None:
        splittable = info.data.get("splittable")
        if splittable is not None and splittable == (why is not None):
            raise ValueError("a reason is expected where 'splittable' is false, and there alone")
        return why

    @field_validator("group")
    @classmethod
    def _group_is_of_branches(cls, group: str | None, info: ValidationInfo) -> str | None:
        if group is not None and not info.data.get("splittable", True):
            raise ValueError("only what can be split belongs to a group")
        return group

    @property
    def free(self) -> list[tuple[int, ...]]:
        """The inner widths that can change, as positions in ``widths``; tied ones stand together."""
        return free_widths(self.layers)

    @property
    def multiplicity(self) -> int:
        """Members that the branch has already: the common divisor of the groups of its inner layers."""
        inner = weight_layers(self.layers)[1:-1]
        groups = [layer.groups if isinstance(layer, Conv) else 1 for layer in inner if not _depthwise(layer)]
        return math.gcd(*groups) if groups else 1

    @property
    def structure(self) -> Hashable:
        """What branches of one group have in common: kernels, groups, what is between them, ratios of inner widths."""
        inner = [self.widths[first] for first, *_ in self.free]
        divisor = math.gcd(*inner) or 1
        return tuple(map(_form, self.layers)), tuple(width // divisor for width in inner)


class NetworkBaseline(FamilyBaseline):
    """Any network: its whole cost, and ``branches`` with what each costs, one entry for what cannot be split as well.

    ``input`` is the shape of one sample and ``outputs`` the numbers that the network gives for it. ``flops`` are
    multiply–accumulate operations of one sample. What no branch that can be split accounts for is the fixed cost.

    ``attention`` lists its blocks of attention, whose heads are members already: ``attention[0].as_baseline(…)`` is a
    baseline of its own, whose search gives the variance over the width of the heads.

    ``graph`` is the whole network as known layers and operations, from which it can be built: to be trained, measured
    and timed. Where there is none, ``no_graph`` gives the reason. With ``any_extent`` the graph is that of the network
    at samples of other extents as well, as of larger or smaller images.

    >>> from collegium.search.parse import parse_spec
    >>> hidden = [{"kind": "linear"}, {"kind": "activation", "function": "relu"}]
    >>> branch = {"name": "mlp", "layers": [*hidden, *hidden, {"kind": "linear"}], "widths": [64, 100, 100, 10]}
    >>> branch |= {"parameters": 17400, "flops": 17400, "splittable": True}
    >>> whole = {"family": "network", "name": "MLP", "input": [64], "outputs": 10, "branches": [branch]}
    >>> whole |= {"parameters": 17420, "flops": 17400}
    >>> parse_spec(NetworkBaseline, whole).fixed_cost("parameters")
    20
    >>> branch["flops"] = 17401
    >>> parse_spec(NetworkBaseline, whole)
    Traceback (most recent call last):
    collegium.search.errors.InvalidSpec: branches[0].flops: the layers have 17400
    """

    family: Literal["network"]
    name: Text
    input: Extents
    outputs: Annotated[int, Field(ge=1, le=10**12)]
    branches: Annotated[tuple[Branch, ...], Field(max_length=1024, strict=False)]
    parameters: Count
    flops: Count
    attention: Annotated[tuple[AttentionBlock, ...], Field(max_length=256, strict=False, validate_default=True)] = ()
    graph: Graph | None = None
    no_graph: Text | None = Field(default=None, validate_default=True)
    any_extent: bool = False

    @field_validator("branches")
    @classmethod
    def _groups_are_alike(cls, branches: tuple[Branch, ...]) -> tuple[Branch, ...]:
        first: dict[str, Branch] = {}
        for branch in branches:
            if branch.group is not None:
                other = first.setdefault(branch.group, branch)
                if other.structure != branch.structure:
                    raise ValueError(
                        f"{other.name!r} and {branch.name!r} are of one group {branch.group!r}, and differ in kernels, "
                        "groups, norms, activations or the ratios of their inner widths"
                    )
        return branches

    @field_validator("branches")
    @classmethod
    def _modules_are_named_once(cls, branches: tuple[Branch, ...]) -> tuple[Branch, ...]:
        taken: set[str] = set()
        for branch in branches:
            for path in (path for paths in branch.paths for path in paths if branch.splittable):
                if path in taken:
                    raise ValueError(f"{branch.name!r} names the module {path!r}, which is one of a branch already")
                taken.add(path)
        return branches

    @field_validator("parameters", "flops")
    @classmethod
    def _whole_holds_its_parts(cls, value: int, info: ValidationInfo) -> int:
        parts = sum(each.count * getattr(each, str(info.field_name)) for each in info.data.get("branches", ()))
        if parts > value:
            raise ValueError(f"must be at least {parts}, the sum of the branches")
        return value

    @field_validator("attention")
    @classmethod
    def _products_are_counted(
        cls, blocks: tuple[AttentionBlock, ...], info: ValidationInfo
    ) -> tuple[AttentionBlock, ...]:
        products = sum(block.count * block.products for block in blocks)
        if products > info.data.get("flops", products):
            raise ValueError(f"the products of its heads are {products} FLOPs, more than the whole has")
        return blocks

    @field_validator("no_graph")
    @classmethod
    def _reason_without_graph(cls, reason: str | None, info: ValidationInfo) -> str | None:
        if reason is not None and info.data.get("graph") is not None:
            raise ValueError("a reason is expected where there is no 'graph', and there alone")
        return reason

    @field_validator("any_extent")
    @classmethod
    def _graph_of_maps(cls, value: bool, info: ValidationInfo) -> bool:
        if value and (info.data.get("graph") is None or len(info.data.get("input", ())) < 2):
            raise ValueError("must be false where there is no 'graph', or 'input' has channels alone")
        return value

    def fixed_cost(self, measure: Measure) -> int:
        """What no grouping changes: all but the branches that can be split."""
        free = sum(each.count * getattr(each, measure) for each in self.branches if each.splittable)
        return getattr(self, measure) - free

    def __str__(self) -> str:
        """A table of the branches, those that can be split first."""
        return text_table(self)

    def _repr_html_(self) -> str:
        return html_table(self)


def _weighted(layer: object) -> bool:
    return isinstance(layer, Conv | Linear)


def _depthwise(layer: object) -> bool:
    return isinstance(layer, Conv) and layer.depthwise


def _check_groups(layer: WeightedLayer, index: int, inputs: int, outputs: int) -> None:
    if not isinstance(layer, Conv):
        return
    if inputs % layer.groups or outputs % layer.groups:
        raise ValueError(
            f"the {layer.groups} groups of weight layer {index} must divide its {inputs} inputs and {outputs} outputs"
        )
    if layer.depthwise and layer.groups != inputs:
        raise ValueError(f"weight layer {index} is depthwise: its groups must be its {inputs} inputs")


def _form(layer: object) -> Hashable:
    """What of a layer belongs to the structure of its branch: not strides, extents or positions."""
    match layer:
        case Conv():
            groups = "depthwise" if layer.depthwise else layer.groups
            return "conv", layer.kernel, layer.dilation, groups, layer.bias
        case Linear():
            return "linear", layer.bias
        case Norm():
            return "norm", layer.norm, layer.scale, layer.shift, layer.groups
        case ActivationLayer():
            return "activation", layer.function, layer.parameters
        case Pool():
            return "pool", layer.function, layer.kernel
        case Pad():
            return "pad", layer.mode
        case Dropout():
            return "dropout", layer.rate
        case Reshape():
            return ("reshape",)
    raise TypeError(f"{type(layer).__name__} is no layer of a branch")
