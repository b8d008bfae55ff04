"""ResNets and ResNeXts: stem, stages of residual blocks, shortcuts, norms and head (He et al. 2016, Xie et al. 2017).

Layouts and kinds of blocks are data: a further one is an entry of ``LAYOUTS`` or ``BLOCKS``, and of the specification's
literal; a further kind of block is also a module of ``collegium.train.models.residual``, which is found by its kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import Field

from collegium.search.errors import InvalidSpec, SampleMismatch
from collegium.search.fields import Width
from collegium.search.networks.chain import Chain, Free, WeightLayer
from collegium.search.networks.families.resnext_segments import residual_segments, stage_segments
from collegium.search.networks.family import Family, FamilyBaseline, chosen
from collegium.search.networks.network import Measure, Network, StageGrouping, Stem
from collegium.search.networks.segment import Repeated

#: Extent of the map at which the ``pooled`` entry evaluates a residual branch.
EXTENT = 8


class ResNextBaseline(FamilyBaseline):
    """A whole ResNet or ResNeXt: stem, stages, shortcuts, norms and head.

    ``cardinality`` × ``base_width``d in the notation of ResNeXt; the group width doubles with every stage.
    ``blocks`` gives the residual blocks of each stage; ``depth`` is short for the usual choice. The stem has
    ``channels`` of them; a stage's outputs are as many, four times as many of bottlenecks, and double with every stage.
    """

    family: Literal["resnext"]
    layout: Literal["cifar", "imagenet", "imagenet32", "imagenet64"]
    depth: Annotated[int, Field(ge=1, le=2000)] | None = None
    blocks: (
        Annotated[tuple[Annotated[int, Field(ge=1, le=500)], ...], Field(min_length=1, max_length=8, strict=False)]
        | None
    ) = None
    block: Literal["bottleneck", "basic"] = "bottleneck"
    cardinality: Annotated[int, Field(ge=1, le=65536)] = 1
    base_width: Annotated[int, Field(ge=1, le=65536)] = 64
    channels: Annotated[int, Field(ge=1, le=65536)] = 64
    classes: Width | None = None


@dataclass(frozen=True)
class ResidualBlock:
    """A kind of residual block: convolutions of these ``kernels``, all but the last of free width.

    The layer ``strided`` carries the stride of a stage's first block. The outputs are ``expansion`` times the stage's
    channels. ``depths`` gives the blocks of each stage of the usual ImageNet networks by their depth.
    """

    kernels: tuple[int, ...]
    strided: int
    expansion: int
    depths: Mapping[int, tuple[int, ...]]

    def chain(self, channels: int) -> Chain:
        """The residual branch of the first stage: free widths n1, n2, … and fixed outputs."""
        outputs = channels * self.expansion
        *hidden, last = (WeightLayer("conv", outputs, kernel=k, padding=(k - 1) // 2) for k in self.kernels)
        free = (replace(layer, out=Free(index)) for index, layer in enumerate(hidden))
        names = tuple(f"n{index + 1}" for index in range(len(hidden)))
        return Chain(outputs, EXTENT, EXTENT, (*free, replace(last, activation="linear")), names)

    def areas(self, extent: int, stride: int) -> list[int]:
        """Positions of each layer's outputs in a block whose *inputs* are ``extent`` × ``extent``.

        It starts from the inputs, because the outputs do not determine them: maps of 7 and of 8 both halve to 4.
        """
        after = halved(extent, stride)
        return [(after if index >= self.strided else extent) ** 2 for index in range(len(self.kernels))]


def halved(extent: int, stride: int) -> int:
    """Extent behind a convolution that pads by (kernel − 1) / 2: an odd map keeps its middle."""
    return -(-extent // stride)


BLOCKS: dict[str, ResidualBlock] = {
    "bottleneck": ResidualBlock(
        kernels=(1, 3, 1),
        strided=1,
        expansion=4,
        depths={26: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)},
    ),
    "basic": ResidualBlock(
        kernels=(3, 3),
        strided=0,
        expansion=1,
        depths={10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    ),
}


@dataclass(frozen=True)
class Layout:
    """Input extent, default classes and stem; ``stages`` is None where depths are those of the ImageNet networks.

    Elsewhere a depth is divided evenly among that many stages.
    """

    size: int
    classes: int
    stem: Stem
    stages: int | None

    @property
    def stem_size(self) -> int:
        """Extent after the stem's convolution."""
        return self.size // 2 if self.stem.pooled else self.size

    @property
    def map_size(self) -> int:
        """Extent before the first stage."""
        return self.size // 4 if self.stem.pooled else self.size


LAYOUTS: dict[str, Layout] = {
    "cifar": Layout(32, 10, Stem(3), 3),
    "imagenet": Layout(224, 1000, Stem(7, pooled=True), None),
    "imagenet32": Layout(32, 1000, Stem(3), 3),
    "imagenet64": Layout(64, 1000, Stem(3), 3),
}


@dataclass(frozen=True)
class Stage:
    """One stage of a residual network; ``scale`` multiplies the branch's free widths here.

    ``extent`` is that of the map before its first block, ``size`` that of its outputs.
    """

    blocks: int
    inputs: int
    outputs: int
    stride: int
    scale: int
    extent: int

    @property
    def size(self) -> int:
        """Extent of the map after each of its blocks."""
        return halved(self.extent, self.stride)

    def extent_before(self, stride: int) -> int:
        """Extent of the map before a block of this stride: only the first block has one above 1."""
        return self.size if stride == 1 else self.extent

    def runs(self) -> list[tuple[int, int, int]]:
        """Its blocks as runs of equal ones: how many, their input channels and their stride."""
        first = (1, self.inputs, self.stride)
        return [first, (self.blocks - 1, self.outputs, 1)] if self.blocks > 1 else [first]


@dataclass(frozen=True)
class ResidualNetwork(Network):
    """A ResNet or ResNeXt. The free widths double with every stage.

    ``chain`` is the residual branch of the first stage. Its map is 8 × 8, which the ``pooled`` entry alone depends on.
    Its kernel is that of the branch's convolutions alone: stem, projections, head, and the scales and shifts of all
    batch norms are counted as parameters, and are outside of the kernel whose variance is studied.
    """

    block: str = field(kw_only=True)
    layout: Layout = field(kw_only=True)
    stages: tuple[Stage, ...] = field(kw_only=True)
    classes: int = field(kw_only=True)
    stem_channels: int = field(kw_only=True)

    nearest_dual_as_published = True

    @property
    def stage_scales(self) -> tuple[int, ...]:
        """The widths double with every stage."""
        return tuple(stage.scale for stage in self.stages)

    @property
    def subject(self) -> str:
        """One branch of each stage: stem, shortcuts, norms and head are not in it."""
        return "the kernel of one residual branch of each stage at initialization, not of the network"

    @property
    def counted_layers(self) -> range:
        """Every weight layer of the branch, the constant 1 / n_in included."""
        return range(len(self.chain.layers))

    @property
    def separable(self) -> bool:
        """What is in a stage's branches is that stage's alone."""
        return True

    def affine(self, measure: Measure, widths: Sequence[int]) -> tuple[int, int]:
        """The stages' members together; group widths double with every stage."""
        stages = self.stage_groupings(widths, 1)
        return self.fixed_cost(measure), sum(
            self.stage_cost(measure, index, stage.widths) for index, stage in enumerate(stages)
        )

    def fixed_cost(self, measure: Measure) -> int:
        """Stem, norms of the block outputs, projections and head."""
        return self._fixed_costs[measure]

    @cached_property
    def _fixed_costs(self) -> dict[Measure, int]:
        return {measure: self._fixed(cost) for measure, cost in _COSTS.items()}

    def _fixed(self, cost: _Cost) -> int:
        stem = self.layout.stem
        fixed = cost.conv(3 * stem.kernel**2, self.stem_channels, self.layout.stem_size**2) + self._head(cost)
        for stage in self.stages:
            for count, inputs, stride in stage.runs():
                fixed += count * cost.norm * stage.outputs
                if inputs != stage.outputs or stride != 1:
                    fixed += count * cost.conv(inputs, stage.outputs, stage.size**2)
        return fixed

    def stage_cost(self, measure: Measure, stage: int, widths: Sequence[int]) -> int:
        """One member's share of every block of a stage."""
        cost, outputs = _COSTS[measure], self.stages[stage].outputs
        return sum(
            count * self._branch(cost, inputs, widths, outputs, areas) for count, inputs, areas in self._runs[stage]
        )

    @cached_property
    def _runs(self) -> list[list[tuple[int, int, list[int]]]]:
        """Of every stage its runs of equal blocks: how many, their input channels and their layers' positions."""
        return [
            [
                (count, inputs, self._block.areas(stage.extent_before(stride), stride))
                for count, inputs, stride in stage.runs()
            ]
            for stage in self.stages
        ]

    def _head(self, cost: _Cost) -> int:
        return self.stages[-1].outputs * self.classes + cost.bias * self.classes

    def _branch(self, cost: _Cost, inputs: int, widths: Sequence[int], outputs: int, areas: Sequence[int]) -> int:
        """One member's share of a block; the norm of the block's outputs is not in it."""
        total, below = 0, inputs
        for kernel, out, area in zip(self._block.kernels, (*widths, outputs), areas, strict=True):
            total += cost.conv(below * kernel**2, out, area)
            below = out
        return total - cost.norm * outputs

    @property
    def _block(self) -> ResidualBlock:
        return chosen(BLOCKS, self.block, "residual block")

    any_extent = True

    def sample_shape(self, size: int | None = None) -> tuple[int, int, int]:
        """RGB images, of the layout's extent where none is given."""
        extent = self.layout.size if size is None else size
        return 3, extent, extent

    def segments(self, stages: Sequence[StageGrouping], size: int | None = None) -> list[Repeated]:
        """The stem, each run of equal blocks, and the head."""
        block, extent = self._block, self.sample_shape(size)[1]
        return residual_segments(self.arguments_of(stages), block.kernels, block.strided, extent)

    def stage_segments(self, stage: int, grouping: StageGrouping, size: int | None = None) -> list[Repeated]:
        """Each run of equal blocks of one stage."""
        extent = self.sample_shape(size)[1]
        for stride in (2, 2) if self.layout.stem.pooled else ():
            extent = halved(extent, stride)
        for before in self.stages[:stage]:
            extent = halved(extent, before.stride)
        described = {"kind": self.block, "groups": grouping.multiplicity}
        blocks = [described | block for block in _blocks_of(self.stages[stage], grouping)]
        return stage_segments(blocks, self._block.kernels, self._block.strided, extent, stage)[0]

    @property
    def outputs(self) -> int:
        """Logits that the network gives."""
        return self.classes

    def with_outputs(self, outputs: int) -> Self:
        """The same network with a head for ``outputs`` classes."""
        return replace(self, classes=outputs)

    def stem(self, channels: int) -> Stem:
        """The layout's own."""
        return self.layout.stem

    def repeated_channels(self, shape: tuple[int, ...]) -> int | None:
        """Three, for grey images."""
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise SampleMismatch(f"has samples of shape {shape}", "a residual network takes images of 1 or 3 channels")
        return 3 if shape[0] == 1 else None

    def arguments(self, widths: Sequence[int], multiplicity: int) -> dict[str, Any]:
        """Those of ``ResNet`` for one m × n."""
        return self.arguments_of(self.stage_groupings(widths, multiplicity))

    def arguments_of(self, stages: Sequence[StageGrouping]) -> dict[str, Any]:
        """Those of ``ResNet``; ``widths`` are a block's channels, of all its members.

        ``groups`` is one number where all stages have it, else one for each stage.
        """
        multiplicities = [grouping.multiplicity for grouping in self._checked(stages)]
        return {
            "block": self.block,
            "stem_kernel": self.layout.stem.kernel,
            "stem_channels": self.stem_channels,
            "stages": [_blocks_of(stage, grouping) for stage, grouping in zip(self.stages, stages, strict=True)],
            "groups": multiplicities[0] if len(set(multiplicities)) == 1 else multiplicities,
            "classes": self.classes,
        }


def _blocks_of(stage: Stage, grouping: StageGrouping) -> list[dict[str, Any]]:
    widths = [grouping.multiplicity * width for width in grouping.widths]
    return [
        {"inputs": inputs, "widths": list(widths), "outputs": stage.outputs, "stride": stride}
        for count, inputs, stride in stage.runs()
        for _ in range(count)
    ]


@dataclass(frozen=True)
class _Cost:
    """What is counted: a convolution's weights once, or at each of its positions; norms and biases, or neither."""

    norm: int
    bias: int
    positions: bool

    def conv(self, fan_in: int, out: int, area: int) -> int:
        """A convolution followed by a batch norm."""
        return fan_in * out * (area if self.positions else 1) + self.norm * out


_COSTS: dict[Measure, _Cost] = {
    "parameters": _Cost(norm=2, bias=1, positions=False),
    "flops": _Cost(norm=0, bias=0, positions=True),
}


def _lower(baseline: ResNextBaseline) -> ResidualNetwork:
    layout = chosen(LAYOUTS, baseline.layout, "layout")
    block = chosen(BLOCKS, baseline.block, "residual block")
    blocks = _blocks(baseline, layout, block)
    chain = block.chain(baseline.channels)
    depth = baseline.depth or sum(blocks) * len(block.kernels) + 2
    plain = baseline.cardinality == 1 and layout.stages is None
    place = baseline.layout if baseline.channels == 64 else f"{baseline.layout}, {baseline.channels} channels"
    return ResidualNetwork(
        title=f"{'ResNet' if plain else 'ResNeXt'}-{depth} {baseline.cardinality}×{baseline.base_width}d ({place})",
        chain=chain,
        baseline=(baseline.base_width,) * len(chain.names),
        multiplicity=baseline.cardinality,
        block=baseline.block,
        layout=layout,
        stages=_stages(blocks, baseline.channels, layout, block),
        classes=baseline.classes or layout.classes,
        stem_channels=baseline.channels,
    )


def _stages(blocks: Sequence[int], channels: int, layout: Layout, block: ResidualBlock) -> tuple[Stage, ...]:
    """Every stage but the first halves the map; each doubles the channels."""
    stages, inputs, extent = [], channels, layout.map_size
    for index, count in enumerate(blocks):
        outputs = channels * block.expansion * 2**index
        stages.append(Stage(count, inputs, outputs, 1 if index == 0 else 2, 2**index, extent))
        inputs, extent = outputs, stages[-1].size
    return tuple(stages)


def _blocks(baseline: ResNextBaseline, layout: Layout, block: ResidualBlock) -> tuple[int, ...]:
    depth = baseline.depth
    if baseline.blocks is not None and depth is None:
        return baseline.blocks
    if depth is None or baseline.blocks is not None:
        raise InvalidSpec(("baseline", "depth"), "give either 'depth' or 'blocks', and not both")
    if layout.stages is None:
        if depth not in block.depths:
            raise InvalidSpec(
                ("baseline", "depth"),
                f"an ImageNet network of {baseline.block} blocks has depth {sorted(block.depths)}; "
                "for another, give 'blocks'",
            )
        return block.depths[depth]
    each = layout.stages * len(block.kernels)
    if depth < each + 2 or (depth - 2) % each:
        raise InvalidSpec(
            ("baseline", "depth"),
            f"three stages of {baseline.block} blocks have depth {each}·k + 2, such as {3 * each + 2}; "
            "for another, give 'blocks'",
        )
    return ((depth - 2) // each,) * layout.stages


RESNEXT = Family(
    summary="ResNets and ResNeXts for CIFAR and ImageNet",
    baseline=ResNextBaseline,
    lower=_lower,
    module="collegium.train.models.residual:ResNet",
    dropout=True,
)
