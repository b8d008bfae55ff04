"""A baseline as a whole network: the chain whose kernel is studied, and exact counts of any m × n regrouping.

Every count of a grouped network is affine in the multiplicity: ``count(n, m) = fixed + m · per_member(n)``. Equating
it with the baseline's real count gives the primal multiplicity exactly (Littwin et al. 2020, Eq. 12, on the whole
network rather than on one module).

Where every stage is grouped in its own way, stage s has m_s members of widths n_s and the count is
``fixed + Σ_s m_s · stage_cost(s, n_s)``. One m × n for all stages is the case in which every m_s is m and the widths of
stage s are n times its scale.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

from collegium.counted import counted
from collegium.search.networks.chain import Chain
from collegium.search.networks.footprint import Footprint, chain_footprints
from collegium.search.networks.graph.content import Input
from collegium.search.networks.graph.reading import Position
from collegium.search.networks.segment import Repeated, footprints_of

Measure = Literal["parameters", "flops"]
#: Strides of the ImageNet stem's convolution and max-pool, and the pool's extent.
CONV_STRIDE, POOL_STRIDE, POOL = 2, 2, 3


@dataclass(frozen=True)
class Stem:
    """The layers before a chain's input: a ``kernel``-wide convolution with rectified outputs.

    ``pooled`` is the ImageNet form: a convolution of stride 2, then a 3×3 max-pool of stride 2.
    """

    kernel: int = 3
    pooled: bool = False

    def span(self, positions: int) -> int:
        """Pixels in a row that ``positions`` outputs in a row depend on."""
        if not self.pooled:
            return positions + self.kernel - 1
        return CONV_STRIDE * (POOL_STRIDE * (positions - 1) + POOL - 1) + self.kernel


def member_groups(groups: int, members: int) -> int:
    """Groups of a norm in one of the members that share them; all, where they are no multiple of the members.

    >>> member_groups(8, 4), member_groups(8, 3)
    (2, 8)
    """
    return groups // members if groups % members == 0 else groups


@dataclass(frozen=True)
class StageGrouping:
    """The grouping of one stage: ``multiplicity`` members whose layers there have exactly these ``widths``.

    The widths are absolute, not those of the first stage that a stage's scale multiplies.
    """

    widths: tuple[int, ...]
    multiplicity: int

    def __str__(self) -> str:
        """Such as ``11×7``, or ``11×7·9`` where the layers' widths differ."""
        widths = self.widths[:1] if len(set(self.widths)) == 1 else self.widths
        return f"{self.multiplicity}×{'·'.join(map(str, widths))}"


@dataclass(frozen=True)
class Network(ABC):
    """A baseline lowered to what a search and a training need.

    ``baseline`` is the free width vector ñ of one member and ``multiplicity`` its number of members. ``family`` is the
    name of the family that lowered it (``family.Family.build``). A family subclasses this; what a chain alone
    determines has a default.
    """

    title: str
    chain: Chain
    baseline: tuple[int, ...]
    multiplicity: int
    family: str = field(default="", kw_only=True)

    #: Whether the dual of a *given* α takes the nearest integer m, even where that exceeds the baseline's variance, as
    #: Littwin et al. 2020 do for residual networks.
    nearest_dual_as_published: ClassVar[bool] = False

    @abstractmethod
    def affine(self, measure: Measure, widths: Sequence[int]) -> tuple[int, int]:
        """``(fixed, per_member)`` such that m members of the given widths cost ``fixed + m · per_member``.

        ``parameters`` counts every trainable number; ``flops`` counts multiply–accumulate operations for one input.
        """

    @property
    @abstractmethod
    def counted_layers(self) -> range:
        """Indices of the weight layers whose fan-in enters s(n)."""

    @abstractmethod
    def repeated_channels(self, shape: tuple[int, ...]) -> int | None:
        """The channels to which grey images of ``shape`` are repeated; None where samples are taken as they are.

        Raises ``SampleMismatch`` where the network does not take samples of this shape.
        """

    @abstractmethod
    def arguments(self, widths: Sequence[int], multiplicity: int) -> dict[str, Any]:
        """Keyword arguments of the family's module for m members of the given widths: JSON-able, kept in checkpoints.

        The module has exactly ``count("parameters", widths, multiplicity)`` parameters.
        """

    def count(self, measure: Measure, widths: Sequence[int], multiplicity: int) -> int:
        """Parameters or FLOPs of the whole network with ``multiplicity`` members of the given widths."""
        fixed, per_member = self.affine(measure, widths)
        return fixed + multiplicity * per_member

    def affine_costs(self, measure: Measure, members: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, int], ...]:
        """``affine`` of each of ``members``; those asked for last are kept, as a search solves for them repeatedly."""
        before, costs = self._last_costs.get(measure, ((), ()))
        if before != members:
            costs = tuple(self.affine(measure, member) for member in members)
            self._last_costs[measure] = members, costs
        return costs

    @cached_property
    def _last_costs(self) -> dict[Measure, tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, int], ...]]]:
        return {}

    #: Whether it is the description of a module: its branches, and what is fixed around them.
    is_described: ClassVar[bool] = False

    @property
    def not_built(self) -> str | None:
        """Why the service cannot build the network's module, to train it and to measure it; None where it can."""
        return None

    @property
    def parts(self) -> tuple[Network, ...]:
        """The network once for each of its parts that are grouped apart, the largest first; itself where there is one.

        In each, what belongs to the others is fixed.
        """
        return (self,)

    @property
    def names(self) -> tuple[str, ...]:
        """What of a network is regrouped, where it is one part of several."""
        return ()

    def modules(self, stages: Sequence[StageGrouping]) -> tuple[tuple[Any, StageGrouping], ...]:
        """What of a described network changes where its stages are grouped so: module paths with a grouping each."""
        return ()

    @property
    def unsearched(self) -> tuple[str, ...]:
        """Why some of the network's layers are left as they are, one sentence for each."""
        return ()

    @property
    def could_be_split(self) -> bool:
        """Whether some of the layers that are left as they are could be split, but their kernel is not known here."""
        return False

    @property
    def rounding_share(self) -> float:
        """This part's share of the tolerance by which rounding may exceed the baseline's cost."""
        return 1.0

    @property
    def separable(self) -> bool:
        """Whether each stage can be grouped in its own way; always so where there is one.

        A family of several stages that returns True overrides ``stage_cost``, ``arguments_of`` and ``features_of``.
        """
        return len(self.stage_scales) == 1

    def stage_groupings(self, widths: Sequence[int], multiplicity: int) -> tuple[StageGrouping, ...]:
        """m members of the first stage's ``widths``, scaled with every stage, as one entry for each stage."""
        return tuple(
            StageGrouping(tuple(scale * width for width in widths), multiplicity) for scale in self.stage_scales
        )

    def tied(self, stages: Sequence[StageGrouping]) -> tuple[tuple[int, ...], int] | None:
        """The m × n, widths first, of which ``stages`` are the ``stage_groupings``; None where there is none."""
        scale, (first, *_) = self.stage_scales[0], self._checked(stages)
        widths = tuple(width // scale for width in first.widths)
        return (
            (widths, first.multiplicity) if self.stage_groupings(widths, first.multiplicity) == tuple(stages) else None
        )

    def fixed_cost(self, measure: Measure) -> int:
        """What no grouping changes, such as a residual network's stem, shortcuts and head."""
        return self.affine(measure, self.baseline)[0]

    def stage_cost(self, measure: Measure, stage: int, widths: Sequence[int]) -> int:
        """Cost of one member with these absolute widths in the stage of that index.

        Raises ``ValueError`` where the network is not ``separable``.
        """
        self._require_separable()
        return self.affine(measure, widths)[1]

    def count_stages(self, measure: Measure, stages: Sequence[StageGrouping]) -> int:
        """Parameters or FLOPs of the whole network whose stages are grouped so.

        >>> from collegium.search.networks.build import build_network
        >>> from collegium.search.spec import PresetBaseline
        >>> network = build_network(PresetBaseline(preset="resnet50"))
        >>> own = [StageGrouping((n, n), m) for m, n in [(11, 7), (10, 14), (20, 14), (17, 31)]]
        >>> network.count_stages("parameters", own)
        15493916
        """
        found = self.tied(stages)
        if found is not None:
            return self.count(measure, *found)
        members = (each.multiplicity * self.stage_cost(measure, s, each.widths) for s, each in enumerate(stages))
        return self.fixed_cost(measure) + sum(members)

    def arguments_of(self, stages: Sequence[StageGrouping]) -> dict[str, Any]:
        """Keyword arguments of the family's module whose stages are grouped so, as ``arguments`` gives for one m × n.

        Raises ``ValueError`` where the network is not ``separable`` and the stages are not those of one m × n.
        """
        return self.arguments(*self._tied_alone(stages))

    def features_of(self, stages: Sequence[StageGrouping]) -> int:
        """Numbers that the forward pass of one sample keeps for the backward pass.

        Raises ``ValueError`` as ``arguments_of`` does.
        """
        return sum(footprint.kept for footprint in self.footprints(stages))

    def footprints(self, stages: Sequence[StageGrouping], size: int | None = None) -> tuple[Footprint, ...]:
        """The memory of the network's parts in the order in which they run; ``size`` as for ``sample_shape``.

        Those of its segments, or of the layers of its chain, each of whose maps is kept twice.
        """
        parts = self.segments(stages, size)
        if parts:
            return footprints_of(parts)
        widths, multiplicity = self._tied_alone(stages)
        parameters = self.count("parameters", widths, multiplicity)
        return chain_footprints(self.chain, widths, multiplicity, parameters=parameters, copies=2)

    def segments(self, stages: Sequence[StageGrouping], size: int | None = None) -> list[Repeated]:
        """Parts that are timed and whose memory is counted, in the order in which they run.

        ``size`` as for ``sample_shape``. Empty where the network is one segment as a whole, as here.
        """
        return []

    def stage_segments(self, stage: int, grouping: StageGrouping, size: int | None = None) -> list[Repeated]:
        """The segments of the stage of that index, which this grouping determines whatever those of other stages."""
        stages = list(self.stage_groupings(self.baseline, self.multiplicity))
        stages[stage] = grouping
        return [part for part in self.segments(stages, size) if part.stage == stage]

    def title_of(self, stages: Sequence[StageGrouping]) -> str:
        """The network in a few words, such as ``11×7, 10×14, 20×14, 17×31 of ResNet-50 1×64d (imagenet)``."""
        found = self.tied(stages)
        return f"{', '.join(map(str, stages))} of {self.title}" if found is None else self.title_at(*found)

    def _tied_alone(self, stages: Sequence[StageGrouping]) -> tuple[tuple[int, ...], int]:
        found = self.tied(stages)
        if found is None:
            self._require_separable()
            raise TypeError(f"{type(self).__name__} is separable, and must override 'arguments_of' and 'features_of'")
        return found

    def _checked(self, stages: Sequence[StageGrouping]) -> Sequence[StageGrouping]:
        if len(stages) != len(self.stage_scales):
            raise ValueError(
                f"this network has {counted(len(self.stage_scales), 'stage')}, and groupings are given for "
                f"{len(stages)}"
            )
        return stages

    def _require_separable(self) -> None:
        if not self.separable:
            raise ValueError(f"the stages of {self.title} cannot be grouped each in its own way")

    def inverse_fan_in_sum(self, widths: Sequence[int]) -> float:
        """s(n) = Σ_l 1 / fan_in_l (Littwin et al. 2020, Eq. 9 and section 4.2), constant terms kept."""
        fan_ins = self.chain.fan_ins(widths)
        return sum(1.0 / fan_ins[index] for index in self.counted_layers)

    def scaled(self, width: int) -> tuple[int, ...]:
        """The width vector in which all free widths share the ratio ``width / ñ_1``; each at least 1."""
        ratio = width / self.baseline[0]
        return tuple(max(1, round(ratio * value)) for value in self.baseline)

    @property
    def width_grains(self) -> tuple[int, ...]:
        """What each free width must be a multiple of: groups inside of a member divide it."""
        return self.chain.width_grains

    @property
    def stage_scales(self) -> tuple[int, ...]:
        """By how much the widths of one member are multiplied in each stage; the chain is the first stage's module.

        A stage's module is the same chain at scaled widths: what is fixed of a chain's channels does not enter r.
        """
        return (1,)

    @property
    def subject(self) -> str:
        """What the variance of an answer is the variance of."""
        return "the whole network's kernel at initialization"

    @property
    def has_subject(self) -> bool:
        """False where the chain stands for nothing, as no branch of a described network can be searched."""
        return True

    @property
    def grouping_matters(self) -> bool:
        """False for a single hidden layer: m members of width n *are* one layer of width m·n."""
        return len(self.chain.layers) > 2

    @property
    def activations(self) -> str:
        """Those of its hidden layers, such as ``gelu`` or ``relu and elu(1)``."""
        return " and ".join(dict.fromkeys(str(layer.phi) for layer in self.chain.layers[:-1]))

    @property
    def convolves(self) -> bool:
        """Whether any layer is a convolution, so that the memory layout of images matters."""
        return any(layer.kind == "conv" for layer in self.chain.layers)

    def features_per_sample(self, widths: Sequence[int], multiplicity: int) -> int:
        """Numbers that the forward pass of one sample keeps for the backward pass."""
        return self.features_of(self.stage_groupings(widths, multiplicity))

    def title_at(self, widths: Sequence[int], multiplicity: int) -> str:
        """The network of m members of the given widths in a few words."""
        if (tuple(widths), multiplicity) == (self.baseline, self.multiplicity):
            return self.title
        return f"{multiplicity} × {'·'.join(map(str, widths))} of {self.title}"

    #: Whether images of any extent are taken, as where maps are averaged before the head.
    any_extent: ClassVar[bool] = False

    def sample_shape(self, size: int | None = None) -> tuple[int, int, int]:
        """Shape of one input, ``(channels, height, width)``; ``size`` is the extent of square images.

        Raises ``ValueError`` for a ``size`` that the network does not take.
        """
        own = (self.chain.channels, self.chain.height, self.chain.width)
        if size is not None and own[1:] != (size, size):
            raise ValueError(f"this network takes inputs of shape {own} alone")
        return own

    @property
    def outputs(self) -> int:
        """Logits that the network gives."""
        return self.chain.shapes(self.baseline)[-1][0]

    @property
    def reads(self) -> tuple[Input, ...]:
        """What one sample consists of, where that is not one tensor of numbers."""
        return ()

    def logits_at(self, position: Position | None) -> tuple[int, Position | None]:
        """How many numbers it gives at one place, and that place where its output is a map or a sequence of tokens."""
        return self.outputs, None

    @property
    def draws_apart(self) -> bool:
        """Whether draws of its parameters are computed one by one: several at once would be slow, or cannot be."""
        return self.convolves

    def with_outputs(self, outputs: int) -> Self:
        """The same network with a head for ``outputs`` classes."""
        *layers, head = self.chain.layers
        return replace(self, chain=replace(self.chain, layers=(*layers, replace(head, out=outputs))))

    def with_samples(self, shape: tuple[int, ...]) -> Network:
        """The network for samples of this shape, where it has other sizes for them; itself where it has not.

        Raises ``SampleMismatch`` where it does not hold together for them.
        """
        return self

    def stem(self, channels: int) -> Stem | None:
        """The stem between images of so many channels and the chain; None where the chain takes the images' own."""
        return None if channels == self.chain.channels else Stem()
