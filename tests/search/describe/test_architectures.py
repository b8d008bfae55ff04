"""Small configurations of the usual architectures, written here and of ``transformers``: what can be split in each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from collegium.search.networks.families.network import SINGLE_HIDDEN, NetworkBaseline

Described = Callable[..., NetworkBaseline]


def splits(baseline: NetworkBaseline) -> list[tuple[tuple[int, ...], int]]:
    return [(branch.widths, branch.count) for branch in baseline.branches if branch.splittable]


def reasons(baseline: NetworkBaseline) -> str:
    return "\n".join(str(branch.why) for branch in baseline.branches if not branch.splittable)


def conv(inputs: int, outputs: int, kernel: int = 1, **more: Any) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **more)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class Excitation(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.expand(functional.silu(self.reduce(functional.adaptive_avg_pool2d(x, 1))))
        return x * torch.sigmoid(scale)


class Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


def head(width: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10)]


IMAGE = torch.randn(2, 3, 16, 16)


def test_mobilenet_v2_and_its_last_layers(described: Described):
    def inverted(inputs: int, outputs: int) -> list[nn.Module]:
        inner = 3 * inputs
        return [conv(inputs, inner), conv(inner, inner, 3, groups=inner), nn.Conv2d(inner, outputs, 1)]

    model = nn.Sequential(
        conv(3, 8, 3), Residual(nn.Sequential(*inverted(8, 8))), *inverted(8, 12), conv(12, 40), *head(40)
    )
    baseline = described(model, IMAGE)
    assert splits(baseline) == [((8, 24, 24, 12, 40, 10), 1)]
    assert SINGLE_HIDDEN in reasons(baseline)


def test_mobilenet_v3_and_efficientnet_excite_their_inner_width(described: Described):
    block = nn.Sequential(conv(8, 24), conv(24, 24, 5, groups=24), Excitation(24), nn.Conv2d(24, 8, 1))
    baseline = described(nn.Sequential(conv(3, 8, 3), Residual(block), *head(8)), IMAGE)
    assert splits(baseline) == []
    assert "a depthwise convolution with fixed outputs reads its outputs" in reasons(baseline)
    assert (24, 6, 24) in [branch.widths for branch in baseline.branches]


@pytest.mark.parametrize("excited", [False, True])
def test_regnet_x_has_members_and_regnet_y_excites_them(described: Described, excited: bool):
    def body() -> nn.Module:
        between = [Excitation(16)] if excited else []
        return Residual(nn.Sequential(conv(12, 16), conv(16, 16, 3, groups=4), *between, nn.Conv2d(16, 12, 1)))

    baseline = described(nn.Sequential(conv(3, 12, 3), body(), body(), *head(12)), IMAGE)
    assert splits(baseline) == ([] if excited else [((12, 16, 16, 12), 2)])
    assert ("a grouped convolution at the end" in reasons(baseline)) == excited
    assert all(branch.multiplicity == 4 for branch in baseline.branches if branch.splittable)


def test_densenet_reads_every_width_again(described: Described):
    class Dense(nn.Module):
        def __init__(self, inputs: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Sequential(conv(inputs + 4 * i, 8), conv(8, 4, 3)) for i in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.cat([x, layer(x)], 1)
            return x

    baseline = described(nn.Sequential(conv(3, 8, 3), Dense(8), conv(20, 10), *head(10)), IMAGE)
    assert splits(baseline) == []
    assert [branch.widths for branch in baseline.branches if branch.why == SINGLE_HIDDEN] == [
        (8, 8, 4),
        (12, 8, 4),
        (16, 8, 4),
        (20, 10, 10),
    ]
    assert "read in 2 places" in reasons(baseline)


def test_a_u_net_can_be_split_where_no_skip_reads(described: Described):
    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Sequential(conv(3, 4, 3), conv(4, 5, 3), conv(5, 6, 3))
            self.bottom = nn.Sequential(conv(6, 8, 3), conv(8, 9, 3), conv(9, 7, 3))
            self.up = nn.ConvTranspose2d(7, 6, 2, 2)
            self.out = nn.Sequential(conv(12, 5, 3), conv(5, 4, 3), nn.Conv2d(4, 2, 1))

        def forward(self, x: Tensor) -> Tensor:
            h = self.down(x)
            below = self.up(self.bottom(functional.max_pool2d(h, 2)))
            return self.out(torch.cat([h, below], 1))

    baseline = described(UNet(), IMAGE)
    assert splits(baseline) == [((3, 4, 5, 6), 1), ((6, 8, 9, 7), 1), ((12, 5, 4, 2), 1)]
    assert "a transposed convolution" in reasons(baseline)
    assert baseline.outputs == 2 * 16 * 16


def test_a_mixer_has_single_hidden_layers_along_both_axes(described: Described):
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(2))
            self.tokens = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
            self.channels = nn.Sequential(nn.Linear(8, 24), nn.GELU(), nn.Linear(24, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.tokens(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
            return x + self.channels(self.norms[1](x))

    patches = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.blocks = patches, nn.Sequential(Mixer(), Mixer())

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(self.patches(x).transpose(1, 2)).mean(1)

    baseline = described(Model(), IMAGE)
    assert splits(baseline) == []
    assert [(branch.widths, branch.count) for branch in baseline.branches if branch.why == SINGLE_HIDDEN] == [
        ((16, 32, 16), 2),
        ((8, 24, 8), 2),
    ]


def pixels(size: int = 32) -> dict[str, Tensor]:
    return {"pixel_values": torch.empty(1, 3, size, size, device="meta")}


def ids(*names: str) -> dict[str, Tensor]:
    return {name: torch.zeros(1, 8, dtype=torch.long, device="meta") for name in names}


SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
STAGES = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [1, 2]}
EIGHT = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 1}
TRANSFORMERS: dict[str, Any] = {
    "ResNetForImageClassification": (
        STAGES,
        pixels(),
        [((8, 4, 4, 16), 1), ((16, 8, 8, 32), 1), ((32, 8, 8, 32), 1)],
        ("a skip connection",),
    ),
    "RegNetForImageClassification": (
        STAGES | {"layer_type": "x", "groups_width": 8},
        pixels(),
        [((8, 16, 16, 16), 1), ((16, 32, 32, 32), 1), ((32, 32, 32, 32), 1)],
        ("a skip connection",),
    ),
    "ConvNextForImageClassification": (
        {"hidden_sizes": [16, 32], "depths": [1, 2], "num_stages": 2},
        pixels(),
        [],
        (SINGLE_HIDDEN, "a depthwise convolution at the end", "a scale of a width that is fixed"),
    ),
    "ViTForImageClassification": (SMALL | {"image_size": 32}, pixels(), [], (SINGLE_HIDDEN, "products of two maps")),
    "SwinForImageClassification": (
        {"image_size": 32, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4},
        pixels(),
        [],
        (SINGLE_HIDDEN, "products of two maps"),
    ),
    "MobileNetV2ForImageClassification": (
        {"image_size": 32, "depth_multiplier": 0.35},
        pixels(),
        [((3, 16, 16, 8, 48, 48, 8), 1), ((56, 336, 336, 112, 1280, 2), 1)],
        (SINGLE_HIDDEN,),
    ),
    "EfficientNetForImageClassification": (
        {"width_coefficient": 0.25, "depth_coefficient": 0.2, "hidden_dim": 320},
        pixels(64),
        [],
        (SINGLE_HIDDEN, "a depthwise convolution with fixed outputs"),
    ),
    "BertModel": (SMALL | {"vocab_size": 50}, ids("input_ids"), [], (SINGLE_HIDDEN, "an embedding")),
    "GPT2LMHeadModel": (
        {"n_layer": 1, "n_embd": 32, "n_head": 2, **EIGHT},
        ids("input_ids"),
        [],
        (SINGLE_HIDDEN, "its outputs are divided", "used in several places"),
    ),
    "LlamaForCausalLM": (SMALL | EIGHT, ids("input_ids"), [], ("with another map, as by a gate", "an embedding")),
    "T5ForConditionalGeneration": (
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 2, "vocab_size": 60},
        ids("input_ids", "decoder_input_ids"),
        [],
        (SINGLE_HIDDEN, "used in several places", "products of two maps"),
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", list(TRANSFORMERS))
def test_models_of_transformers(described: Described, name: str):
    import transformers

    options, example, expected, words = TRANSFORMERS[name]
    kind: Any = getattr(transformers, name)
    with torch.device("meta"):
        model = kind(kind.config_class(**options)).eval()
    baseline = described(model, example)
    assert splits(baseline) == expected
    for word in words:
        assert word in reasons(baseline)
    assert len(baseline.branches) < 30


@pytest.mark.slow
def test_a_language_model_of_a_billion_parameters_costs_no_memory():
    import transformers

    from collegium.search.describe.describe import describe

    config = transformers.LlamaConfig(vocab_size=32000, num_hidden_layers=4)
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    baseline = describe(model, ids("input_ids"))
    layer = 4 * 4096**2 + 3 * 4096 * 11008
    assert baseline.parameters == 4 * (layer + 2 * 4096) + 4096 + 2 * 32000 * 4096
    assert baseline.flops == 8 * (4 * (layer + 2 * 8 * 4096) + 32000 * 4096)
