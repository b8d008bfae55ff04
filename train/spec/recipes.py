"""How a network is trained: the recipes of the two papers by name, every field of which can be overridden.

A :class:`RecipeSpec` is what a user posts: a name, some fields, or both. :func:`merge_recipe` fills the rest from the
named recipe, or from the one that suits the data, and gives a complete :class:`Recipe`. Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from collegium.search.errors import Location
from collegium.search.fields import Strict, each_once, wrong_fields
from collegium.train.data.catalog import recipe_for
from collegium.train.data.format import GENERIC_RECIPE

Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["constant", "step", "multistep", "cosine"]
Precision = Literal["fp32", "tf32", "bf16"]
Augmentation = Literal["flip", "pad_crop", "random_resized_crop", "color", "randaugment"]

Epochs = Annotated[int, Field(ge=1, le=10_000)]
BatchSize = Annotated[int, Field(ge=1, le=65_536)]
Rate = Annotated[float, Field(gt=0, le=1000)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Decay = Annotated[float, Field(ge=0, le=10)]
Factor = Annotated[float, Field(gt=0, le=1)]


def _off_or_mixing(alpha: float) -> float:
    if 0 < alpha < LEAST_ALPHA:
        raise ValueError(f"give 0, which switches it off, or at least {LEAST_ALPHA}")
    return alpha


LEAST_ALPHA = 0.001
Alpha = Annotated[float, Field(ge=0, le=1000), AfterValidator(_off_or_mixing)]
Milestones = Annotated[tuple[Epochs, ...], Field(max_length=64, strict=False)]
Augmentations = Annotated[tuple[Augmentation, ...], Field(max_length=8, strict=False), AfterValidator(each_once)]
Operations = Annotated[int, Field(ge=1, le=15)]
Magnitude = Annotated[int, Field(ge=1, le=29)]
Count = Annotated[int, Field(ge=0, le=10_000)]


_NESTEROV = "nesterov needs a momentum: give a momentum above 0, or leave nesterov out"


class RecipeSpec(Strict):
    """A recipe's name and the fields that differ from it; a field left out is the named recipe's own.

    ``clip_norm``, ``patience``, ``sharpness_every`` and ``accumulate`` are switched off by 0, 0, 0 and 1.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    epochs: Epochs | None = None
    batch_size: BatchSize | None = None
    optimizer: Optimizer | None = None
    learning_rate: Rate | None = None
    momentum: Fraction | None = None
    nesterov: bool | None = None
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] | None = None
    weight_decay: Decay | None = None
    schedule: Schedule | None = None
    milestones: Milestones | None = None
    step_epochs: Epochs | None = None
    factor: Factor | None = None
    warmup_epochs: Annotated[float, Field(ge=0, le=1000)] | None = None
    final_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    label_smoothing: Fraction | None = None
    dropout: Fraction | None = None
    mixup: Alpha | None = None
    cutmix: Alpha | None = None
    augment: Augmentations | None = None
    augment_operations: Operations | None = None
    augment_magnitude: Magnitude | None = None
    precision: Precision | None = None
    channels_last: bool | None = None
    compile: bool | None = None
    clip_norm: Annotated[float, Field(ge=0, le=1e6)] | None = None
    accumulate: Annotated[int, Field(ge=1, le=1024)] | None = None
    patience: Count | None = None
    evaluate_every: Epochs | None = None
    sharpness_every: Count | None = None
    metric_steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None

    def given(self, default: str) -> dict[str, Any]:
        """The fields that differ both from the recipe that is named, or ``default``, and from what is usual.

        What a result or a list of recipes has may be given back as it is.
        """
        base = RECIPES[self.name or default]
        own = {name: value for name, value in self if value is not None and name != "name"}
        usual = Recipe.model_fields
        return {name: value for name, value in own.items() if value not in (usual[name].default, getattr(base, name))}

    @field_validator("name")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in RECIPES:
            raise ValueError(f"unknown recipe {name!r}; known are {', '.join(RECIPES)}")
        return name

    @field_validator("nesterov")
    @classmethod
    def _accelerates_a_momentum(cls, nesterov: bool | None, info: ValidationInfo) -> bool | None:
        if nesterov and info.data.get("momentum") == 0:
            raise ValueError(_NESTEROV)
        return nesterov


class Recipe(Strict):
    """A complete recipe.

    Rates: ``learning_rate`` is that of the whole batch. ``schedule`` ``step`` multiplies it by ``factor`` every
    ``step_epochs`` epochs, ``multistep`` at each of ``milestones``, ``cosine`` lets it fall to ``final_rate`` times its
    start; a linear warm-up of ``warmup_epochs`` comes first. ``accumulate`` splits a batch into that many parts whose
    gradients are added, fewer where batch norms would have one sample of a part. ``dropout`` is the probability with
    which hidden activations are set to zero in training: those of every hidden layer of an MLP, of every layer of a
    block but the last, and the features that the head of a residual network reads. ``mixup`` and ``cutmix`` are the α
    of Beta(α, α), by which samples are mixed in pairs; where both are given, each batch is mixed by one of them.
    ``augment_operations`` and ``augment_magnitude``, the latter in thirtieths, are N and M of ``randaugment``.
    ``patience`` stops after so many evaluations without a better validation loss. ``sharpness_every`` measures the
    stochastic sharpness of majority kernels every so many epochs and at the end, on 512 training samples over 4 draws
    (0: never); methods that draw no mixture have none.
    """

    epochs: Epochs = 60
    batch_size: BatchSize = 128
    optimizer: Optimizer = "adam"
    learning_rate: Rate = 1e-3
    momentum: Fraction = 0.9
    nesterov: bool = False
    betas: Annotated[tuple[Fraction, Fraction], Field(strict=False)] = (0.9, 0.999)
    weight_decay: Decay = 0.0
    schedule: Schedule = "constant"
    milestones: Milestones = ()
    step_epochs: Epochs = 30
    factor: Factor = 0.1
    warmup_epochs: Annotated[float, Field(ge=0, le=1000)] = 0.0
    final_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    label_smoothing: Fraction = 0.0
    dropout: Fraction = 0.0
    mixup: Alpha = 0.0
    cutmix: Alpha = 0.0
    augment: Augmentations = ()
    augment_operations: Operations = 2
    augment_magnitude: Magnitude = 10
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    clip_norm: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    accumulate: Annotated[int, Field(ge=1, le=1024)] = 1
    patience: Count = 0
    evaluate_every: Epochs = 1
    sharpness_every: Count = 0
    metric_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 50

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        found = contradictions(self)
        if found:
            raise wrong_fields({(fields[0],): message for fields, message in found})
        return self


def contradictions(recipe: Recipe) -> list[tuple[tuple[str, ...], str]]:
    """Fields of ``recipe`` that make no sense together, the one to be changed first, and what would be right."""
    found: list[tuple[tuple[str, ...], str]] = []
    if list(recipe.milestones) != sorted(set(recipe.milestones)):
        found.append((("milestones",), "milestones must rise strictly"))
    if recipe.nesterov and recipe.optimizer == "sgd" and not recipe.momentum:
        found.append((("nesterov", "momentum", "optimizer"), _NESTEROV))
    if recipe.accumulate > recipe.batch_size:
        found.append((("accumulate", "batch_size"), f"accumulate must not exceed batch_size, {recipe.batch_size}"))
    if recipe.warmup_epochs > recipe.epochs:
        found.append((("warmup_epochs", "epochs"), f"warmup_epochs must not exceed epochs, {recipe.epochs}"))
    return found


_SGD: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "channels_last": True}

RECIPES: dict[str, Recipe] = {
    "digits": Recipe(epochs=60, batch_size=128, learning_rate=3e-3),
    "synthetic": Recipe(epochs=30, batch_size=128, learning_rate=1e-3),
    GENERIC_RECIPE: Recipe(epochs=30, batch_size=128, learning_rate=1e-3),
    "ce-mnist": Recipe(epochs=70, batch_size=128, learning_rate=1e-3),
    "ce-cifar": Recipe(
        **_SGD,
        epochs=300,
        batch_size=128,
        weight_decay=5e-4,
        schedule="multistep",
        milestones=(150, 225),
        factor=0.1,
        augment=("flip", "pad_crop"),
    ),
    "ce-imagenet32": Recipe(
        **{**_SGD, "learning_rate": 0.08},
        epochs=80,
        batch_size=1024,
        weight_decay=5e-4,
        schedule="multistep",
        milestones=(20, 40, 60),
        factor=0.2,
        augment=("flip", "pad_crop"),
    ),
    "ce-imagenet": Recipe(
        **_SGD,
        epochs=100,
        batch_size=256,
        weight_decay=1e-4,
        schedule="multistep",
        milestones=(30, 60, 90),
        factor=0.1,
        augment=("random_resized_crop", "flip", "color"),
    ),
    "mk-fc-adam": Recipe(epochs=30, batch_size=256, optimizer="adam", learning_rate=1e-3),
    "mk-fc-sgd": Recipe(epochs=30, batch_size=256, optimizer="sgd", learning_rate=0.025, momentum=0.0),
    "mk-resnet50": Recipe(
        **_SGD,
        epochs=90,
        batch_size=256,
        weight_decay=1e-4,
        schedule="step",
        step_epochs=30,
        factor=0.1,
        augment=("random_resized_crop", "flip"),
    ),
    "mk-resnet50-long": Recipe(
        **_SGD,
        epochs=330,
        batch_size=256,
        weight_decay=1e-4,
        schedule="multistep",
        milestones=(90, 180, 240),
        factor=0.1,
        augment=("random_resized_crop", "flip"),
    ),
    "mk-t5": Recipe(epochs=10, batch_size=32, optimizer="adamw", learning_rate=3e-4, clip_norm=1.0),
}
"""Recipes by name. ``ce-*`` are those of Littwin et al. 2020, ``mk-*`` those of Mazzawi et al. 2024. The papers give
neither the epochs of ``mk-fc-*`` nor the rates of ``ce-mnist`` and ``mk-t5``; these are chosen here."""

PAPER_RATES: dict[str, tuple[float, ...]] = {
    "adam": tuple(0.001 * 1.5**i for i in range(-4, 6)),
    "adamw": tuple(0.001 * 1.5**i for i in range(-4, 6)),
    "sgd": tuple(0.025 * 1.5**i for i in range(-4, 6)),
}
"""Learning rates of the sweep in Mazzawi et al. 2024, Appendix G, by optimizer."""


def default_recipe(data: str, *, transformer: bool = False) -> str:
    """Name of the recipe that suits a data set; ``transformer`` marks a transformer that is fine-tuned.

    It is the data format's own, and ``generic`` for data that no format names. Raises ``ValueError`` where a format
    names a recipe that does not exist.
    """
    name = "mk-t5" if transformer else recipe_for(data)
    if name not in RECIPES:
        raise ValueError(f"the format of {data!r} names the unknown recipe {name!r}; known are {', '.join(RECIPES)}")
    return name


def merge_recipe(spec: RecipeSpec, default: str) -> Recipe:
    """The complete recipe: ``spec``'s own fields over those of the recipe it names, or of ``default``.

    Raises ``ValidationError`` where the fields together make no sense, at one that ``spec`` gives.
    """
    hashable: Any = spec  # frozen, which its type does not say
    return _merged(hashable, default)


@lru_cache(maxsize=256)  # cells of a study have recipes in common
def _merged(spec: RecipeSpec, default: str) -> Recipe:
    own = {name: value for name, value in spec if value is not None and name != "name"}
    merged = RECIPES[spec.name or default].model_copy(update=own)
    wrong: dict[Location, str] = {(name,): message for name, message in without_effect(merged, spec.given(default))}
    for fields, message in contradictions(merged):
        wrong[next(name for name in fields if name in own),] = message
    if wrong:
        raise wrong_fields(wrong)
    return merged


def without_effect(recipe: Recipe, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Fields of ``given`` that ``recipe`` does not use, each with what would be right."""
    for (field, value), names in USED_BY.items():
        chosen = getattr(recipe, field)
        if not set(value) & set(chosen if isinstance(chosen, tuple) else (chosen,)):
            one = " or ".join(map(repr, value))
            yield from ((name, f"only {field} {one} uses it: leave it out") for name in names if name in given)


#: Fields that have a meaning with some values of another field alone. Momentum is left out: it stands beside either
#: optimizer in comparisons of both.
USED_BY: dict[tuple[str, tuple[str, ...]], tuple[str, ...]] = {
    ("optimizer", ("sgd",)): ("nesterov",),
    ("optimizer", ("adam", "adamw")): ("betas",),
    ("schedule", ("multistep",)): ("milestones",),
    ("schedule", ("step",)): ("step_epochs",),
    ("schedule", ("step", "multistep")): ("factor",),
    ("schedule", ("cosine",)): ("final_rate",),
    ("augment", ("randaugment",)): ("augment_operations", "augment_magnitude"),
}


def describe_recipes() -> list[dict[str, Any]]:
    """Every recipe with its name, as JSON-able dictionaries."""
    return [{"name": name, **recipe.model_dump(mode="json")} for name, recipe in RECIPES.items()]
