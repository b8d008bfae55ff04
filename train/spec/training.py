"""Specifications of trainings: architecture, method, data, recipe and seed.

Every model is frozen, strict and closed, as in :mod:`collegium.search.spec`; sizes are bounded here, and what they
cost together is bounded by :func:`collegium.train.limits.check_training_cost`. Nothing here loads torch or allocates
memory in proportion to the sizes named.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from collegium.search.spec import Strict
from collegium.train.spec.architecture import Architecture, TransformerArchitecture
from collegium.train.spec.data import DataSpec, Seed, by_name
from collegium.train.spec.recipes import Recipe, RecipeSpec, default_recipe, merge_recipe

Method = Literal[
    "vanilla", "majority", "adversarial", "adversarial_majority", "learned", "ensemble", "distilled", "subset", "soup"
]
EXPANDING = frozenset({"majority", "adversarial", "adversarial_majority", "learned"})
SEVERAL_MODELS = frozenset({"ensemble", "distilled", "soup"})
#: Methods that each field of ``expansion`` means something to; the number of copies is any method's.
METHODS_OF_FIELDS = {
    "initialization": EXPANDING,
    "correct_scale": EXPANDING,
    "patterns": EXPANDING | {"subset"},
    "step_size": EXPANDING - {"majority"},
    "soup": frozenset({"soup"}),
}

Format = Literal["safetensors", "onnx", "pretrained"]
Diagnostic = Literal["sharpness", "gap", "spread"]


class ExpansionSpec(Strict):
    """The copies of each kernel that majority kernels train, and of each model that ``ensemble`` and ``soup`` train.

    ``initialization`` is ``independent`` (from scratch: every copy drawn anew) or ``replicated`` (from pretrained: all
    copies equal); ``correct_scale`` gives the mean of independent copies the variance of a single kernel. ``patterns``
    restricts the expansion to modules whose names match one of these shell-style patterns. ``step_size`` is the
    adversary's ε of Mazzawi et al. 2024, Algorithms D.1 and D.2, and the rate at which ``learned`` moves p. ``soup``
    says which models are averaged: all, or the greedy choice on validation samples.
    """

    copies: Annotated[int, Field(ge=1, le=64)] = 3
    initialization: Literal["independent", "replicated"] | None = None
    correct_scale: bool = False
    patterns: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], Field(max_length=64, strict=False)
    ] = ()
    step_size: Annotated[float, Field(gt=0, le=1e6)] | None = None
    soup: Literal["greedy", "uniform"] = "greedy"

    @model_validator(mode="after")
    def _scale_of_replicas(self) -> ExpansionSpec:
        if self.correct_scale and self.initialization == "replicated":
            raise ValueError("replicated copies keep the weight's variance: there is no scale to correct")
        return self

    def meaningless(self, method: Method) -> list[str]:
        """Fields that were given and that ``method`` does not have."""
        fields = type(self).model_fields
        return [
            field
            for field, methods in METHODS_OF_FIELDS.items()
            if method not in methods and getattr(self, field) != fields[field].default
        ]

    def of(self, method: Method) -> ExpansionSpec:
        """What of this concerns ``method``."""
        fields = type(self).model_fields
        return self.model_copy(update={field: fields[field].default for field in self.meaningless(method)})


class TrainingSpec(Strict):
    """A training: everything that determines its weights, together with the software's version and the device.

    ``expansion`` may be given as the bare number of copies, ``data`` and ``recipe`` as bare names.

    >>> from collegium import TrainingSpec
    >>> architecture = {"baseline": {"preset": "mlp-digits-6x100"}, "width": 17, "multiplicity": 20}
    >>> spec = TrainingSpec(architecture=architecture, method="majority", expansion=3, data="digits")
    >>> spec.expansion.copies, spec.merged_recipe().optimizer
    (3, 'adam')
    """

    architecture: Architecture
    method: Method = "vanilla"
    expansion: ExpansionSpec = ExpansionSpec()
    data: DataSpec
    recipe: RecipeSpec = RecipeSpec()
    seed: Seed = 0
    formats: Annotated[tuple[Format, ...], Field(max_length=3, strict=False)] = ("safetensors",)
    diagnostics: Annotated[tuple[Diagnostic, ...], Field(max_length=3, strict=False)] = ()

    @field_validator("data", "recipe", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return by_name(value)

    @field_validator("expansion", mode="before")
    @classmethod
    def _copies_alone(cls, value: Any) -> Any:
        return {"copies": value} if isinstance(value, int) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _recipe_holds_together(self) -> TrainingSpec:
        self.merged_recipe()
        return self

    @property
    def is_transformer(self) -> bool:
        """Whether the architecture is a transformer."""
        return isinstance(self.architecture, TransformerArchitecture)

    def merged_recipe(self) -> Recipe:
        """The complete recipe of this training."""
        return merge_recipe(self.recipe, default_recipe(self.data.name, transformer=self.is_transformer))
