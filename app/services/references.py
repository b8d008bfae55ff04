"""From what a training names to what it trains: searches and data sets are looked up when the request arrives."""

from __future__ import annotations

import re

from collegium.app.settings import Settings
from collegium.jobs.errors import DatasetNotFound, JobNotFound
from collegium.jobs.store import JobStore
from collegium.search.errors import InvalidSpec, Location
from collegium.search.networks.build import expand_preset
from collegium.train.data.catalog import find, format_of, known_sample, missing_files, named_data
from collegium.train.data.format import Folders, Sample
from collegium.train.data.formats.text import TextFolder, TextSpec
from collegium.train.data.formats.upload import Upload
from collegium.train.errors import DataError, Mismatch
from collegium.train.limits import check_data_options, missing_packages
from collegium.train.models.grouping import architecture_from_search, check_samples
from collegium.train.spec.architecture import Architecture, BaselineArchitecture, SearchedArchitecture
from collegium.train.spec.data import DataSpec
from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec

_DATASET_ID = re.compile(r"[0-9a-f]{64}\Z")


def resolved_training(store: JobStore, spec: TrainingSpec, settings: Settings) -> TrainingSpec:
    """The training with definite widths and multiplicity. Raises ``InvalidSpec``."""
    if settings.shares_folders:
        _check_packages(spec)
    check_data(store, spec.data.name, settings, ("data", "name"))
    _check_options(spec.data, settings)
    definite = _definite(store, spec.architecture, ("architecture",))
    _check_pretrained(definite, settings, ("architecture",))
    _check_samples(definite, spec.data.name, sample_of(store, spec.data, settings), ("architecture",))
    return spec.model_copy(update={"architecture": definite})


def resolved_study(store: JobStore, spec: StudySpec, settings: Settings) -> StudySpec:
    """The study with definite widths and multiplicities. Raises ``InvalidSpec``."""
    check_data(store, spec.data.name, settings, ("data", "name"))
    _check_options(spec.data, settings)
    sample, architectures = sample_of(store, spec.data, settings), []
    for index, item in enumerate(spec.architectures):
        path = ("architectures", index, "architecture")
        definite = _definite(store, item.architecture, path)
        _check_pretrained(definite, settings, path)
        _check_samples(definite, spec.data.name, sample, path)
        architectures.append(item.model_copy(update={"architecture": definite}))
    return spec.model_copy(update={"architectures": tuple(architectures)})


def check_data(store: JobStore, name: str, settings: Settings, path: tuple[str, ...]) -> None:
    """Refuse data that no worker finds, as far as this machine can determine. Raises ``InvalidSpec`` at ``path``."""
    data_dir = settings.data_dir
    if name in named_data():
        missing = missing_files(name, data_dir) if settings.shares_folders else ()
        if missing:
            source = named_data()[name].source(name)
            files = " or ".join(missing)
            raise InvalidSpec(path, f"'{name}' is not in the data folder: put {files} into {data_dir}{source}")
    elif _DATASET_ID.match(name):
        try:
            store.get_dataset(name)
        except DatasetNotFound:
            raise InvalidSpec(path, "no data set has this id; `GET /v1/datasets` lists them") from None
    else:
        _check_folder(name, settings, path)


def _check_packages(spec: TrainingSpec) -> None:
    """Workers on this machine have the packages that are installed here. Raises ``InvalidSpec``."""
    for path, error in missing_packages(spec):
        raise InvalidSpec(path, f"{error.message}: {error.remedy}")


def _check_folder(name: str, settings: Settings, path: tuple[str, ...]) -> None:
    # A folder is left for the worker to read: what is in it may be written while the training waits.
    if not name.startswith(".") and (settings.data_dir / name).is_dir():
        return
    try:
        find(name, Folders(settings.data_dir))
    except DataError as error:
        raise InvalidSpec(
            path,
            f"{error.message}; there are {', '.join(sorted(named_data()))}, the ids of `GET /v1/datasets`, "
            "and the folders of images or text inside the service's data folder",
        ) from None


def _check_options(data: DataSpec, settings: Settings) -> None:
    """Refuse options that the data has not, and a tokenizer that no worker finds. Raises ``InvalidSpec``."""
    upload = _DATASET_ID.match(data.name)
    check_data_options(data, Upload() if upload else format_of(data.name, Folders(settings.data_dir)))
    options: TextSpec = getattr(data, TextFolder.options_name)
    tokenizer = options.tokenizer
    if tokenizer is not None and settings.shares_folders and not (settings.data_dir / tokenizer).is_dir():
        raise InvalidSpec(("data", "text", "tokenizer"), f"the data folder has no folder {tokenizer!r}")


def _check_pretrained(architecture: Architecture, settings: Settings, path: Location) -> None:
    """Refuse a pretrained folder that no worker finds, as far as this machine can determine."""
    name = getattr(architecture, "pretrained", None)
    if name is not None and settings.shares_folders and not (settings.data_dir / name / "config.json").is_file():
        raise InvalidSpec((*path, "pretrained"), f"the data folder has no folder {name!r} with a config.json")


def sample_of(store: JobStore, data: DataSpec, settings: Settings) -> Sample | None:
    """One sample, where the data's name, its folder or the record of its upload determines it."""
    if not _DATASET_ID.match(data.name):
        return known_sample(data, Folders(settings.data_dir))
    summary = store.get_dataset(data.name).summary
    shape = tuple(summary["shape"])
    return Sample("image" if len(shape) == 3 else "features", shape, training=summary.get("train"))


def _check_samples(architecture: Architecture, data: str, sample: Sample | None, path: tuple[str | int, ...]) -> None:
    try:
        check_samples(architecture, data, sample)
    except Mismatch as mismatch:
        raise InvalidSpec(path, f"{mismatch.message}: {mismatch.remedy}") from None
    except InvalidSpec as error:
        raise InvalidSpec((*path, *error.path[1:]), error.message) from None


def _definite(store: JobStore, architecture: Architecture, path: tuple[str | int, ...]) -> Architecture:
    if isinstance(architecture, SearchedArchitecture):
        return _answer(store, architecture, path)
    origin = getattr(architecture, "origin", None)
    if origin is not None and _expanded(_answer(store, origin, (*path, "origin"))) != _expanded(architecture):
        raise InvalidSpec((*path, "origin"), "this is not that search's answer; leave the field out")
    return architecture


def _expanded(architecture: Architecture) -> Architecture:
    """With the whole baseline in place of a preset's name: trainings were stored with either."""
    if not isinstance(architecture, BaselineArchitecture):
        return architecture
    return architecture.model_copy(update={"baseline": expand_preset(architecture.baseline)})


def _answer(store: JobStore, asked: SearchedArchitecture, path: tuple[str | int, ...]) -> BaselineArchitecture:
    field = (*path, "search")
    try:
        job = store.get(asked.search)
    except JobNotFound:
        raise InvalidSpec(field, "no job has this id") from None
    if job.kind != "search":
        raise InvalidSpec(field, f"this job is a {job.kind}, not a search")
    if job.status != "succeeded" or job.result is None:
        raise InvalidSpec(field, f"this search is {job.status}; a training needs a succeeded one")
    try:
        return architecture_from_search(asked, job.spec, job.result).model_copy(update={"origin": asked})
    except InvalidSpec as error:
        # Its path begins with the field that holds the architecture, which depends on the request.
        raise InvalidSpec((*path, *error.path[1:]), error.message) from None
