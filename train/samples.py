"""Whether data suit what a training does with them, as far as a sample is known without reading any."""

from __future__ import annotations

from collegium.counted import counted
from collegium.search.errors import InvalidSpec, Location
from collegium.train.data.catalog import known_sample
from collegium.train.data.format import Sample, steps_per_epoch
from collegium.train.data.formats.text import TextFolder
from collegium.train.spec.architecture import TransformerArchitecture
from collegium.train.spec.data import DataSpec
from collegium.train.spec.recipes import Recipe
from collegium.train.spec.training import TrainingSpec


def sample_of(spec: TrainingSpec, known: Sample | None = None) -> Sample | None:
    """A sample as far as it is known: ``known``, or what the data's name says. A transformer's data without a name of
    its own are a folder of text.
    """
    sample = known or known_sample(spec.data)
    return TextFolder().sample(spec.data) if sample is None and spec.is_transformer else sample


def check_data(spec: TrainingSpec, known: Sample | None = None) -> None:
    """Refuse labels and fractions that leave a training nothing to do. Raises ``InvalidSpec`` with the field's path."""
    check_held_out(spec.data, spec.data.validation, ("data", "validation"), known)
    samples = training_samples(spec.data, spec.data.validation, known)
    if spec.data.label_noise and samples is not None and round(spec.data.label_noise * samples) == 0:
        message = f"this replaces none of {samples} training labels: give more, or leave it out"
        raise InvalidSpec(("data", "label_noise"), message)
    sample = sample_of(spec, known)
    if sample is None:
        return
    if sample.rewritten and spec.data.label_noise:
        message = f"the labels of {spec.data.name} are sequences, and noise needs labels that are classes: leave it out"
        raise InvalidSpec(("data", "label_noise"), message)
    if isinstance(spec.architecture, TransformerArchitecture) and sample.kind == "tokens":
        _check_head(spec.architecture, spec.data.name, rewritten=sample.rewritten)


def check_held_out(data: DataSpec, fraction: float, path: Location, known: Sample | None = None) -> None:
    """Refuse a fraction for validation that leaves no samples on one side. Raises ``InvalidSpec`` with ``path``."""
    count = training_samples(data, 0.0, known)
    if not fraction or count is None:
        return
    held_out = round(fraction * count)
    if not 0 < held_out < count:
        message = (
            f"this leaves {held_out} of {count} training samples for validation: choose a fraction that leaves "
            "samples on both sides"
        )
        raise InvalidSpec(path, message)


def training_samples(data: DataSpec, validation: float, known: Sample | None = None) -> int | None:
    """The most that there can be to train on beside a fraction for ``validation``; None where nothing bounds it."""
    sample = known or known_sample(data)
    counts = [count for count in (data.limit, sample and sample.training) if count is not None]
    return min(counts) - round(validation * min(counts)) if counts else None


def most_steps(data: DataSpec, validation: float, recipe: Recipe, known: Sample | None = None) -> int | None:
    """The most optimizer steps that a training can have; None where the samples are not counted."""
    samples = training_samples(data, validation, known)
    return None if samples is None else recipe.epochs * steps_per_epoch(samples, recipe.batch_size)


def check_recipe(spec: TrainingSpec, recipe: Recipe, sample: Sample) -> None:
    """Refuse what a recipe does to samples of another kind. Raises ``InvalidSpec`` with the field's path."""
    name = spec.data.name
    if recipe.mixup and sample.kind == "tokens":
        raise InvalidSpec(("recipe", "mixup"), "tokens cannot be mixed: leave it out")
    if recipe.cutmix and sample.kind != "image":
        raise InvalidSpec(("recipe", "cutmix"), f"{name} has no images: leave it out, or use mixup")
    if "randaugment" in recipe.augment and (sample.kind != "image" or sample.shape[0] not in (1, 3)):
        what = "no images" if sample.kind != "image" else f"images of {counted(sample.shape[0], 'channel')}"
        raise InvalidSpec(("recipe", "augment"), f"{name} has {what}, and randaugment takes grey and colour images")
    if sample.kind != "image" and "augment" in spec.recipe.given(spec.recipe_name):
        raise InvalidSpec(("recipe", "augment"), f"{name} has no images: leave it out")


def _check_head(architecture: TransformerArchitecture, name: str, *, rewritten: bool) -> None:
    if rewritten and not architecture.is_decoder:
        message = f"it has no decoder, and the labels of {name} are sequences: choose t5 or bart"
        raise InvalidSpec(("architecture", "transformer"), message)
    if architecture.head is not None and (architecture.head == "sequence") != rewritten:
        what = "sequences" if rewritten else "classes"
        message = f"the labels of {name} are {what}, which a {architecture.head} head does not give: leave it out"
        raise InvalidSpec(("architecture", "head"), message)
