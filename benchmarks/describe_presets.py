"""Descriptions of well-known networks, written as the data that presets of their names are read from.

    python benchmarks/describe_presets.py [torchvision] [timm] [transformers]

It needs the libraries that it is to describe; those that are not named are left as they are. Modules are built without
weights, with the numbers of their library's own initialization: the laws of a graph are read off these.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "search" / "networks" / "described"
NAMES: dict[str, list[str]] = {
    "torchvision": [
        "alexnet", "vgg11", "vgg13", "vgg16", "vgg16_bn", "vgg19", "resnet18", "resnet34", "resnet50", "resnet101",
        "resnet152", "wide_resnet50_2", "wide_resnet101_2", "resnext50_32x4d", "resnext101_32x8d", "squeezenet1_1",
        "googlenet", "inception_v3", "densenet121", "regnet_x_800mf", "regnet_y_800mf", "mobilenet_v2",
        "mobilenet_v3_small", "mnasnet1_0", "shufflenet_v2_x1_0", "efficientnet_b0", "convnext_tiny", "vit_b_16",
        "swin_t",
    ],
    "timm": [
        "resnet50d", "seresnet50", "efficientnet_b0", "convnext_tiny", "mixer_b16_224", "vit_small_patch16_224",
        "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224",
    ],
    "transformers": [
        "microsoft/resnet-50", "facebook/regnet-y-040", "facebook/convnext-tiny-224", "google/vit-base-patch16-224",
        "microsoft/swin-tiny-patch4-window7-224",
    ],
}  # fmt: skip
#: The class of a network of transformers and its configuration; what is not named is that library's default.
CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "microsoft/resnet-50": ("ResNet", {}),
    "facebook/regnet-y-040": ("RegNet", {}),
    "facebook/convnext-tiny-224": ("ConvNext", {}),
    "google/vit-base-patch16-224": ("ViT", {}),
    "microsoft/swin-tiny-patch4-window7-224": ("Swin", {}),
}
#: Maps of another extent, at which the graph of a network for maps of any extent is the same; odd, and not square.
OTHER = (3, 161, 193)


def made(library: str, name: str) -> tuple[Any, Any]:
    """The module with the numbers that its library gives it, and an example."""
    import torch

    from collegium.search.describe.sources import IMAGE, TORCHVISION_IMAGES, TORCHVISION_OPTIONS

    torch.manual_seed(0)
    image = torch.zeros(1, *IMAGE)
    if library == "torchvision":
        options = TORCHVISION_OPTIONS.get(name, {})
        model = import_module("torchvision.models").get_model(name, weights=None, **options)
        return model, torch.zeros(1, *TORCHVISION_IMAGES.get(name, IMAGE))
    if library == "timm":
        return import_module("timm").create_model(name, pretrained=False), image
    transformers = import_module("transformers")
    kind, options = CLASSES[name]
    config = getattr(transformers, f"{kind}Config")(num_labels=1000, **options)
    return getattr(transformers, f"{kind}ForImageClassification")(config), {"pixel_values": image}


def described(library: str, name: str) -> dict[str, Any]:
    """One network's description as JSON has it, with six digits of what the laws of its graph say."""
    import torch

    from collegium.search.describe.describe import describe
    from collegium.search.errors import NotTraceable

    model, example = made(library, name)
    other: Any = torch.zeros(1, *OTHER)
    other = {"pixel_values": other} if isinstance(example, dict) else other
    try:
        found = describe(model.eval(), example, name=f"{library}:{name}", other_input=other)
    except NotTraceable:  # it takes images of one size alone
        found = describe(model, example, name=f"{library}:{name}")
    document = found.model_dump(mode="json", exclude_defaults=True)
    for layer in document.get("graph", {}).get("layers", ()):
        for law in (layer.get("weight"), layer.get("bias")):
            if law is not None:
                law["value"] = float(f"{law['value']:.6g}")
    return document


def main(libraries: list[str]) -> None:
    """One file for each library, one line for each network, and their sizes."""
    FOLDER.mkdir(exist_ok=True)
    index = FOLDER / "index.json"
    sizes: dict[str, Any] = json.loads(index.read_text(encoding="utf-8")) if index.exists() else {}
    for library in libraries or NAMES:
        sizes = {name: each for name, each in sizes.items() if not name.startswith(f"{library}:")}
        lines = []
        for name in NAMES[library]:
            found = described(library, name)
            document = json.dumps(found, separators=(",", ":"), sort_keys=True)
            lines.append(f"{json.dumps(name)}: {document}")
            sizes[f"{library}:{name}"] = {"parameters": found["parameters"], "flops": found["flops"]}
            graph = found.get("no_graph") or ("any extent" if found.get("any_extent") else "one extent")
            print(f"{library}:{name}  {len(document):,} bytes  {graph}", flush=True)
        (FOLDER / f"{library}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    rows = [f"{json.dumps(name)}: {json.dumps(each)}" for name, each in sizes.items()]
    index.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
