"""Specifications of studies: architectures × methods × recipes, over several seeds on the same data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from collegium.search.errors import Location
from collegium.search.fields import Strict, wrong_fields
from collegium.train.methods import METHODS
from collegium.train.methods.method import MethodOptions
from collegium.train.spec.architecture import Architecture, TransformerArchitecture
from collegium.train.spec.data import DataSpec, Seed, by_name
from collegium.train.spec.expansion import (
    MethodName,
    Options,
    SharedOptions,
    check_shared_options,
    read_options,
    take_options,
)
from collegium.train.spec.recipes import PAPER_RATES, RECIPES, RecipeSpec, default_recipe, merge_recipe
from collegium.train.spec.training import ChosenDiagnostics, TrainingSpec

Label = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._×+-]*$")]


class StudyArchitecture(Strict):
    """An architecture and the name it has in the study's table."""

    name: Label
    architecture: Architecture


class StudyMethod(Strict):
    """A method and the name it has in the study's table; ``recipe`` overrides fields of the study's recipes.

    Fields that the study's ``sweep`` tries are the sweep's for every method, and are refused in ``recipe``.
    """

    name: Label | None = None
    method: MethodName
    expansion: Options | None = None
    recipe: RecipeSpec = RecipeSpec()

    @field_validator("expansion", mode="plain")
    @classmethod
    def _of_the_method(cls, value: Any, info: ValidationInfo) -> MethodOptions | None:
        return read_options(info.data["method"], value) if value is not None and "method" in info.data else None

    @property
    def label(self) -> str:
        """The method's name in the table."""
        return self.name or self.method


class StudyRecipe(Strict):
    """A recipe, usually an optimizer, and the name it has in the study's table."""

    name: Label
    recipe: RecipeSpec


class SweepSpec(Strict):
    """Values that are tried before the seeds are run; the best on the validation split is taken, for each cell.

    ``learning_rate`` may be ``paper``: the ten rates of Mazzawi et al. 2024, Appendix G, for the cell's optimizer.
    Several fields make a grid. ``seeds`` trainings are averaged at each point of it.
    """

    learning_rate: (
        Literal["paper"]
        | Annotated[
            tuple[Annotated[float, Field(gt=0, le=1000)], ...], Field(min_length=1, max_length=64, strict=False)
        ]
        | None
    ) = None
    epochs: (
        Annotated[tuple[Annotated[int, Field(ge=1, le=10_000)], ...], Field(min_length=1, max_length=16, strict=False)]
        | None
    ) = None
    weight_decay: (
        Annotated[tuple[Annotated[float, Field(ge=0, le=10)], ...], Field(min_length=1, max_length=16, strict=False)]
        | None
    ) = None
    seeds: Annotated[int, Field(ge=1, le=20)] = 1
    select: Literal["accuracy", "loss"] = "accuracy"
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _something(self) -> SweepSpec:
        if self.learning_rate is None and self.epochs is None and self.weight_decay is None:
            message = "name at least one of 'learning_rate', 'epochs' and 'weight_decay'"
            raise wrong_fields({("learning_rate",): message}, missing=True)
        twice: dict[Location, str] = {
            (field, index): f"{values[index]:g} is there already"
            for field in self.swept
            if (values := getattr(self, field)) != "paper"
            for index in range(len(values))
            if values[index] in values[:index]
        }
        if twice:
            raise wrong_fields(twice)
        return self

    @property
    def swept(self) -> tuple[str, ...]:
        """The recipe fields that are tried."""
        return tuple(name for name in ("learning_rate", "epochs", "weight_decay") if getattr(self, name))

    def grid(self, optimizer: str) -> list[dict[str, Any]]:
        """Every point of the grid, as recipe fields."""
        rates = PAPER_RATES[optimizer] if self.learning_rate == "paper" else self.learning_rate
        points: list[dict[str, Any]] = [{}]
        for field, values in (("learning_rate", rates), ("epochs", self.epochs), ("weight_decay", self.weight_decay)):
            points = [{**point, field: value} for point in points for value in values] if values else points
        return points


MAX_TRAININGS = 5000


class StudySpec(Strict):
    """Architectures × methods × recipes, each over several seeds on the same data.

    Each combination is a cell. With a ``sweep``, its grid is run first with a validation split held out, the best
    point is taken, and the seeds run with it; ``retrain`` gives them the validation samples back. ``seeds`` is a list,
    or a number of seeds counted from 0. With ``resplit``, each seed also seeds the data (``digits`` is split anew), so
    that standard errors include that of the split; a sweep would see the other splits' test samples, and excludes it.
    Each method takes of the common ``expansion`` the fields that it has.

    >>> from collegium import StudySpec
    >>> mlp = {"name": "mlp", "architecture": {"baseline": {"preset": "mlp-digits-6x100"}}}
    >>> StudySpec(architectures=(mlp,), methods=("vanilla", "majority"), data="digits", seeds=5).trainings()
    10
    """

    title: Annotated[str, Field(max_length=200)] = ""
    architectures: Annotated[tuple[StudyArchitecture, ...], Field(min_length=1, max_length=64, strict=False)]
    methods: Annotated[tuple[StudyMethod, ...], Field(min_length=1, max_length=32, strict=False)] = (
        StudyMethod(method="vanilla"),
    )
    recipes: Annotated[tuple[StudyRecipe, ...], Field(min_length=1, max_length=16, strict=False)] = (
        StudyRecipe(name="default", recipe=RecipeSpec()),
    )
    expansion: SharedOptions = Field(default={})
    data: DataSpec
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1000, strict=False)] = (0, 1, 2)
    sweep: SweepSpec | None = None
    retrain: bool = True
    resplit: bool = False
    diagnostics: ChosenDiagnostics = ()

    @field_validator("methods", mode="before")
    @classmethod
    def _method_names(cls, value: Any) -> Any:
        return [{"method": v} if isinstance(v, str) else v for v in value] if isinstance(value, list | tuple) else value

    @field_validator("expansion", mode="plain")
    @classmethod
    def _of_some_method(cls, value: Any, info: ValidationInfo) -> dict[str, Any]:
        methods: tuple[StudyMethod, ...] | None = info.data.get("methods")
        taking = None if methods is None else [method.method for method in methods if method.expansion is None]
        return check_shared_options(value, taking)

    @field_validator("data", mode="before")
    @classmethod
    def _data_name(cls, value: Any) -> Any:
        return by_name(value)

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_of_seeds(cls, value: Any) -> Any:
        is_count = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1000
        return tuple(range(value)) if is_count else value

    @model_validator(mode="after")
    def _distinct_and_bounded(self) -> StudySpec:
        lists: dict[str, list[Any]] = {
            "architectures": [a.name for a in self.architectures],
            "methods": [m.label for m in self.methods],
            "recipes": [r.name for r in self.recipes],
            "seeds": list(self.seeds),
        }
        twice = {
            (what, index, *(() if what == "seeds" else ("name",))): f"{what} must have distinct names: {names[index]!r}"
            for what, names in lists.items()
            for index in range(len(names))
            if names[index] in names[:index]
        }
        if twice:
            raise wrong_fields(twice)
        if self.resplit and self.sweep is not None:
            raise wrong_fields({("resplit",): "a sweep is chosen on one split of the data: leave resplit off"})
        if not self.retrain and self.sweep is None:
            raise wrong_fields({("retrain",): "only what a sweep has chosen is trained again: leave it out"})
        if self.trainings() > MAX_TRAININGS:
            points = {} if self.sweep is None else {"sweep": self.sweep.grid("adam") * self.sweep.seeds}
            longest = max(lists | points, key=lambda name: len((lists | points)[name]))
            message = f"the study would run {self.trainings()} trainings; at most {MAX_TRAININGS} are allowed"
            raise wrong_fields({(longest,): message})
        return self

    @model_validator(mode="after")
    def _swept_fields_are_the_sweeps(self) -> StudySpec:
        """A field that the sweep tries replaces any other value, so that rows which differ in it alone are one."""
        swept = () if self.sweep is None else self.sweep.swept
        wrong: dict[Location, str] = {
            ("methods", row, "recipe", field): f"the sweep tries values of {field} in the place of this one, for every "
            "method: leave it out here, or out of the sweep"
            for row, method in enumerate(self.methods)
            for field in swept
            if getattr(method.recipe, field) is not None
        }
        left: list[dict[str, Any]] = []
        for column, recipe in enumerate(self.recipes):
            given = recipe.recipe.model_dump(exclude_none=True)
            left.append({name: value for name, value in given.items() if name not in swept})
            field = next((name for name in swept if name in given), None)
            if field is not None and left[-1] in left[:-1]:
                same = self.recipes[left.index(left[-1])].name
                wrong["recipes", column, "recipe", field] = (
                    f"the sweep tries values of {field} in the place of this one, which leaves nothing that differs "
                    f"from {same!r}: leave out this recipe, or the field of the sweep"
                )
        if wrong:
            raise wrong_fields(wrong)
        return self

    @model_validator(mode="after")
    def _recipes_hold_together(self) -> StudySpec:
        swept = {"epochs": min(self.sweep.epochs)} if self.sweep is not None and self.sweep.epochs else {}
        wrong: dict[Location, str] = {}
        for row, method in enumerate(self.methods):
            for column, recipe in enumerate(self.recipes):
                for field, message in self._contradictions(method, recipe, swept):
                    place: Location = ("methods", row, "recipe", field)
                    if field in swept:
                        place = ("sweep", field)
                    elif getattr(method.recipe, field) is None:
                        place = ("recipes", column, "recipe", field)
                    wrong.setdefault(place, message)
        if wrong:
            raise wrong_fields(wrong)
        return self

    def _contradictions(
        self, method: StudyMethod, recipe: StudyRecipe, swept: dict[str, Any]
    ) -> Iterator[tuple[str, str]]:
        """Fields of a cell's recipe that make no sense together, one of each, and what would be right."""
        for default in {self.default_recipe_of(architecture) for architecture in self.architectures}:
            try:
                merge_recipe(self.recipe_for(method, recipe, **swept), default)
            except ValidationError as error:
                yield from ((str(item["loc"][0]), item["msg"].removeprefix("Value error, ")) for item in error.errors())

    def recipe_for(self, method: StudyMethod, recipe: StudyRecipe, **fields: Any) -> RecipeSpec:
        """The recipe of one cell: the study's, overridden by the method's, overridden by ``fields``."""
        merged = {
            **recipe.recipe.model_dump(exclude_none=True), **method.recipe.model_dump(exclude_none=True), **fields,
        }  # fmt: skip
        return RecipeSpec(**merged)

    def points_of(
        self, architecture: StudyArchitecture, method: StudyMethod, recipe: StudyRecipe
    ) -> list[dict[str, Any]]:
        """The sweep's grid for one cell, whose optimizer decides what ``paper`` means; one empty point without it."""
        if self.sweep is None:
            return [{}]
        cell = self.recipe_for(method, recipe)
        name = cell.name or self.default_recipe_of(architecture)
        return self.sweep.grid(cell.optimizer or RECIPES[name].optimizer)

    def default_recipe_of(self, architecture: StudyArchitecture) -> str:
        """Name of the recipe whose fields a cell has that its own recipe leaves out."""
        transformer = isinstance(architecture.architecture, TransformerArchitecture)
        return default_recipe(self.data.name, transformer=transformer)

    def training(
        self,
        architecture: StudyArchitecture,
        method: StudyMethod,
        recipe: StudyRecipe,
        *,
        seed: int = 0,
        validation: float | None = None,
        **fields: Any,
    ) -> TrainingSpec:
        """One training of a cell; ``fields`` override the recipe, ``validation`` the fraction held out.

        It exports no model. A method that chooses by validation samples, and early stopping, which watches them, keep
        those of the sweep.
        """
        cell, options = self.recipe_for(method, recipe, **fields), self.options_for(method)
        held_out = self.data.validation if validation is None else validation
        if not held_out and (cell.patience or METHODS[method.method](options).needs_validation):
            held_out = self.data.validation or (self.sweep.validation if self.sweep else 0.1)
        data_seed = self.data.seed + seed if self.resplit else self.data.seed
        return TrainingSpec(
            architecture=architecture.architecture,
            method=method.method,
            expansion=options,
            data=self.data.model_copy(update={"validation": held_out, "seed": data_seed}),
            recipe=cell,
            seed=seed,
            formats=(),
            diagnostics=self.diagnostics,
        )

    @property
    def sweep_validation(self) -> float:
        """The fraction that is held out while points are tried, or, without a sweep, throughout."""
        return self.data.validation or (0.0 if self.sweep is None else self.sweep.validation)

    def options_for(self, method: StudyMethod) -> MethodOptions:
        """The options of one method: its own, or those of the study's that it has."""
        return take_options(method.method, self.expansion) if method.expansion is None else method.expansion

    def trainings(self) -> int:
        """How many trainings the study runs, sweep included."""
        points = len(self.sweep.grid("adam")) * self.sweep.seeds if self.sweep else 0
        cells = len(self.architectures) * len(self.methods) * len(self.recipes)
        return cells * (points + len(self.seeds))
