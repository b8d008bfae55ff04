"""A network as a graph of known layers and operations: plain data, from which a service builds it.

Shapes are written with the batch in them: a negative size -k is k times the batch, so that ``(-1, 3, 32, 32)`` is a
batch of images and ``(-64, 49, 96)`` are the 64 windows of each of its samples.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from collegium.search.fields import Strict, Width
from collegium.search.networks.graph.content import LARGEST, MAX_CONSTANTS, ConstantLayer, Input
from collegium.search.networks.graph.law import Law, Place
from collegium.search.networks.graph.recurrent import RecurrentLayer

MAX_NODES = 4096
#: The most results that all nodes together read.
MAX_READS = 16 * MAX_NODES
#: The most axes of a tensor.
MAX_AXES = 8
Size = Annotated[int, Field(ge=1, le=10**9)]
Padded = Annotated[int, Field(ge=0, le=10**9)]
Sizes = Annotated[tuple[Size, ...], Field(min_length=1, max_length=3, strict=False)]
Paddings = Annotated[tuple[Padded, ...], Field(min_length=1, max_length=3, strict=False)]
Whole = Annotated[int, Field(ge=-(10**9), le=10**9)]


class ConvLayer(Strict):
    """A convolution of one to three dimensions; ``transposed`` ones have an ``output_padding``."""

    kind: Literal["conv"]
    path: Place
    inputs: Width
    outputs: Width
    kernel: Sizes
    stride: Sizes
    padding: Paddings
    dilation: Sizes
    groups: Width = 1
    transposed: bool = False
    output_padding: Paddings | None = None
    weight: Law
    bias: Law | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> ConvLayer:
        if self.transposed != (self.output_padding is not None):
            raise ValueError("output_padding is expected where 'transposed' is true, and there alone")
        sizes = [self.kernel, self.stride, self.padding, self.dilation, self.output_padding or self.kernel]
        if len({len(each) for each in sizes}) > 1:
            raise ValueError("kernel, stride, padding and dilation must have one size for each dimension")
        if self.inputs % self.groups or self.outputs % self.groups:
            raise ValueError(f"groups must divide inputs {self.inputs} and outputs {self.outputs}")
        for step, wide, extra in zip(self.stride, self.dilation, self.output_padding or (), strict=False):
            if extra >= max(step, wide):
                raise ValueError("output_padding must be below the stride or the dilation")
        return self


class LinearLayer(Strict):
    """A linear layer along the last axis; with ``groups`` it is block-diagonal."""

    kind: Literal["linear"]
    path: Place
    inputs: Width
    outputs: Width
    groups: Width = 1
    weight: Law
    bias: Law | None = None

    @model_validator(mode="after")
    def _groups_divide(self) -> LinearLayer:
        if self.inputs % self.groups or self.outputs % self.groups:
            raise ValueError(f"groups must divide inputs {self.inputs} and outputs {self.outputs}")
        return self


class NormLayer(Strict):
    """A norm of ``channels``: the second axis, or of ``layer`` and ``rms`` the last one.

    ``dimensions`` are those of the maps that a batch or instance norm reads, 1 also where it reads no map. ``groups``
    are those of a group norm, or of a ``layer`` or ``rms`` norm over each member alone. ``momentum`` is that of running
    moments, None where they are the plain mean of all batches; ``tracked`` is false where there are none.
    """

    kind: Literal["norm"]
    path: Place
    norm: Literal["batch", "instance", "group", "layer", "rms"]
    channels: Width
    dimensions: Annotated[int, Field(ge=1, le=3)] = 1
    groups: Width = 1
    epsilon: Annotated[float, Field(ge=0, le=1)]
    momentum: Annotated[float, Field(ge=0, le=1)] | None = None
    tracked: bool = True
    weight: Law | None = None
    bias: Law | None = None

    @model_validator(mode="after")
    def _holds_together(self) -> NormLayer:
        if self.channels % self.groups:
            raise ValueError(f"groups must divide channels {self.channels}")
        if self.groups > 1 and self.norm in ("batch", "instance"):
            raise ValueError("groups are those of group, layer and rms norms alone")
        if self.norm == "rms" and self.bias is not None:
            raise ValueError("an rms norm has no bias")
        if self.norm in ("batch", "instance") and self.epsilon == 0:
            raise ValueError("epsilon must be above 0 in a batch or instance norm")
        if self.norm == "instance" and self.tracked:
            raise ValueError("tracked must be false: instance norms here have no running moments")
        return self


class ParameterLayer(Strict):
    """A parameter that belongs to no layer, such as a class token: read by nodes ``parameter`` of its path.

    ``zero_rows`` of it start at zero, as the row of padding in a table of embeddings does, and the rest by its law.
    """

    kind: Literal["parameter"]
    path: Place
    shape: Annotated[tuple[Size, ...], Field(max_length=MAX_AXES, strict=False)]
    weight: Law
    zero_rows: Annotated[
        tuple[Padded, ...], Field(max_length=MAX_AXES, strict=False, exclude_if=lambda rows: not rows)
    ] = ()

    @model_validator(mode="after")
    def _has_its_rows(self) -> ParameterLayer:
        if any(row >= size for row in self.zero_rows for size in self.shape[:1] or (0,)):
            raise ValueError(f"zero_rows must be rows of the shape {self.shape}, along its first axis")
        return self


GraphLayer = Annotated[
    ConvLayer | LinearLayer | NormLayer | RecurrentLayer | ParameterLayer | ConstantLayer,
    Field(discriminator="kind"),
]
Option = (
    bool
    | Annotated[int, Field(ge=-(10**9), le=10**9)]
    | Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
    | Annotated[str, Field(max_length=16)]
    | Annotated[tuple[Whole, ...], Field(max_length=2 * MAX_AXES, strict=False)]
)


class Node(Strict):
    """One operation. It reads the results of earlier nodes by their index + 1; 0 is the network's input.

    ``layer`` is the path of the layer that it applies, or of the parameter or constant that it is. ``options`` are
    those of its operation (docs/describe.md lists them).
    """

    op: Annotated[str, Field(max_length=32, pattern=r"^[a-z0-9_]+$")]
    reads: Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_NODES)], ...], Field(max_length=256, strict=False)] = ()
    layer: Place | None = None
    options: Annotated[dict[Annotated[str, Field(max_length=32)], Option], Field(max_length=8)] = Field(
        default_factory=dict
    )


class Graph(Strict):
    """The whole network: its layers by path, and its operations in order; the last one gives the output.

    Layers that several nodes name are shared. ``tied`` are pairs of parameters, the second of which is the first.
    ``inputs`` are what the network reads, where that is not one tensor of numbers: the first has the shape of a sample,
    and the others are read by nodes ``input``.
    """

    layers: Annotated[tuple[GraphLayer, ...], Field(max_length=MAX_NODES, strict=False)]
    nodes: Annotated[tuple[Node, ...], Field(min_length=1, max_length=MAX_NODES, strict=False)]
    tied: Annotated[
        tuple[Annotated[tuple[Place, Place], Field(strict=False)], ...], Field(max_length=256, strict=False)
    ] = ()
    inputs: Annotated[tuple[Input, ...], Field(max_length=16, strict=False)] = ()

    @field_validator("layers")
    @classmethod
    def _constants_are_small(cls, layers: tuple[Any, ...]) -> tuple[Any, ...]:
        numbers = sum(math.prod(layer.shape) for layer in layers if isinstance(layer, ConstantLayer))
        if numbers > MAX_CONSTANTS:
            raise ValueError(f"its constants have {numbers} numbers, and {MAX_CONSTANTS} are the most")
        return layers

    @field_validator("nodes")
    @classmethod
    def _reads_are_few(cls, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        reads = sum(len(node.reads) for node in nodes)
        if reads > MAX_READS:
            raise ValueError(f"they read {reads} results altogether, and {MAX_READS} are the most")
        return nodes

    @field_validator("layers")
    @classmethod
    def _paths_are_apart(cls, layers: tuple[Any, ...]) -> tuple[Any, ...]:
        taken: set[str] = set()
        for layer in layers:
            if layer.path in taken:
                raise ValueError(f"two layers are called {layer.path!r}")
            taken.add(layer.path)
        for path in taken:
            above, _, _ = path.rpartition(".")
            while above:
                if above in taken:
                    raise ValueError(f"{path!r} cannot be inside of the layer {above!r}")
                above, _, _ = above.rpartition(".")
        return layers
