"""What a training may cost; arithmetic on the specification, before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from collegium.search.errors import InvalidSpec, Location, SampleMismatch
from collegium.search.networks.family import FAMILIES
from collegium.train.data.catalog import foreign_options, known_sample
from collegium.train.data.format import DataFormat, Sample
from collegium.train.data.formats.text import TextFolder, TextSpec, require_tokenizers
from collegium.train.effects import StudyEffects
from collegium.train.errors import MissingExtra
from collegium.train.export import EXPORT_FORMATS
from collegium.train.majority.targets.names import Names
from collegium.train.methods.method import Method
from collegium.train.models.grouping import GroupedNetwork, group_network
from collegium.train.models.names import module_names
from collegium.train.models.norms import needs_two_samples
from collegium.train.samples import check_data, check_held_out, check_recipe, most_steps, sample_of
from collegium.train.spec.architecture import BaselineArchitecture, TransformerArchitecture
from collegium.train.spec.data import DataSpec
from collegium.train.spec.recipes import Recipe, merge_recipe
from collegium.train.spec.study import StudyArchitecture, StudyMethod, StudyRecipe, StudySpec
from collegium.train.spec.training import TrainingSpec

MAX_PARAMETERS = 10**10
MAX_BYTES = 2**40
FLOAT = 4
#: Numbers kept for each trained weight, itself and its gradient included.
STATE = {"sgd": 3, "adam": 4, "adamw": 4}
#: Sizes that transformers take where the configuration gives none; those of T5-small and BERT-base.
TRANSFORMER_DEFAULTS = {
    "t5": {"hidden": 512, "inner": 2048, "layers": 12, "vocabulary": 32128},
    "bart": {"hidden": 1024, "inner": 4096, "layers": 24, "vocabulary": 50265},
    "bert": {"hidden": 768, "inner": 3072, "layers": 12, "vocabulary": 30522},
    "roberta": {"hidden": 768, "inner": 3072, "layers": 12, "vocabulary": 50265},
    "distilbert": {"hidden": 768, "inner": 3072, "layers": 6, "vocabulary": 30522},
    "electra": {"hidden": 256, "inner": 1024, "layers": 12, "vocabulary": 30522},
}


@dataclass(frozen=True)
class NetworkSize:
    """``parameters`` of a plain model, and the numbers that its forward pass leaves for each sample (``features``).

    ``ensemble`` is the network that was counted; a transformer has none.
    """

    parameters: int
    features: int
    ensemble: GroupedNetwork | None = None


@dataclass(frozen=True)
class TrainingCost:
    """``parameters`` of the plain model, ``bytes`` of memory that training it needs at least, data not included."""

    parameters: int
    bytes: int


def check_training_cost(
    spec: TrainingSpec, *, available: int = MAX_BYTES, processes: int = 1, sample: Sample | None = None
) -> TrainingCost | None:
    """What a training costs, or None where it follows from a search's result or a pretrained folder.

    ``sample`` is one of the data, where more is known of it than its name says. Raises ``InvalidSpec`` with the path of
    the field where it is inconsistent or needs more than ``available`` bytes, and where its batches are too small for
    so many ``processes``.
    """
    return _check(spec, _network_size(spec), available, processes, sample)


def _check(
    spec: TrainingSpec, size: NetworkSize | None, available: int, processes: int = 1, known: Sample | None = None
) -> TrainingCost | None:
    check_data_options(spec.data)
    check_formats(spec)
    method = spec.new_method()
    recipe = spec.merged_recipe()
    method.check(recipe)
    steps = most_steps(spec.data, spec.data.validation, recipe, known)
    if steps is not None:
        method.check_steps(steps)
    if recipe.dropout:
        _check_dropout(spec, size)
    sample = known or known_sample(spec.data)
    if sample is not None:
        check_recipe(spec, recipe, sample)
    check_data(spec, known)
    _check_validation(spec, method, recipe)
    method.check_names(lambda: _names(spec, size))
    _check_batches(spec, recipe, size, processes)
    if size is None:
        return None
    cost = TrainingCost(size.parameters, _bytes(recipe, method, size))
    if cost.bytes > available:
        raise InvalidSpec(
            ("architecture",),
            f"training needs about {cost.bytes / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB are there: "
            "choose a smaller network, a smaller batch_size or accumulate, or fewer copies",
        )
    return cost


def _network_size(spec: TrainingSpec) -> NetworkSize | None:
    """Size of the plain model; None where it follows from a search's result or a pretrained folder."""
    architecture = spec.architecture
    if isinstance(architecture, BaselineArchitecture):
        ensemble = _at_samples(group_network(architecture), spec)
        size = NetworkSize(ensemble.parameters, ensemble.features, ensemble)
    elif isinstance(architecture, TransformerArchitecture) and architecture.pretrained is None:
        size = _transformer(architecture, spec)
    else:
        return None
    if size.parameters > MAX_PARAMETERS:
        raise InvalidSpec(
            ("architecture",), f"the network has {size.parameters:.3g} parameters; the most that is trained is 1e10"
        )
    return size


def _names(spec: TrainingSpec, size: NetworkSize | None) -> Names | None:
    """The names in the network, as far as they are known without building it."""
    if size is None or size.ensemble is None:
        return None
    return module_names(size.ensemble, dropout=spec.merged_recipe().dropout)


def _at_samples(ensemble: GroupedNetwork, spec: TrainingSpec) -> GroupedNetwork:
    """For the samples of the data, as far as they are known; that they do not fit is said elsewhere."""
    sample = known_sample(spec.data)
    if sample is None or sample.kind == "tokens":
        return ensemble  # what becomes of tokens before a network reads them keeps nothing for the backward pass
    try:
        return ensemble.with_samples(sample.shape)
    except SampleMismatch:
        return ensemble


def _check_validation(spec: TrainingSpec, method: Method, recipe: Recipe) -> None:
    if spec.data.validation:
        return
    if method.needs_validation:
        message = f"{method.name} chooses by validation samples: hold some out, such as 0.1"
        raise InvalidSpec(("data", "validation"), message)
    if recipe.patience:
        message = "early stopping watches the validation loss: hold some samples out, such as 0.1"
        raise InvalidSpec(("recipe", "patience"), message)


def _check_batches(spec: TrainingSpec, recipe: Recipe, size: NetworkSize | None, processes: int) -> None:
    """Each process takes its share of a batch, of which batch norms may need two samples."""
    check_processes(recipe, processes)
    if size is None or size.ensemble is None:
        return
    sample = known_sample(spec.data)
    few = recipe.batch_size < 2 * processes
    if (few or spec.data.limit == 1) and needs_two_samples(size.ensemble, None if sample is None else sample.shape):
        message = "the batch norms of this network take the variance of two samples at least in each process"
        raise InvalidSpec(("recipe", "batch_size") if few else ("data", "limit"), f"{message}: give more")


def check_processes(recipe: Recipe, processes: int) -> None:
    """Refuse batches of fewer samples than ``processes``, which share them. Raises ``InvalidSpec``."""
    if recipe.batch_size < processes:
        message = f"{processes} processes share a batch: give at least {processes}, or a device of fewer processes"
        raise InvalidSpec(("recipe", "batch_size"), message)


def check_split(spec: TrainingSpec, samples: int, sample: Sample, processes: int) -> None:
    """Refuse so few training ``samples`` that a process has none, or a batch norm one. Raises ``InvalidSpec``."""
    place: Location = ("data",) if spec.data.limit is None else ("data", "limit")
    if samples < processes:
        raise InvalidSpec(place, f"there are {samples} training samples for {processes} processes: give more")
    architecture = spec.architecture
    if samples >= 2 * processes or not isinstance(architecture, BaselineArchitecture):
        return
    if needs_two_samples(_at_samples(group_network(architecture), spec), sample.shape):
        message = "the batch norms of this network take the variance of two samples at least in each process"
        raise InvalidSpec(place, f"{message}, and there are {samples} for training: give more")


def _check_dropout(spec: TrainingSpec, size: NetworkSize | None) -> None:
    if isinstance(spec.architecture, TransformerArchitecture):
        message = "transformers have dropout of their own: set it in architecture.config, such as dropout_rate of T5"
        raise InvalidSpec(("recipe", "dropout"), message)
    family = None if size is None or size.ensemble is None else size.ensemble.network.family
    if family is not None and not FAMILIES[family].dropout:
        raise InvalidSpec(("recipe", "dropout"), f"networks of the family {family} have no dropout: leave it out")


def check_samples(spec: TrainingSpec, sample: Sample) -> None:
    """Refuse what the recipe does to samples of another kind. Raises ``InvalidSpec`` with the field's path."""
    check_recipe(spec, spec.merged_recipe(), sample)


def check_study_cost(spec: StudySpec, *, sample: Sample | None = None) -> None:
    """Refuse a study any of whose trainings would be refused. Raises ``InvalidSpec`` with the path in the study.

    ``sample`` is one of the data, where more is known of it than its name says.
    """
    if spec.sweep is not None and not spec.data.validation:
        check_held_out(spec.data, spec.sweep.validation, ("sweep", "validation"), sample)
    effects = StudyEffects()
    for index, architecture in enumerate(spec.architectures):
        places: dict[Location, Location] = {("architecture",): ("architectures", index)}
        with _at(places):  # once for each architecture: counting a large network takes longer than everything else
            first = spec.points_of(architecture, spec.methods[0], spec.recipes[0])[0]
            size = _network_size(spec.training(architecture, spec.methods[0], spec.recipes[0], **first))
        for rank, method in enumerate(spec.methods):
            places["method",] = ("methods", rank)
            places["expansion",] = () if method.expansion is None else ("methods", rank)
            own = {("recipe", field): ("methods", rank) for field in method.recipe.model_dump(exclude_none=True)}
            for column, recipe in enumerate(spec.recipes):
                within = {**places, ("recipe",): ("recipes", column), **own}
                parts = (architecture, method, recipe)
                points = spec.points_of(*parts)
                with _at(within):
                    if spec.sweep is not None:
                        _check_points(spec, points, *parts, sample)
                    training = spec.training(*parts, **points[0])
                    _check(training, size, MAX_BYTES, known=sample)
                if spec.sweep is not None:
                    longest = max(points, key=lambda point: point.get("epochs", 0))
                    training = spec.training(*parts, validation=spec.sweep_validation, **longest)
                effects.add(training, sample, within)
    effects.check()


def _check_points(
    spec: StudySpec,
    points: list[dict[str, Any]],
    architecture: StudyArchitecture,
    method: StudyMethod,
    recipe: StudyRecipe,
    sample: Sample | None,
) -> None:
    """Refuse points of a sweep with which the method does not go, at a swept field that decides it."""
    default = spec.default_recipe_of(architecture)
    made = spec.training(architecture, method, recipe, **points[0]).new_method()
    refused: dict[int, InvalidSpec] = {}
    for index, point in enumerate(points):
        try:
            merged = merge_recipe(spec.recipe_for(method, recipe, **point), default)
            made.check(merged)
            steps = most_steps(spec.data, spec.sweep_validation, merged, sample)
            if steps is not None:
                made.check_steps(steps)
        except InvalidSpec as error:
            refused[index] = error
    if not refused:
        return
    index, error = next(iter(refused.items()))
    if len(refused) == len(points):
        raise error
    allowed = [point for other, point in enumerate(points) if other not in refused]
    fewest = min((_differing(points[index], point) for point in allowed), key=len)
    at = ", ".join(f"{field} {points[index][field]:g}" for field in fewest)
    raise _InSweep(("sweep", fewest[0]), f"{method.label} does not go with {at}: {error.message}")


def _differing(point: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return [field for field in point if point[field] != other[field]]


class _InSweep(InvalidSpec):
    """A wrong field of the sweep, which is not part of any one training."""


@contextmanager
def _at(places: Mapping[Location, Location]) -> Iterator[None]:
    """Name a field of a training by its place in the study, where it has another one there."""
    try:
        yield
    except _InSweep:
        raise
    except InvalidSpec as error:
        place = places.get(error.path[:2], places.get(error.path[:1], ()))
        raise InvalidSpec((*place, *error.path), error.message) from None


def check_data_options(data: DataSpec, data_format: DataFormat | None = None) -> None:
    """Refuse options of another format than the data's: ``data_format``, or that of its name, where it has one.

    Raises ``InvalidSpec`` with their path.
    """
    foreign = foreign_options(data, data_format)
    if foreign:
        raise InvalidSpec(("data", foreign[0]), f"{data.name} has no such options: leave them out")


def check_formats(spec: TrainingSpec) -> None:
    """Refuse export formats that the trained model does not have. Raises ``InvalidSpec`` with the format's path."""
    for index, name in enumerate(spec.formats):
        refusal = EXPORT_FORMATS[name]().refusal(spec)
        if refusal is not None:
            raise InvalidSpec(("formats", index), refusal)


def require_packages(spec: TrainingSpec) -> None:
    """Raise ``MissingExtra`` where a training needs a package that is not installed here."""
    for _, error in missing_packages(spec):
        raise error


def missing_packages(spec: TrainingSpec) -> Iterator[tuple[Location, MissingExtra]]:
    """Packages that are not installed here, each with the field that needs it: recipe, tokenizer, export formats."""
    augment = spec.merged_recipe().augment
    needed: list[tuple[Location, Callable[[], None]]] = []
    if "randaugment" in augment:
        from collegium.train.data.randaugment import require_kornia

        needed.append((("recipe", "augment"), require_kornia))
    options: TextSpec = getattr(spec.data, TextFolder.options_name)
    if options.tokenizer is not None:
        needed.append((("data", "text", "tokenizer"), require_tokenizers))
    formats = enumerate(spec.formats)
    needed += [(("formats", index), EXPORT_FORMATS[name]().require_packages) for index, name in formats]
    for path, require in needed:
        try:
            require()
        except MissingExtra as error:
            yield path, error


def _bytes(recipe: Recipe, method: Method, size: NetworkSize) -> int:
    numbers = size.parameters * (method.trained_copies * STATE[recipe.optimizer] + method.kept_models)
    batch = -(-recipe.batch_size // recipe.accumulate)
    number = 2 if recipe.precision == "bf16" else FLOAT
    return FLOAT * numbers + number * size.features * batch


def _transformer(architecture: TransformerArchitecture, spec: TrainingSpec) -> NetworkSize:
    sizes = _sizes(architecture)
    hidden, inner, layers = sizes["hidden"], sizes["inner"], sizes["layers"]
    parameters = layers * (6 * hidden * hidden + 2 * hidden * inner) + sizes["vocabulary"] * hidden
    sample = sample_of(spec)
    assert sample is not None
    length = sample.shape[0]
    if sample.kind == "tokens":
        _check_positions(architecture, length)
    features = layers * length * (12 * hidden + 2 * inner) + 2 * length * sizes["vocabulary"]
    return NetworkSize(parameters, features)


def _check_positions(architecture: TransformerArchitecture, length: int) -> None:
    """Refuse fewer positions than a sample has tokens. RoBERTa counts positions behind that of padding."""
    positions = architecture.config.get("max_position_embeddings")
    least = length + 1 if architecture.transformer == "roberta" else length
    if isinstance(positions, int) and positions < least:
        message = f"samples have {length} tokens: give at least {least}"
        raise InvalidSpec(("architecture", "config", "max_position_embeddings"), message)


def _sizes(architecture: TransformerArchitecture) -> dict[str, int]:
    config: dict[str, Any] = dict(architecture.config)

    def first(*names: str, default: int) -> int:
        return next((config[name] for name in names if isinstance(config.get(name), int)), default)

    usual = TRANSFORMER_DEFAULTS[architecture.transformer]
    encoder = first("num_layers", "encoder_layers", "num_hidden_layers", "n_layers", default=0)
    decoder = first("num_decoder_layers", "decoder_layers", default=encoder if architecture.is_decoder else 0)
    return {
        "hidden": first("d_model", "hidden_size", "dim", default=usual["hidden"]),
        "inner": first("d_ff", "encoder_ffn_dim", "intermediate_size", "hidden_dim", default=usual["inner"]),
        "layers": encoder + decoder or usual["layers"],
        "vocabulary": first("vocab_size", default=usual["vocabulary"]),
    }
