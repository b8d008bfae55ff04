"""What a specification asks for and its training would not have: refused where it is posted, before anything is run.

A field that is left to a named recipe, or that has an effect in another cell of a study, is no error: the result of
the training that has it in vain carries a note.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from collegium.counted import counted
from collegium.search.errors import InvalidSpec, Location
from collegium.train.data.catalog import known_sample
from collegium.train.data.format import Sample
from collegium.train.models.grouping import group_network
from collegium.train.spec.architecture import BaselineArchitecture
from collegium.train.spec.recipes import Recipe
from collegium.train.spec.training import TrainingSpec

Places = Mapping[Location, Location]


def check_effects(spec: TrainingSpec, sample: Sample | None = None) -> None:
    """Refuse fields that ``spec`` gives and that would do nothing. Raises ``InvalidSpec`` with the field's path.

    ``sample`` is one of the data, where more is known of it than its name says.
    """
    for path, message in without_effect(spec, sample):
        raise InvalidSpec(path, message)


class StudyEffects:
    """Fields that do nothing in any of a study's trainings that have them."""

    def __init__(self) -> None:
        self._having: Counter[Location] = Counter()
        self._refused: dict[Location, tuple[Location, str, int]] = {}

    def add(self, spec: TrainingSpec, sample: Sample | None, places: Places) -> None:
        """One of the trainings; ``places`` are those of its fields in the study, by their first two or one parts."""
        for field in spec.recipe.given(spec.recipe_name):
            self._having[_placed(("recipe", field), places)] += 1
        for path, message in without_effect(spec, sample):
            place = _placed(path, places)
            _, first, count = self._refused.get(place, (place, message, 0))
            self._refused[place] = (_placed(path[:2], places), first, count + 1)

    def check(self) -> None:
        """Raise ``InvalidSpec`` with the path of such a field in the study."""
        for place, (field, message, count) in self._refused.items():
            if count == self._having[field]:
                raise InvalidSpec(place, message)


def _placed(path: Location, places: Places) -> Location:
    return (*places.get(path[:2], places.get(path[:1], ())), *path)


def without_effect(spec: TrainingSpec, known: Sample | None = None) -> Iterator[tuple[Location, str]]:
    """Fields that ``spec`` gives and that do nothing, each with what would be right."""
    recipe, given = spec.merged_recipe(), spec.recipe.given(spec.recipe_name)
    sample = known or known_sample(spec.data)
    if recipe.schedule == "multistep" and not recipe.milestones and given.keys() & {"schedule", "milestones"}:
        yield ("recipe", "schedule"), "without milestones the rate is constant: give the epochs at which it falls"
    for path, message in unreached(recipe):
        if path[0] in given:
            yield ("recipe", *path), f"{message}: leave it out, or train for longer"
    if "evaluate_every" in given and not spec.data.validation:
        message = "validation samples alone are evaluated on the way: hold some out (data.validation), or leave it out"
        yield ("recipe", "evaluate_every"), message
    if recipe.patience and evaluations(recipe) < 2:
        message = "the validation loss is evaluated once, at the end: give a smaller evaluate_every, or more epochs"
        yield ("recipe", "patience"), message
    for field in ("mixup", "cutmix"):
        if field in given and recipe.batch_size == 1:
            yield ("recipe", field), "samples of one batch are mixed: give a batch_size above 1, or leave it out"
    if "channels_last" in given and recipe.channels_last and not _convolves(spec, sample):
        yield ("recipe", "channels_last"), "it is a layout of images for convolutions, of which there are none here"


def unreached(recipe: Recipe) -> Iterator[tuple[Location, str]]:
    """Fields of a recipe's schedule that its epochs end before; milestones are named by their index."""
    end = f"the training ends after {counted(recipe.epochs, 'epoch')}"
    if recipe.schedule == "multistep":
        for index, milestone in enumerate(recipe.milestones):
            if milestone >= recipe.epochs:
                yield ("milestones", index), f"{end}, and the rate falls when {milestone} are over"
    if recipe.schedule == "step" and recipe.step_epochs >= recipe.epochs:
        yield ("step_epochs",), f"{end}, and the rate first falls when {recipe.step_epochs} are over"
    if recipe.schedule != "constant" and recipe.warmup_epochs == recipe.epochs:
        yield ("warmup_epochs",), f"{end}, all of which are the warm-up: the schedule {recipe.schedule!r} never begins"


def evaluations(recipe: Recipe) -> int:
    """How often a whole training evaluates the validation samples: at the end in any case."""
    return -(-recipe.epochs // recipe.evaluate_every)


def remarks(recipe: Recipe) -> Iterator[str]:
    """What a recipe asks for that its epochs leave without effect, in sentences for a result's notes."""
    missed = dict(unreached(recipe))
    beyond = [recipe.milestones[path[1]] for path in missed if path[0] == "milestones"]  # type: ignore[misc]
    end = f"The training ends after {counted(recipe.epochs, 'epoch')}"
    if beyond:
        named = " and ".join(map(str, beyond))
        rest = "the learning rate never falls" if len(beyond) == len(recipe.milestones) else "it does not fall there"
        yield f"{end}, before {counted(len(beyond), 'milestone')} of its schedule ({named}): {rest}."
    if ("step_epochs",) in missed:
        yield f"{end}, before the first {recipe.step_epochs} of its schedule are over: the learning rate never falls."
    if ("warmup_epochs",) in missed:
        yield f"{end}, all of which are the warm-up: the schedule {recipe.schedule!r} never begins."
    if recipe.patience and recipe.patience >= evaluations(recipe) - 1:  # the first one is always the best so far
        times = counted(evaluations(recipe), "evaluation")
        yield f"A patience of {recipe.patience} cannot end a training of {times}: it leaves the best one's weights."


def _convolves(spec: TrainingSpec, sample: Sample | None) -> bool:
    """Whether images are convolved; True as long as the data are not known."""
    if sample is not None and sample.kind != "image":
        return False
    architecture = spec.architecture
    if isinstance(architecture, BaselineArchitecture):
        return group_network(architecture).network.convolves
    return not spec.is_transformer
