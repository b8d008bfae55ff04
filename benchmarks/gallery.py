"""Well-known networks: what in them can be split, into what, and which have nothing to gain. Prints Markdown.

    python benchmarks/gallery.py [--only NAME …] [--seconds 90]

The networks are those of the configurations that ``transformers`` has for them, on the device ``meta``, three of this
file, and presets of libraries that need not be installed. Each is described and searched in a process of its own, which
is ended after ``--seconds``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

#: Name → class and configuration of transformers, changes to the configuration, and the inputs.
PIXELS, TOKENS = {"pixel_values": (1, 3, 224, 224)}, {"input_ids": (1, 128)}
LIBRARY: dict[str, tuple[str, str, dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "ResNet-50": ("ResNetForImageClassification", "ResNetConfig", {"num_labels": 1000}, PIXELS),
    "ResNet-18": (
        "ResNetForImageClassification", "ResNetConfig",
        {"num_labels": 1000, "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "layer_type": "basic"},
        PIXELS,
    ),
    "RegNet-X": ("RegNetForImageClassification", "RegNetConfig", {"num_labels": 1000, "layer_type": "x"}, PIXELS),
    "RegNet-Y": ("RegNetForImageClassification", "RegNetConfig", {"num_labels": 1000}, PIXELS),
    "ConvNeXt-T": ("ConvNextForImageClassification", "ConvNextConfig", {"num_labels": 1000}, PIXELS),
    "MobileNetV1": ("MobileNetV1ForImageClassification", "MobileNetV1Config", {"num_labels": 1000}, PIXELS),
    "MobileNetV2": ("MobileNetV2ForImageClassification", "MobileNetV2Config", {"num_labels": 1000}, PIXELS),
    "EfficientNet-B7": ("EfficientNetForImageClassification", "EfficientNetConfig", {"num_labels": 1000}, PIXELS),
    "ViT-B/16": ("ViTForImageClassification", "ViTConfig", {"num_labels": 1000}, PIXELS),
    "Swin-T": ("SwinForImageClassification", "SwinConfig", {"num_labels": 1000}, PIXELS),
    "DINOv2-B": ("Dinov2ForImageClassification", "Dinov2Config", {"num_labels": 1000}, PIXELS),
    "SegFormer-B0": ("SegformerForImageClassification", "SegformerConfig", {"num_labels": 1000}, PIXELS),
    "BERT-base": ("BertForSequenceClassification", "BertConfig", {}, TOKENS),
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", {"use_cache": False}, TOKENS),
    "LLaMA-7B": ("LlamaForCausalLM", "LlamaConfig", {"use_cache": False}, TOKENS),
    "T5-small": (
        "T5ForConditionalGeneration", "T5Config", {"use_cache": False}, TOKENS | {"decoder_input_ids": (1, 16)},
    ),
    "Wav2Vec2-base": ("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", {}, {"input_values": (1, 16000)}),
}  # fmt: skip


class UNet(nn.Module):
    """Three levels of three 3×3 convolutions each, joined by skips."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()

        def level(inputs: int, outputs: int) -> nn.Sequential:
            widths = [inputs, outputs, outputs, outputs]
            layers = [
                part
                for a, b in pairwise(widths)
                for part in (nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            ]
            return nn.Sequential(*layers)

        self.down1, self.down2 = level(3, width), level(width, 2 * width)
        self.bottom, self.pool = level(2 * width, 4 * width), nn.MaxPool2d(2)
        self.grow2, self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2), level(4 * width, 2 * width)
        self.grow1, self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2), level(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """A map of two classes."""
        first = self.down1(x)
        second = self.down2(self.pool(first))
        bottom = self.bottom(self.pool(second))
        up = self.up2(torch.cat([self.grow2(bottom), second], 1))
        return self.head(self.up1(torch.cat([self.grow1(up), first], 1)))


def vgg() -> nn.Module:
    """VGG-16."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2, 2))
    head = [nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Linear(4096, 4096), nn.ReLU(), nn.Linear(4096, 1000)]
    return nn.Sequential(*layers, nn.Flatten(), *head)


def mlp() -> nn.Module:
    """Five hidden layers of 500, the MLP of Littwin et al. 2020, Figure 3."""
    widths = [784, *[500] * 5, 10]
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


OWN: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "VGG-16": (vgg, (1, 3, 224, 224)),
    "U-Net, 64 channels": (UNet, (1, 3, 128, 128)),
    "MLP 784→[500]*5→10": (mlp, (1, 784)),
}


#: Networks whose description is a preset.
GIVEN = {
    "AlexNet": "torchvision:alexnet",
    "MobileNetV3-small": "torchvision:mobilenet_v3_small",
    "EfficientNet-B0": "torchvision:efficientnet_b0",
}


def build(name: str) -> tuple[nn.Module, Any]:
    """The network and its inputs, without memory."""
    with torch.device("meta"):
        if name in OWN:
            make, shape = OWN[name]
            return make(), torch.zeros(shape)
        import transformers

        model, config, changes, shapes = LIBRARY[name]
        made = getattr(transformers, model)(getattr(transformers, config)(**changes))
        integers = ("input_ids", "decoder_input_ids")
        inputs = {
            key: torch.zeros(shape, dtype=torch.long if key in integers else torch.float)
            for key, shape in shapes.items()
        }
        return made.eval(), inputs


def row(name: str) -> dict[str, Any]:
    """One network's line."""
    import collegium
    from collegium.search.networks.build import build_network
    from collegium.search.networks.presets import PRESETS

    started = time.perf_counter()
    baseline = PRESETS[GIVEN[name]][0] if name in GIVEN else collegium.describe(*build(name))
    described = time.perf_counter() - started
    answer = collegium.find_ensemble(baseline, estimator={"relative_error": 0.1})
    free = sum(each.count * each.parameters for each in baseline.branches if each.splittable)
    primal, dual = answer.primal, answer.dual
    left = build_network(baseline).unsearched[len(baseline.attention) :]
    heads = dict.fromkeys(f"{one.heads}×{one.width}" for one in baseline.attention)
    searched = time.perf_counter() - started - described
    return {
        "network": name,
        "parameters": f"{baseline.parameters / 1e6:.1f} M",
        "can be split": f"{100 * free / baseline.parameters:.0f} %",
        "primal m × n": "–" if primal is None else primal.label,
        "its variance": "–" if primal is None else f"{100 * (primal.relative_variance or 0):.0f} %",
        "dual m × n": "–" if dual is None else dual.label,
        "ρ": "–" if dual is None else f"{dual.efficiency:.2f}",
        "heads of attention": ", ".join(heads) or "–",
        "describe, search": f"{'–' if name in GIVEN else format(described, '.1f')}, {searched:.1f} s",
        "reason": "" if answer.outcome.kind == "found" or not left else left[0].partition(": ")[2],
    }


def main() -> None:
    """Every network in a process of its own, as a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--only", nargs="+", choices=[*LIBRARY, *OWN, *GIVEN], default=[*LIBRARY, *OWN, *GIVEN], metavar="NAME"
    )
    parser.add_argument("--seconds", type=float, default=90.0, help="most for one network")
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.row:
        print(json.dumps(row(given.only[0])))
        return
    printed = False
    for name in given.only:
        command = [sys.executable, __file__, "--row", "--only", name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=given.seconds, check=False)
            line = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
            reason = "" if line else done.stderr.strip().splitlines()[-1]
        except subprocess.TimeoutExpired:
            line, reason = None, f"not answered within {given.seconds:.0f} s"
        if line and not printed:
            print(f"| {' | '.join(line)} |\n|{' --- |' * len(line)}", flush=True)
            printed = True
        print(f"| {' | '.join(map(str, line.values()))} |" if line else f"| {name}: {reason} |", flush=True)


if __name__ == "__main__":
    main()
