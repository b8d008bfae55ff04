"""The segments of a residual network: its stem, each distinct block, and its head, for images of any extent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from collegium.search.networks.footprint import Footprint
from collegium.search.networks.segment import Repeated, Segment

#: Bytes of one position of a maximum, as max-pooling keeps them for the backward pass.
INDEX_BYTES = 8
#: Parameters and running moments of a batch norm for each channel.
NORM, MOMENTS = 2, 2


def residual_segments(arguments: Mapping[str, Any], kernels: Sequence[int], strided: int, size: int) -> list[Repeated]:
    """Stem, blocks and head in order, from the arguments of ``ResNet``, for images of ``size`` × ``size``.

    ``kernels`` are those of a block's convolutions, the one at index ``strided`` carrying its stride.
    """
    stem, size = _stem(arguments["stem_kernel"], arguments["stem_channels"], size)
    found = [Repeated(stem, 1)]
    groups = arguments["groups"]
    members = [groups] * len(arguments["stages"]) if isinstance(groups, int) else groups
    for index, (blocks, paths) in enumerate(zip(arguments["stages"], members, strict=True)):
        described = [{"kind": arguments["block"], "groups": paths, **block} for block in blocks]
        parts, size = stage_segments(described, kernels, strided, size, index)
        found += parts
    features = arguments["stages"][-1][-1]["outputs"]
    return [*found, Repeated(_head(features, arguments["classes"], size), 1)]


def stage_segments(
    blocks: Sequence[Mapping[str, Any]], kernels: Sequence[int], strided: int, size: int, index: int
) -> tuple[list[Repeated], int]:
    """The distinct blocks of one stage, from a map of ``size`` × ``size``, and the extent of the map after them."""
    below = blocks[0]["inputs"] * size**2 if len(blocks) > 1 else 0
    found = []
    for block, equal in groupby(blocks):  # a block with a stride differs from the next one
        found.append(Repeated(_block(block, kernels, strided, size, below), len(list(equal)), index))
        size = -(-size // block["stride"])
    return found, size


def _stem(kernel: int, channels: int, size: int) -> tuple[Segment, int]:
    """Convolution, norm, rectifier, and the extent after them; of stride 2, and a max-pool, where the kernel is 7."""
    pooled = kernel == 7
    stride = 2 if pooled else 1
    convolved = -(-size // stride)
    out = -(-convolved // 2) if pooled else convolved
    layers: list[Any] = [
        ["Conv2d", [3, channels, kernel], {"stride": stride, "padding": kernel // 2, "bias": False}],
        ["BatchNorm2d", [channels], {}],
        ["ReLU", [], {"inplace": True}],
    ]
    if pooled:
        layers.append(["MaxPool2d", [3], {"stride": 2, "padding": 1}])
    image, wide, narrow = 3 * size**2, channels * convolved**2, channels * out**2
    segment = Segment.of(
        "collegium.search.latency.modules:sequence",
        {"layers": layers},
        (3, size, size),
        Footprint(
            3 * kernel**2 * channels + NORM * channels,
            buffers=MOMENTS * channels,
            kept=image + 2 * wide + (narrow if pooled else 0),
            live=image + 2 * wide,
            transient=2 * wide,
            index_bytes=INDEX_BYTES * narrow if pooled else 0,
        ),
        leading=True,
    )
    return segment, out


def _block(described: Mapping[str, Any], kernels: Sequence[int], strided: int, size: int, below: int) -> Segment:
    """One residual block on a map of ``size`` × ``size``; the ``below`` numbers of its stage's input are held as well.

    A convolution keeps its input, which is the rectified output before it, and a norm keeps the convolution's output.
    """
    inputs, outputs, stride = described["inputs"], described["outputs"], described["stride"]
    widths = (*described["widths"], outputs)
    projected = inputs != outputs or stride != 1
    extents = [size if index < strided else -(-size // stride) for index in range(len(kernels))]
    maps = [width * extent**2 for width, extent in zip(widths, extents, strict=True)]
    own, out = inputs * size**2, maps[-1]
    held = own + (out if projected else below)
    live = max(held + before + 2 * after for before, after in zip([0, *maps[:-1]], maps, strict=True))
    return Segment.of(
        "collegium.train.models.residual:residual_block",
        described,
        (inputs, size, size),
        Footprint(
            _weights(described, kernels, widths) + (inputs * outputs + NORM * outputs if projected else 0),
            buffers=MOMENTS * (sum(widths) + (outputs if projected else 0)),
            kept=2 * sum(maps) + (out if projected else 0),
            live=max(live, own + 2 * out if projected else 0),
            transient=out + max(before + after for before, after in zip([own, *maps[:-1]], maps, strict=True)),
        ),
    )


def _weights(described: Mapping[str, Any], kernels: Sequence[int], widths: Sequence[int]) -> int:
    """Parameters of the branch with its norms; layers between free widths are grouped."""
    total, below, last = 0, described["inputs"], len(kernels) - 1
    for index, (kernel, width) in enumerate(zip(kernels, widths, strict=True)):
        groups = described["groups"] if 0 < index < last else 1
        total += below // groups * kernel**2 * width + NORM * width
        below = width
    return total


def _head(features: int, classes: int, size: int) -> Segment:
    """Global average and linear layer."""
    layers: list[Any] = [["AdaptiveAvgPool2d", [[1, 1]], {}], ["Flatten", [], {}], ["Linear", [features, classes], {}]]
    own = features * size**2
    return Segment.of(
        "collegium.search.latency.modules:sequence",
        {"layers": layers},
        (features, size, size),
        Footprint(
            (features + 1) * classes,
            kept=features + classes,
            live=own + features + classes,
            transient=own + features + classes,
        ),
    )
