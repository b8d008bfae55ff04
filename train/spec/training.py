"""Specifications of trainings: architecture, method, data, recipe and seed.

Every model is frozen, strict and closed, as in :mod:`collegium.search.spec`; sizes are bounded here, and what they
cost together is bounded by :func:`collegium.train.limits.check_training_cost`. Nothing here loads torch or allocates
memory in proportion to the sizes named.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from collegium.search.fields import Strict, each_once
from collegium.train.export import EXPORT_FORMATS
from collegium.train.methods import METHODS
from collegium.train.methods.method import Method, MethodOptions
from collegium.train.spec.architecture import Architecture, TransformerArchitecture
from collegium.train.spec.data import DataSpec, Seed, by_name
from collegium.train.spec.expansion import MethodName, Options, read_options
from collegium.train.spec.extension import NameIn
from collegium.train.spec.recipes import Recipe, RecipeSpec, default_recipe, merge_recipe

FormatName = Annotated[str, NameIn(EXPORT_FORMATS)]
_AT_MOST = Field(max_length=len(EXPORT_FORMATS.names), strict=False)
Formats = Annotated[tuple[FormatName, ...], _AT_MOST, AfterValidator(each_once)]
Diagnostic = Literal["sharpness", "gap", "spread"]
ChosenDiagnostics = Annotated[tuple[Diagnostic, ...], Field(max_length=3, strict=False), AfterValidator(each_once)]


class TrainingSpec(Strict):
    """A training: everything that determines its weights, together with the software's version and the device.

    ``expansion`` holds the options of the method. It may be given as the bare number of copies, ``data`` and
    ``recipe`` as bare names.

    >>> from collegium import TrainingSpec
    >>> architecture = {"baseline": {"preset": "mlp-digits-6x100"}, "width": 17, "multiplicity": 20}
    >>> spec = TrainingSpec(architecture=architecture, method="majority", expansion=3, data="digits")
    >>> spec.expansion.copies, spec.merged_recipe().optimizer
    (3, 'adam')
    """

    architecture: Architecture
    method: MethodName = "vanilla"
    expansion: Options = Field(default={}, validate_default=True)
    data: DataSpec
    recipe: RecipeSpec = Field(default=RecipeSpec(), validate_default=True)
    seed: Seed = 0
    formats: Formats = ("safetensors",)
    diagnostics: ChosenDiagnostics = ()

    @field_validator("data", "recipe", mode="before")
    @classmethod
    def _name_alone(cls, value: Any) -> Any:
        return by_name(value)

    @field_validator("expansion", mode="plain")
    @classmethod
    def _of_the_method(cls, value: Any, info: ValidationInfo) -> MethodOptions:
        known = "method" in info.data  # otherwise the method's name is the error
        return read_options(info.data["method"], value) if known else MethodOptions()

    @field_validator("recipe")
    @classmethod
    def _holds_together(cls, recipe: RecipeSpec, info: ValidationInfo) -> RecipeSpec:
        if {"architecture", "data"} <= info.data.keys():  # otherwise one of these is the error
            transformer = isinstance(info.data["architecture"], TransformerArchitecture)
            merge_recipe(recipe, default_recipe(info.data["data"].name, transformer=transformer))
        return recipe

    @property
    def is_transformer(self) -> bool:
        """Whether the architecture is a transformer."""
        return isinstance(self.architecture, TransformerArchitecture)

    @property
    def is_pretrained(self) -> bool:
        """Whether training starts from pretrained weights."""
        return getattr(self.architecture, "pretrained", None) is not None

    def new_method(self) -> Method:
        """The method with its options, for one training. Raises ``InvalidSpec`` for options that do not suit it."""
        return METHODS[self.method](self.expansion.suited_to(pretrained=self.is_pretrained))

    @property
    def recipe_name(self) -> str:
        """The recipe whose fields apply where this training gives none: the one it names, or the data's."""
        return self.recipe.name or default_recipe(self.data.name, transformer=self.is_transformer)

    def merged_recipe(self) -> Recipe:
        """The complete recipe of this training."""
        return merge_recipe(self.recipe, self.recipe_name)
