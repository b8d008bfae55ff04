"""Random modules whose branches are known by construction: counts never lie, and what cannot be split is said."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.regroup.regroup import regroup

ACTIVATIONS: list[Callable[[], nn.Module]] = [
    nn.ReLU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    lambda: nn.LeakyReLU(0.1),
    nn.ReLU6,
    nn.Hardswish,
    nn.Mish,
    nn.SELU,
    lambda: nn.CELU(0.5),
    lambda: nn.GELU("tanh"),
    nn.Identity,
]
#: Together they draw every kind of block, activation and layer.
SEEDS = [*range(5), 10, 13, 17, 20, 26, 27, 28, 30, 31, 38, 41, 63, 111]


class Network(nn.Module):
    """Blocks that keep ``(samples, channels, length)``; a sum with the input stands around each."""

    def __init__(self, blocks: list[nn.Module], channels: int, classes: int) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(blocks), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean(-1))


class Joined(nn.Module):
    """Two chains that meet: summed, multiplied or concatenated in an inner width."""

    def __init__(self, how: str, a: nn.Module, b: nn.Module, after: nn.Module) -> None:
        super().__init__()
        self.how, self.a, self.b, self.after = how, a, b, after

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        return self.after(torch.cat([a, b], 1) if self.how == "cat" else a * b if self.how == "mul" else a + b)


class Tokens(nn.Module):
    """Linear layers on the channels of a map, which are its last axis inside."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x.transpose(1, 2)).transpose(1, 2)


class Twice(nn.Module):
    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.layers(x))


class Attention(nn.Module):
    """Heads on a map whose last axis are tokens: as PyTorch has them, or written out, in windows of equal length."""

    def __init__(self, channels: int, heads: int, windows: int, how: str) -> None:
        super().__init__()
        self.heads, self.windows, self.how = heads, windows, how
        self.own = nn.MultiheadAttention(channels, heads, batch_first=True) if how == "module" else None
        if self.own is None:
            self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, length = x.shape
        x = x.transpose(1, 2).reshape(batch * self.windows, length // self.windows, channels)
        if self.own is not None:
            y = self.own(x, x, x, need_weights=self.windows == 1)[0]
        else:
            shape = (*x.shape[:2], 3, self.heads, channels // self.heads)
            q, k, v = self.qkv(x).reshape(shape).permute(2, 0, 3, 1, 4)
            if self.how == "fused":
                y = nn.functional.scaled_dot_product_attention(q, k, v)
            else:
                y = ((q @ k.transpose(-1, -2)) / 2).softmax(-1) @ v
            y = self.out(y.transpose(1, 2).reshape(x.shape))
        return y.reshape(batch, length, channels).transpose(1, 2)


def widths_of(draw: random.Random, channels: int, most: int = 4) -> list[int]:
    return [channels, *(draw.randint(2, 9) for _ in range(draw.randint(0, most))), channels]


def chain(draw: random.Random, widths: list[int], dense: bool = False) -> nn.Sequential:
    """Weight layers with norms, dropout and activations between them; the extent is kept."""
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        bias, kernel, wide = draw.random() < 0.5, draw.choice([1, 3, 5]), draw.randint(1, 2)
        mode = draw.choice(["zeros", "zeros", "circular"])
        padding = wide * (kernel - 1) // 2
        layers.append(
            nn.Linear(inputs, outputs, bias=bias)
            if dense
            else nn.Conv1d(inputs, outputs, kernel, 1, padding, wide, bias=bias, padding_mode=mode)
        )
        if index < len(widths) - 2:
            layers += between(draw, outputs, dense)
    return nn.Sequential(*layers)


def between(draw: random.Random, width: int, dense: bool) -> list[nn.Module]:
    norms: list[Callable[[], nn.Module]] = [nn.Identity]
    norms += [lambda: nn.LayerNorm(width)] if dense else [lambda: nn.BatchNorm1d(width), lambda: nn.GroupNorm(1, width)]
    pools: list[Callable[[], nn.Module]] = [nn.Identity]
    pools += [] if dense else [lambda: nn.MaxPool1d(3, 1, 1), lambda: nn.AvgPool1d(3, 1, 1)]
    made = [draw.choice(norms)(), draw.choice(ACTIVATIONS)(), draw.choice(pools)()]
    return [*made, nn.Dropout(0.2)] if draw.random() < 0.3 else made


def block(draw: random.Random, channels: int) -> tuple[nn.Module, list[tuple[int, ...]]]:
    """A block, and the widths of what in it can be split."""
    kinds = ["chain", "chain", "tokens", "joined", "twice", "tied", "inverted", "separable", "grouped", "attention"]
    kind = draw.choice(kinds)
    widths = widths_of(draw, channels)
    free = [tuple(widths)] if len(widths) > 3 else []
    match kind:
        case "chain":
            return chain(draw, widths), free
        case "tokens":
            return Tokens(chain(draw, widths, dense=True)), free
        case "joined":
            return joined(draw, channels)
        case "twice":
            return Twice(chain(draw, widths)), []
        case "tied":
            made = chain(draw, [channels, channels, channels, channels], dense=True)
            made[0].weight = made[-1].weight
            return Tokens(made), []
        case "inverted":
            inner = 2 * channels
            depthwise = nn.Conv1d(inner, inner, 3, padding=1, groups=inner)
            layers = [nn.Conv1d(channels, inner, 1), nn.ReLU(), depthwise, nn.ReLU(), nn.Conv1d(inner, channels, 1)]
            return nn.Sequential(*layers), []
        case "separable":
            return separable(draw, channels)
        case "attention":
            heads = draw.choice([each for each in range(1, channels + 1) if channels % each == 0])
            return Attention(channels, heads, draw.choice([1, 2]), draw.choice(["module", "fused", "written"])), []
    inner = 4 * draw.randint(1, 3)
    grouped = nn.Conv1d(inner, inner, 3, padding=1, groups=2)
    layers = [nn.Conv1d(channels, inner, 1), nn.ReLU(), grouped, nn.ReLU(), nn.Conv1d(inner, channels, 1)]
    return nn.Sequential(*layers), [(channels, inner, inner, channels)]


def separable(draw: random.Random, channels: int) -> tuple[nn.Module, list[tuple[int, ...]]]:
    """Depthwise layers behind pointwise ones, of which the first may have several outputs for each channel."""
    a, b, times = draw.randint(2, 6), draw.randint(2, 6), draw.randint(1, 2)
    layers = [
        nn.Conv1d(channels, a, 1, bias=draw.random() < 0.5),
        draw.choice(ACTIVATIONS)(),
        nn.Conv1d(a, times * a, 3, padding=1, groups=a, bias=draw.random() < 0.5),
        nn.BatchNorm1d(times * a),
        draw.choice(ACTIVATIONS)(),
        nn.Conv1d(times * a, b, 1),
        nn.ReLU(),
        nn.ConstantPad1d((2, 0), 0.0),
        nn.Conv1d(b, b, 3, groups=b),
        draw.choice(ACTIVATIONS)(),
        nn.Conv1d(b, channels, 1),
    ]
    return nn.Sequential(*layers), [(channels, a, times * a, b, b, channels)]


def joined(draw: random.Random, channels: int) -> tuple[nn.Module, list[tuple[int, ...]]]:
    how, meeting = draw.choice(["add", "mul", "cat"]), draw.randint(2, 6)
    paths = [[*widths_of(draw, channels, 2)[:-1], meeting] for _ in range(2)]
    after = [2 * meeting if how == "cat" else meeting, *widths_of(draw, channels, 2)[1:]]
    module = Joined(how, chain(draw, paths[0]), chain(draw, paths[1]), chain(draw, after))
    return module, [tuple(each) for each in (*paths, after) if len(each) > 3]


def made(seed: int) -> tuple[nn.Module, Tensor, Counter[tuple[int, ...]]]:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    channels = draw.randint(3, 6)
    parts = [block(draw, channels) for _ in range(draw.randint(1, 4))]
    expected = Counter(widths for _, free in parts for widths in free)
    model = Network([module for module, _ in parts], channels, 3).train(draw.random() < 0.5)
    return model, torch.randn(draw.randint(1, 3), channels, 2 * draw.randint(3, 5)), expected


def check(seed: int, described: Callable[..., Any]) -> None:
    model, example, expected = made(seed)
    baseline: NetworkBaseline = described(model, example)
    check_described(model, example, expected, baseline)
    check_regrouped(model, example, baseline, random.Random(seed))


def check_described(
    model: nn.Module, example: Tensor, expected: Counter[tuple[int, ...]], baseline: NetworkBaseline
) -> None:
    found: Counter[tuple[int, ...]] = Counter()
    for branch in baseline.branches:
        if branch.splittable:
            found[branch.widths] += branch.count
    assert found == expected, str(baseline)
    blocks = [module for module in model.modules() if isinstance(module, Attention)]
    heads = Counter((each.heads, example.shape[1] // each.heads, example.shape[2] // each.windows) for each in blocks)
    own: Counter[tuple[int, int, int]] = Counter()
    for block in baseline.attention:
        own[block.heads, block.width, block.tokens] += block.count
    assert own == heads, str(baseline)


def check_regrouped(model: nn.Module, example: Tensor, baseline: NetworkBaseline, draw: random.Random) -> None:
    """Every branch as members by hand: the output's shape, the names that stay, and a step of training."""
    wanted = {
        branch.name: (draw.randint(1, 3), [draw.randint(1, 4) for _ in branch.free])
        for branch in baseline.branches
        if branch.splittable
    }
    if not wanted:
        return
    regrouped = regroup(model, wanted, baseline=baseline).train()
    assert list(regrouped.state_dict()) == list(model.state_dict())
    batch = torch.cat([example, example + 1])  # batch norms need two samples
    output = regrouped(batch)
    assert output.shape == model(batch).shape
    output.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in regrouped.parameters())
    for branch in baseline.branches:
        for paths in branch.paths if branch.name in wanted else ():
            m, free = wanted[branch.name]
            widths = of_layers(branch, free)
            weights = [w for path in paths if (w := regrouped.get_submodule(path).weight).dim() > 1]
            assert [weight.numel() for weight in weights] == [
                (1 if depthwise else inputs) * outputs * members * kernel
                for (inputs, outputs), members, (kernel, depthwise) in zip(
                    pairwise([branch.widths[0], *widths, branch.widths[-1]]),
                    [m] * len(weights),
                    kernels(branch),
                    strict=True,
                )
            ]


def of_layers(branch: Any, free: list[int]) -> list[int]:
    """A width for each layer but the last; a depthwise one has its share of what it reads."""
    given, found = iter(free), []
    layers = [layer for layer in branch.layers if layer.kind in ("conv", "linear")]
    for layer, inputs, outputs in zip(layers[:-1], branch.widths, branch.widths[1:-1], strict=False):
        tied = layer.kind == "conv" and layer.depthwise
        found.append(found[-1] * outputs // inputs if tied else next(given))
    return found


def kernels(branch: Any) -> list[tuple[int, bool]]:
    return [
        (math.prod(layer.kernel), layer.depthwise) if layer.kind == "conv" else (1, False)
        for layer in branch.layers
        if layer.kind in ("conv", "linear")
    ]


def test_every_kind_is_drawn():
    modules = [module for seed in SEEDS for module in made(seed)[0].modules()]
    assert {type(module) for module in modules} >= {type(make()) for make in ACTIVATIONS} | {
        Joined, Tokens, Twice, Attention, nn.BatchNorm1d, nn.GroupNorm, nn.LayerNorm, nn.MaxPool1d, nn.AvgPool1d,
        nn.Dropout, nn.ConstantPad1d,
    }  # fmt: skip
    assert {module.how for module in modules if isinstance(module, Joined)} == {"add", "mul", "cat"}
    attention = {(module.how, module.windows) for module in modules if isinstance(module, Attention)}
    assert attention == set(product(["module", "fused", "written"], [1, 2]))
    convolutions = [module for module in modules if isinstance(module, nn.Conv1d) and module.groups == 1]
    of_chains = {(*module.kernel_size, *module.dilation, module.padding_mode) for module in convolutions}
    assert of_chains == set(product([1, 3, 5], [1, 2], ["zeros", "circular"]))


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_random_modules_are_described_as_they_are_and_regrouped(seed: int, described: Callable[..., Any]):
    check(seed, described)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS[3:])
def test_more_random_modules_are_described_as_they_are_and_regrouped(seed: int, described: Callable[..., Any]):
    check(seed, described)
