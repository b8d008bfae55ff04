"""Small networks of the usual kinds, with what is odd about each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional


def conv(inputs: int, outputs: int, kernel: int = 3, **more: Any) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **more)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def head(width: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(1), nn.Linear(width, 10)]


class Bottleneck(nn.Module):
    """A sum in place, and a norm in place behind it."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        shortcut = [nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)]
        self.downsample = nn.Sequential(*shortcut) if stride > 1 or inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = functional.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return functional.relu_(y)


def resnet(groups: int = 1, channels: int = 3) -> nn.Module:
    stem = [nn.Conv2d(channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)]
    blocks = [Bottleneck(16, 8 * groups, 32, 1, groups), Bottleneck(32, 8 * groups, 32, 1, groups)]
    blocks += [Bottleneck(32, 16 * groups, 64, 2, groups), Bottleneck(64, 16 * groups, 64, 1, groups)]
    return nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1), *blocks, *head(64))


class Attention(nn.Module):
    """Heads by reshapes that name the batch, a softmax written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.qkv, self.proj, self.heads = nn.Linear(width, 3 * width), nn.Linear(width, width), heads

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        each = width // self.heads
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, each).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q * each**-0.5) @ k.transpose(-2, -1)
        return self.proj((weights.softmax(-1) @ v).transpose(1, 2).reshape(batch, tokens, width))


class Encoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), Attention(width, 4), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(0.1), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """A class token that is expanded over the batch, and position embeddings."""

    def __init__(self, width: int = 32, channels: int = 3, image: int = 16, patch: int = 4) -> None:
        super().__init__()
        self.patch = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(1, (image // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(Encoder(width) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class Transformer(nn.Module):
    """PyTorch's own encoder, whose projections in are parameters of no linear layer."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.embed, self.head = nn.Linear(8, 16), nn.Linear(16, 10)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


class UNet(nn.Module):
    """A skip that is concatenated, a transposed convolution, and a map as output."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(conv(3, 8), conv(8, 8))
        self.bottom = nn.Sequential(conv(8, 16), conv(16, 16), conv(16, 16))
        self.up = nn.ConvTranspose2d(16, 8, 3, 2, padding=1, output_padding=1)
        self.out = nn.Sequential(conv(24, 8), conv(8, 8), nn.Conv2d(8, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        deep = self.bottom(functional.max_pool2d(skip, 2))
        smooth = functional.interpolate(deep, scale_factor=2, mode="bilinear", align_corners=False)[:, :8]
        return self.out(torch.cat([self.up(deep), smooth, skip], 1))


class DenseNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 1, 1)
        self.layers = nn.ModuleList(nn.Sequential(conv(8 + 4 * i, 8, 1), conv(8, 4)) for i in range(3))
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return self.head(torch.cat(features, 1).mean((2, 3)))


class Inverted(nn.Module):
    """A depthwise layer, and an excitation of its width."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.expand, self.deep = conv(width, inner, 1), conv(inner, inner, 5, groups=inner)
        self.squeeze, self.excite = nn.Conv2d(inner, 4, 1), nn.Conv2d(4, inner, 1)
        self.project = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.deep(functional.hardswish(self.expand(x)))
        y = y * functional.hardsigmoid(self.excite(functional.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return x + self.project(y)


class ConvNeXt(nn.Module):
    """A layer norm of the channels by permutations, and a scale of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.deep, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(1e-6 * torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(functional.gelu(self.up(self.norm(self.deep(x).permute(0, 2, 3, 1)))))
        return x + (self.gamma * y).permute(0, 3, 1, 2)


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm1, self.norm2 = nn.Conv2d(3, 24, 4, 4), nn.LayerNorm(24), nn.LayerNorm(24)
        self.tokens = nn.Sequential(nn.Linear(16, 20), nn.GELU(), nn.Linear(20, 16))
        self.channels = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Linear(40, 40), nn.GELU(), nn.Linear(40, 24))
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(self.norm2(x))).mean(1))


class PointNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 16, 1), nn.ReLU()]
        self.points = nn.Sequential(*layers, nn.Conv1d(16, 32, 1))
        self.head = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.points(x).max(-1)[0])


class Shared(nn.Module):
    """A module called twice, a weight of two modules, and one that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(16, 16)
        self.first, self.second = nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False)
        self.second.weight = self.first.weight
        self.head, self.unread = nn.Linear(16, 10), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.silu(self.twice(functional.silu(self.twice(x))))
        return self.head(self.second(torch.tanh(self.first(x))))


def vgg() -> nn.Module:
    features: list[nn.Module] = []
    for inputs, outputs in ((3, 8), (8, 16)):
        for read in (inputs, outputs):
            features += [nn.Conv2d(read, outputs, 3, 1, 1), nn.ReLU(True)]
        features.append(nn.MaxPool2d(2))
    dense = [nn.Linear(64, 32), nn.ReLU(True), nn.Dropout(), nn.Linear(32, 32), nn.ReLU(True), nn.Linear(32, 10)]
    return nn.Sequential(nn.Sequential(*features), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Sequential(*dense))


def audio() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(1, 8, 9, 4, padding=4), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(4),
        nn.Conv1d(8, 16, 3, padding=1, padding_mode="circular"), nn.GroupNorm(4, 16), nn.ELU(),
        nn.Conv1d(16, 16, 3, padding="same"), nn.LeakyReLU(0.1), nn.AvgPool1d(2), nn.Conv1d(16, 24, 3),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, 10),
    )  # fmt: skip


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 50), nn.BatchNorm1d(50), nn.GELU(), nn.Dropout(0.1), nn.Linear(50, 50),
        nn.LayerNorm(50), nn.GELU(), nn.Linear(50, 10),
    )  # fmt: skip


def volume() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(4, 4, 3, padding=1), nn.Softplus(), nn.Conv3d(4, 4, 1), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        nn.Linear(4, 10),
    )  # fmt: skip


IMAGE = (3, 16, 16)
#: Of each kind, how it is made and the shape of a sample.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet": (resnet, IMAGE),
    "resnext": (lambda: resnet(4), IMAGE),
    "vit": (ViT, IMAGE),
    "transformer": (Transformer, (5, 8)),
    "u-net": (UNet, IMAGE),
    "densenet": (DenseNet, IMAGE),
    "mobilenet": (lambda: nn.Sequential(conv(3, 8), Inverted(8, 24), Inverted(8, 24), *head(8)), IMAGE),
    "vgg": (vgg, IMAGE),
    "convnext": (lambda: nn.Sequential(nn.Conv2d(3, 12, 4, 4), ConvNeXt(12), ConvNeXt(12), *head(12)), IMAGE),
    "mixer": (Mixer, IMAGE),
    "audio": (audio, (1, 256)),
    "mlp": (mlp, (1, 8, 8)),
    "pointnet": (PointNet, (3, 20)),
    "shared": (Shared, (16,)),
    "volume": (volume, (1, 8, 8, 8)),
}


@pytest.fixture
def made() -> Callable[[str], tuple[nn.Module, Tensor]]:
    """Makes a network by its name, with running moments that are not those of the start, and a batch."""

    def make(name: str) -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        model, shape = NETWORKS[name][0](), NETWORKS[name][1]
        for module in model.modules():
            if getattr(module, "running_mean", None) is not None:
                nn.init.normal_(module.running_mean)  # pyright: ignore[reportArgumentType]
                nn.init.uniform_(module.running_var, 0.5, 2)  # pyright: ignore[reportArgumentType]
        return model, torch.randn(5, *shape)

    return make
