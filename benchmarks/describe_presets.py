"""Descriptions of well-known networks, written as the data that presets of their names are read from.

    python benchmarks/describe_presets.py

It needs torchvision and timm. Modules are built without weights, on the device ``meta`` where their code allows it.
"""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "search" / "networks" / "described"
NAMES: dict[str, list[str]] = {
    "torchvision": [
        "alexnet", "vgg11", "vgg13", "vgg16", "vgg16_bn", "vgg19", "regnet_x_800mf", "regnet_y_800mf", "densenet121",
        "mobilenet_v2", "efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t",
    ],
    "timm": ["resnet50d", "seresnet50", "mixer_b16_224"],
}  # fmt: skip


def described(library: str, name: str) -> dict[str, object]:
    """One network's description as JSON has it: what it is, and no way to build it."""
    from collegium.search.describe.describe import describe
    from collegium.search.describe.sources import Sample, load

    source = f"{library}:{name}"
    model, example = load(source, Sample())
    return describe(model.eval(), example, name=source).model_dump(
        mode="json", exclude_defaults=True, exclude={"graph", "no_graph"}
    )


def main() -> None:
    """One file for each library, one line for each network."""
    FOLDER.mkdir(exist_ok=True)
    for library, names in NAMES.items():
        lines = []
        for name in names:
            document = json.dumps(described(library, name), separators=(",", ":"), sort_keys=True)
            lines.append(f"{json.dumps(name)}: {document}")
            print(f"{library}:{name}  {len(document):,} bytes", flush=True)
        (FOLDER / f"{library}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
