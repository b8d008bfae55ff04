"""Random modules of everything that users write: norms, pools, loops, hooks, containers, and code that reads shapes.

Blocks keep a map ``(samples, channels, *extents)`` of one to three dimensions. Nothing is known of which of their
widths are free: what is described must be true, whatever it is.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

ACTIVATIONS: list[Callable[[], nn.Module]] = [
    nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.ReLU6, nn.Hardswish, nn.Mish, nn.SELU, nn.Sigmoid, nn.Softplus,
    nn.Identity, nn.Softsign, nn.Tanhshrink, nn.LogSigmoid, nn.PReLU, partial(nn.ReLU, inplace=True),
    partial(nn.LeakyReLU, 0.1), partial(nn.GELU, "tanh"), partial(nn.ELU, 0.7), partial(nn.RReLU, 0.1, 0.3),
]  # fmt: skip
CONVOLUTIONS: list[Any] = [nn.Conv1d, nn.Conv2d, nn.Conv3d]
TRANSPOSED: list[Any] = [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d]
BATCH_NORMS: list[Any] = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d]
INSTANCE_NORMS: list[Any] = [nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d]
MAX_POOLS: list[Any] = [nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d]
AVERAGE_POOLS: list[Any] = [nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d]
DROPOUTS: list[Any] = [nn.Dropout1d, nn.Dropout2d, nn.Dropout3d]


class Applied(nn.Module):
    """A function of itself and a map; its layers by name."""

    def __init__(self, function: Callable[..., Any], **layers: Any) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Place:
    """Where a block stands: its dimensions, channels, and the random numbers that decide."""

    def __init__(self, draw: random.Random, dimensions: int, channels: int, extents: tuple[int, ...]) -> None:
        self.draw, self.dimensions, self.channels, self.extents = draw, dimensions, channels, extents

    def conv(self, inputs: int, outputs: int, groups: int = 1) -> nn.Module:
        kernel, wide = self.draw.choice([1, 1, 3]), self.draw.randint(1, 2)
        options: dict[str, Any] = {"bias": self.draw.random() < 0.6, "groups": groups, "dilation": wide}
        mode = self.draw.choice(["zeros", "zeros", "zeros", "replicate"])
        padding = self.draw.choice(["same", wide * (kernel - 1) // 2])
        return CONVOLUTIONS[self.dimensions - 1](inputs, outputs, kernel, padding=padding, padding_mode=mode, **options)

    def norm(self, width: int) -> nn.Module:
        groups = self.draw.choice([each for each in range(1, width + 1) if width % each == 0])
        place, affine = self.dimensions - 1, self.draw.random() < 0.7
        return self.draw.choice(
            [
                lambda: BATCH_NORMS[place](width, affine=affine, track_running_stats=self.draw.random() < 0.8),
                lambda: INSTANCE_NORMS[place](width, affine=affine),
                lambda: nn.GroupNorm(groups, width, affine=affine),
                nn.Identity,
                nn.Identity,
            ]
        )()

    def pool(self) -> nn.Module:
        place = self.dimensions - 1
        return self.draw.choice(
            [
                lambda: MAX_POOLS[place](3, 1, 1),
                lambda: AVERAGE_POOLS[place](3, 1, 1, count_include_pad=self.draw.random() < 0.5),
                lambda: DROPOUTS[place](0.2),
                lambda: nn.Dropout(0.2),
                *[nn.Identity] * 6,
            ]
        )()

    def width(self) -> int:
        return self.draw.choice([1, 2, 3, 4, 6, 8])

    def widths(self, most: int = 4) -> list[int]:
        return [self.channels, *(self.width() for _ in range(self.draw.randint(0, most))), self.channels]

    def between(self, width: int) -> list[nn.Module]:
        made = [self.norm(width), self.draw.choice(ACTIVATIONS)(), self.pool()]
        if self.draw.random() < 0.2:
            made[0], made[1] = made[1], made[0]
        return made

    def layers(self, widths: list[int]) -> list[nn.Module]:
        found: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            inner = 0 < index < len(widths) - 2
            common = [each for each in range(1, inputs + 1) if inputs % each == 0 == outputs % each]
            groups = self.draw.choice(common) if inner and self.draw.random() < 0.3 else 1
            found.append(self.conv(inputs, outputs, groups))
            found += self.between(outputs) if index < len(widths) - 2 else []
        return found

    def tokens(self, widths: list[int]) -> list[nn.Module]:
        found: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(pairwise(widths)):
            found.append(nn.Linear(inputs, outputs, bias=self.draw.random() < 0.7))
            if index < len(widths) - 2:
                affine = self.draw.random() < 0.7
                norms = [
                    lambda n=outputs, a=affine: nn.LayerNorm(n, elementwise_affine=a),
                    lambda n=outputs: nn.RMSNorm(n),
                ]
                found.append(self.draw.choice([*norms, nn.Identity, nn.Identity])())
                found += [self.draw.choice(ACTIVATIONS)(), nn.Dropout(0.1)]
        return found


def as_tokens(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return function(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


def chain(place: Place) -> nn.Module:
    inner = nn.Sequential(*place.layers(place.widths()))
    for parameter in inner.parameters() if place.draw.random() < 0.2 else ():
        parameter.requires_grad_(place.draw.random() < 0.5)
    return inner


def dense(place: Place) -> nn.Module:
    inner = nn.Sequential(*place.tokens(place.widths()))
    if place.draw.random() < 0.5:
        return Applied(lambda own, x: own.inner(x.movedim(1, -1)).movedim(-1, 1), inner=inner)
    return Applied(lambda own, x: as_tokens(own.inner, x), inner=inner)


def flat(place: Place) -> nn.Module:
    """Convolutions, a flat map of theirs, linear layers."""
    width = place.draw.choice([place.channels, place.width()])
    size = width * torch.Size(place.extents).numel()
    first = place.layers([place.channels, *[place.width()] * place.draw.randint(0, 1), width])
    last = place.tokens([size, place.width(), place.width(), place.channels])
    ones = [1] * place.dimensions
    inner = nn.Sequential(*first, nn.ReLU(), nn.Flatten(), *last)
    return Applied(lambda own, x: x + own.inner(x).view(*x.shape[:2], *ones), inner=inner)


def loop(place: Place) -> nn.Module:
    """Counts its calls, and keeps what it has computed."""

    def function(own: Any, x: Tensor) -> Tensor:
        for layer in own.layers:
            x = layer(x)
            own.calls += 1
        own.kept = x
        return x * 1

    made: Any = Applied(function, layers=nn.ModuleList(place.layers(place.widths())))
    made.calls = 0
    return made


def region(place: Place) -> nn.Module:
    """In a narrower type, or without gradients."""
    kind = place.draw.choice([torch.no_grad, partial(torch.autocast, "cpu", torch.bfloat16)])

    def function(own: Any, x: Tensor) -> Tensor:
        with kind():
            y = own.inner(x)
        return y.float()

    return Applied(function, inner=chain(place))


#: Code that reads shapes, layers or sizes, of an inner map ``h``: some of it keeps widths free, some does not.
READING: list[Callable[[Any, Tensor], Tensor]] = [
    lambda own, h: h.reshape(h.shape[0], h.shape[1], -1).reshape(h.shape),
    lambda own, h: h * h.shape[1] ** -0.5,
    lambda own, h: h / h.size(1),
    lambda own, h: h * h[0].numel(),
    lambda own, h: h.flatten(2).unflatten(2, h.shape[2:]),
    lambda own, h: h.view(h.shape[0], -1, *h.shape[2:]),
    lambda own, h: torch.tanh(h) if h.shape[1] > 4 else torch.relu(h),
    lambda own, h: torch.cat(h.chunk(2, 1), 1),
    lambda own, h: torch.cat(h.split(max(1, h.shape[1] // 2), 1), 1),
    lambda own, h: h + torch.zeros(h.shape[1]).view(1, -1, *[1] * (h.dim() - 2)),
    lambda own, h: h * torch.ones(h.shape[1]).sum(),
    lambda own, h: h * own.first.out_channels,
    lambda own, h: h * own.first.weight.shape[0],
    lambda own, h: functional.layer_norm(h, h.shape[1:]),
    lambda own, h: functional.group_norm(h, 1),
    lambda own, h: functional.normalize(h, dim=1),
    lambda own, h: h.expand(-1, h.shape[1], *[-1] * (h.dim() - 2)),
    lambda own, h: h * h.shape[0],
    lambda own, h: h if h.shape[0] > 2 else -h,
    lambda own, h: h * h.shape[-1] ** -0.5,
    lambda own, h: h.permute(0, *range(2, h.dim()), 1).contiguous().permute(0, h.dim() - 1, *range(1, h.dim() - 1)),
    lambda own, h: h.view(h.shape[0], 1, h.shape[1], -1).transpose(1, 2).reshape(h.shape),
    lambda own, h: h.roll(1, 1),
    lambda own, h: h.flip(1),
    lambda own, h: h - h.mean(1, keepdim=True),
    lambda own, h: h - h.flatten(2).mean(-1).unflatten(-1, (h.shape[1], *[1] * (h.dim() - 2))),
    lambda own, h: h.double().mul_(2.0).float(),
    lambda own, h: h.squeeze().view(h.shape) if h.shape[1] > 1 else h,
    lambda own, h: torch.einsum("nc...->nc...", h),
    lambda own, h: torch.where(h > 0, h, 0.1 * h),
    lambda own, h: h * torch.sigmoid(1.702 * h),
    lambda own, h: functional.pad(h, (1, 1))[..., 1:-1],
    lambda own, h: torch.relu(h).detach() + h,
    lambda own, h: h.softmax(1),
    lambda own, h: checkpoint(torch.relu, h, use_reentrant=False),
]  # fmt: skip


def reading(place: Place) -> nn.Module:
    a, b = place.width(), place.width()
    code = place.draw.choice(READING)

    def function(own: Any, x: Tensor) -> Tensor:
        return own.third(torch.relu(own.second(code(own, torch.relu(own.first(x))))))

    layers = {
        "first": place.conv(place.channels, a),
        "second": place.conv(a, b),
        "third": place.conv(b, place.channels),
    }
    return Applied(function, **layers)


def joined(place: Place) -> nn.Module:
    how, meeting = place.draw.choice(["add", "mul", "cat", "stack", "max"]), place.width()
    paths = [[*place.widths(2)[:-1], meeting] for _ in range(2)]
    after = [2 * meeting if how == "cat" else meeting, *place.widths(2)[1:]]

    def function(own: Any, x: Tensor) -> Tensor:
        a, b = own.a(x), own.b(x)
        meet = {
            "add": lambda: a + b, "mul": lambda: a * b, "cat": lambda: torch.cat([a, b], 1),
            "stack": lambda: torch.stack([a, b]).sum(0), "max": lambda: torch.maximum(a, b),
        }  # fmt: skip
        return own.after(meet[how]())

    made = [nn.Sequential(*place.layers(each)) for each in (*paths, after)]
    return Applied(function, a=made[0], b=made[1], after=made[2])


def inner_skip(place: Place) -> nn.Module:
    width = place.width()
    layers = {
        "first": place.conv(place.channels, width),
        "inner": nn.Sequential(*place.layers([width, *place.widths()[1:-1], width])),
        "last": place.conv(width, place.channels),
    }

    def function(own: Any, x: Tensor) -> Tensor:
        h = torch.relu(own.first(x))
        return own.last(h + own.inner(h))

    return Applied(function, **layers)


def twice(place: Place) -> nn.Module:
    """Called twice, or once by the second of its names."""
    inner, times = chain(place), place.draw.randint(0, 1)
    return Applied(lambda own, x: own.again(own.inner(x) if times else x), inner=inner, again=inner)


def tied(place: Place) -> nn.Module:
    inner: Any = nn.Sequential(*place.tokens([place.channels] * 4))
    inner[0].weight = inner[-1].weight
    return Applied(lambda own, x: as_tokens(own.inner, x), inner=inner)


def separable(place: Place) -> nn.Module:
    a, times = place.width(), place.draw.randint(1, 2)
    layers = [place.conv(place.channels, a), *place.between(a), place.conv(a, times * a, a), *place.between(times * a)]
    rest = place.layers([times * a, *place.widths(2)[1:]])
    return nn.Sequential(*layers, *rest)


def strided(place: Place) -> nn.Module:
    """Halved and back by a transposed convolution, a resize or none."""
    inner = [place.width(), place.width()]
    made = CONVOLUTIONS[place.dimensions - 1](place.channels, inner[0], 3, 2, 1)
    up = TRANSPOSED[place.dimensions - 1](inner[1], place.channels, 2, 2)
    layers = {"down": nn.Sequential(made, *place.between(inner[0]), place.conv(*inner)), "up": up}
    layers["back"] = place.conv(inner[1], place.channels)
    transposed = place.draw.random() < 0.5

    def function(own: Any, x: Tensor) -> Tensor:
        h = torch.relu(own.down(x))
        y = own.up(h) if transposed else own.back(functional.interpolate(h, x.shape[2:]))
        return functional.interpolate(y, x.shape[2:])

    if transposed:
        del layers["back"]
    else:
        del layers["up"]
    return Applied(function, **layers)


def squeezed(place: Place) -> nn.Module:
    """A gate by the means of whole maps."""
    widths = place.widths(3)
    inner = nn.Sequential(*place.tokens(widths), nn.Sigmoid())
    ones = [1] * place.dimensions
    return Applied(lambda own, x: x * own.inner(x.flatten(2).mean(-1)).view(*x.shape[:2], *ones), inner=inner)


def attention(place: Place) -> nn.Module:
    heads = place.draw.choice([each for each in range(1, place.channels + 1) if place.channels % each == 0])
    own = nn.MultiheadAttention(place.channels, heads, batch_first=True)
    return Applied(lambda module, x: as_tokens(lambda t: module.own(t, t, t)[0], x), own=own)


def transformer(place: Place) -> nn.Module:
    layer = nn.TransformerEncoderLayer(
        place.channels, 1, place.width(), batch_first=True, norm_first=place.draw.random() < 0.5
    )
    return Applied(lambda own, x: as_tokens(own.layer, x), layer=layer)


def recurrent(place: Place) -> nn.Module:
    kind = place.draw.choice([nn.LSTM, nn.GRU, nn.RNN])
    width = place.width()
    layers = {"cell": kind(place.channels, width, batch_first=True), "out": nn.Linear(width, place.channels)}
    return Applied(lambda own, x: as_tokens(lambda t: own.out(own.cell(t)[0]), x), **layers)


def parametrized(place: Place) -> nn.Module:
    inner = nn.Sequential(*place.layers([place.channels, place.width(), place.width(), place.channels]))
    convolutions = [each for each in inner if isinstance(each, tuple(CONVOLUTIONS))]
    nn.utils.parametrizations.weight_norm(place.draw.choice(convolutions))
    return inner


def doubled(module: nn.Module, args: Any, result: Tensor) -> Tensor:
    return result * 2


def hooked(place: Place) -> nn.Module:
    inner = nn.Sequential(*place.layers([place.channels, place.width(), place.width(), place.channels]))
    layer = place.draw.choice(list(inner))
    which = place.draw.randrange(4)
    if which == 0:
        layer.register_forward_hook(doubled)
    elif which == 1:
        layer.register_forward_hook(lambda module, args, kwargs, result: result * result.shape[1], with_kwargs=True)
    elif which == 2:
        layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    else:
        layer.register_forward_hook(lambda module, args, result: None, always_call=True)
    return inner


def buffered(place: Place) -> nn.Module:
    width = place.width()
    inner = nn.Sequential(*place.layers([place.channels, place.width(), width]))
    made = Applied(
        lambda own, x: own.last(torch.relu(own.inner(x)) * own.scale),
        inner=inner,
        last=place.conv(width, place.channels),
    )
    made.register_buffer("scale", torch.rand(place.draw.choice([1, width]), *[1] * place.dimensions))
    return made


def functional_weights(place: Place) -> nn.Module:
    a, b, c = place.width(), place.width(), place.channels
    weights = {"u": (c, a), "v": (a, b), "w": (b, c)}
    parameters = {name: nn.Parameter(torch.randn(shape)) for name, shape in weights.items()}
    return Applied(lambda own, x: as_tokens(lambda t: ((t @ own.u).relu() @ own.v).relu() @ own.w, x), **parameters)


def gated(place: Place) -> nn.Module:
    width = place.width()
    layers = [place.conv(place.channels, 2 * width), nn.GLU(1), place.conv(width, place.width())]
    outputs = layers[-1].out_channels
    return nn.Sequential(*layers, nn.ReLU(), place.conv(outputs, place.channels))  # type: ignore[arg-type]


def shuffled(place: Place) -> nn.Module:
    width = 2 * place.width()
    shuffle = nn.ChannelShuffle(2) if place.dimensions == 2 else nn.Identity()
    layers = [place.conv(place.channels, width), nn.ReLU(), shuffle, place.conv(width, width, 2), nn.ReLU()]
    return nn.Sequential(*layers, place.conv(width, place.channels))


def listed(place: Place) -> nn.Module:
    inner: Any = chain(place)
    made: Any = Applied(lambda own, x: own.called[0](x), inner=inner)
    made.called = [inner] if place.draw.random() < 0.5 else [lambda x: nn.Sequential(*inner)(x)]
    return made


def deciding(place: Place) -> nn.Module:
    """Stops a trace."""
    return Applied(lambda own, x: own.inner(x) if x.sum() < 1e9 else own.inner(-x), inner=chain(place))


KINDS: list[Callable[[Place], nn.Module]] = [
    chain, chain, dense, dense, reading, reading, reading, joined, inner_skip, twice, tied, separable, separable,
    strided, squeezed, flat, flat, attention, transformer, recurrent, loop, parametrized, hooked, region,
    region, buffered, functional_weights, gated, shuffled, listed, deciding,
]  # fmt: skip


class Network(nn.Module):
    """Blocks, each with a skip connection or without, a second input, and outputs in a container."""

    def __init__(self, blocks: list[nn.Module], skips: list[bool], side: nn.Module | None, head: nn.Module, form: str):
        super().__init__()
        self.blocks, self.skips, self.side, self.head, self.form = nn.ModuleList(blocks), skips, side, head, form

    def forward(self, x: Tensor, beside: Tensor | None = None) -> Any:
        if self.side is not None and beside is not None:
            added = self.side(beside)
            x = x + added.reshape(*added.shape, *[1] * (x.dim() - 2))
        for block, skip in zip(self.blocks, self.skips, strict=True):
            x = x + block(x) if skip else block(x)
        y = self.head(x.flatten(2).mean(-1))
        return {"tensor": y, "dict": {"logits": y, "map": x}, "list": [y, (x,)]}.get(self.form, y)


def made(seed: int) -> tuple[nn.Module, tuple[Tensor, ...], list[str]]:
    """A module, a batch of arguments for it, and the names of its blocks."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    dimensions, channels = draw.choice([1, 1, 2, 2, 3]), draw.randint(1, 6)
    extents = tuple(draw.choice([5, 6, 7]) for _ in range(dimensions))
    place = Place(draw, dimensions, channels, extents)
    kinds = [draw.choice(KINDS) for _ in range(draw.randint(1, 3))]
    side = nn.Sequential(*place.tokens([3, *place.widths()[1:]])) if draw.random() < 0.3 else None
    head = nn.Sequential(*place.tokens([channels, *place.widths(2)[1:-1], 3]))
    skips = [draw.random() < 0.6 for _ in kinds]
    form = draw.choice(["tensor", "tensor", "dict", "list"])
    model = Network([kind(place) for kind in kinds], skips, side, head, form).train(draw.random() < 0.5)
    batch = draw.choice([1, 2, 3]) if not model.training else draw.choice([2, 3])
    example = (torch.randn(batch, channels, *extents),)
    return model, (*example, torch.randn(batch, 3)) if side is not None else example, [kind.__name__ for kind in kinds]


@pytest.fixture
def random_module() -> Callable[[int], tuple[nn.Module, tuple[Tensor, ...], list[str]]]:
    """Makes the module of a seed."""
    return made
