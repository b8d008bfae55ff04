"""The model card: what a model is, its metrics, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from collegium.counted import counted
from collegium.search.networks.families.network_grouping import NETWORK
from collegium.search.networks.network import StageGrouping
from collegium.train.export import EXPORT_FORMATS

PURPOSE = {
    "model.safetensors": "the weights, collapsed, with plain names",
    "config.json": "architecture, data and preprocessing",
    "load.py": "loads and evaluates the model; needs torch and safetensors alone",
    "network.py": "the network's source",
    "averaged.py": "the average of several such networks",
    "test.safetensors": "the test samples that the accuracy was measured on",
    "metrics.json": "the metrics of every epoch",
    "manifest.json": "size and hash of every file, versions, seed and specification",
}

REGULARIZERS = ("dropout", "mixup", "cutmix", "label_smoothing")
"""Fields of a recipe that the card lists where they are given."""


def model_card(description: Mapping[str, Any], metrics: Mapping[str, Any], files: Sequence[str]) -> str:
    """The card as Markdown, from the description in ``config.json`` and the metrics in ``metrics.json``."""
    sections = [f"# {description['title']}", _summary(description)]
    if metrics.get("accuracy"):
        sections += ["## Metrics", _metrics(metrics)]
    else:
        sections.append("The training did not end: this is its last good checkpoint, which was not measured.")
    sections += ["## How it was trained", _training(description)]
    if "load.py" in files:
        sections += ["## How to load it", _loading(files)]
        if description.get("torchvision"):
            sections.append(_in_torchvision(description["torchvision"]))
    sections += ["## Files", "\n".join(_purposes([*files, "manifest.json"]))]
    return "\n\n".join(sections) + "\n"


def _purposes(files: Sequence[str]) -> list[str]:
    purposes = dict(PURPOSE)
    for _, made in EXPORT_FORMATS.usable():
        purposes |= made.files
    return [f"* `{name}`: {purpose}" for name, purpose in purposes.items() if name in files]


def _summary(description: Mapping[str, Any]) -> str:
    architecture = description["architecture"]
    lines = [counted(description["parameters"], "parameter").replace(",", " ")]
    if architecture.get("multiplicity"):
        widths = "×".join(str(width) for width in architecture["widths"])
        lines.append(f"m × n = {architecture['multiplicity']} × ({widths})")
    elif architecture.get("stages"):
        each = (str(StageGrouping(tuple(stage["widths"]), stage["multiplicity"])) for stage in architecture["stages"])
        lines.append(f"m × n of each stage: {', '.join(each)}")
    elif architecture.get("family") == NETWORK.name:
        lines.append("nothing regrouped: the network as it was described")
    if description.get("models", 1) > 1:
        lines.append(f"{description['models']} such models whose logits are averaged")
    return ", ".join(lines) + f". Trained on `{description['data']['name']}` by the method `{description['method']}`."


def _metrics(metrics: Mapping[str, Any]) -> str:
    rows = ["| | train | validation | test |", "|---|---|---|---|"]
    tables = [("accuracy", metrics["accuracy"]), ("among the best five", metrics["top5"]), ("loss", metrics["loss"])]
    for name, splits in tables:
        cells = (_number(splits[split]) for split in ("train", "validation", "test"))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _training(description: Mapping[str, Any]) -> str:
    recipe, data = description["recipe"], description["data"]
    lines = [
        f"* recipe {description['recipe_name']}: {counted(recipe['epochs'], 'epoch')} of batches of "
        f"{recipe['batch_size']}, {recipe['optimizer']}, learning rate {recipe['learning_rate']:.3g} "
        f"({recipe['schedule']}), weight decay {recipe['weight_decay']:.3g}",
        f"* data: {data.get('train', '?')} training, {data.get('validation', 0)} validation, "
        f"{data.get('test', '?')} test samples; {counted(data.get('replaced_labels', 0), 'training label')} replaced",
        f"* augmentation: {', '.join(recipe['augment']) or 'none'}; seed {description['seed']}",
    ]
    given = [f"{name.replace('_', ' ')} {recipe[name]:g}" for name in REGULARIZERS if recipe.get(name)]
    if given:
        lines.append(f"* {', '.join(given)}")
    return "\n".join(lines)


def _loading(files: Sequence[str]) -> str:
    lines = ["```python", "from load import load", "", "model, prepare = load()", "logits = model(prepare(x))", "```"]
    if "test.safetensors" in files:
        lines += ["", "`python load.py` measures its accuracy on the test samples."]
    return "\n".join(lines)


def _in_torchvision(arguments: Mapping[str, Any]) -> str:
    block, layers, *named = arguments.items()
    options = ", ".join(f"{name}={value}" for name, value in named)
    return "\n".join(
        [
            "It is also a network of torchvision, under the same names:",
            "",
            "```python",
            "from safetensors.torch import load_file",
            "from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet",
            "",
            f"model = ResNet({block[1]}, {layers[1]}, {options})",
            'model.load_state_dict(load_file("model.safetensors"))',
            "```",
        ]
    )
