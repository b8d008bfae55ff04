"""From what a training names to what it trains: searches and data sets are looked up when the request arrives."""

from __future__ import annotations

import re
from pathlib import Path

from jobs.errors import DatasetNotFound, JobNotFound
from jobs.store import JobStore
from search.problem import InvalidSpec
from train.architecture import Architecture, BaselineArchitecture, SearchedArchitecture
from train.resolve import answer_of
from train.spec import StudySpec, TrainingSpec

#: Names that need no upload: built in, or published formats that the worker reads from its data folder.
NAMED_DATA = frozenset(
    {"digits", "synthetic", "synthetic-text", "mnist", "cifar10", "cifar100", "imagenet32", "imagenet64"}
)
_DATASET_ID = re.compile(r"[0-9a-f]{64}\Z")


def resolved_training(store: JobStore, spec: TrainingSpec, data_dir: Path) -> TrainingSpec:
    """The training with definite widths and multiplicity. Raises ``InvalidSpec``."""
    check_data(store, spec.data.name, data_dir, ("data", "name"))
    return spec.model_copy(update={"architecture": _definite(store, spec.architecture, ("architecture",))})


def resolved_study(store: JobStore, spec: StudySpec, data_dir: Path) -> StudySpec:
    """The study with definite widths and multiplicities. Raises ``InvalidSpec``."""
    check_data(store, spec.data.name, data_dir, ("data", "name"))
    architectures = tuple(
        item.model_copy(
            update={"architecture": _definite(store, item.architecture, ("architectures", index, "architecture"))}
        )
        for index, item in enumerate(spec.architectures)
    )
    return spec.model_copy(update={"architectures": architectures})


def check_data(store: JobStore, name: str, data_dir: Path, path: tuple[str, ...]) -> None:
    """Refuse data that no worker will find. Raises ``InvalidSpec`` at ``path``."""
    if name in NAMED_DATA:
        return
    if _DATASET_ID.match(name):
        try:
            store.get_dataset(name)
        except DatasetNotFound:
            raise InvalidSpec(path, "no data set has this id; `GET /v1/datasets` lists them") from None
        return
    if name.startswith(".") or not (data_dir / name).is_dir():
        raise InvalidSpec(
            path,
            f"no data set is called '{name}'; there are {', '.join(sorted(NAMED_DATA))}, "
            "the ids of `GET /v1/datasets`, and the folders inside the service's data folder",
        )


def _definite(store: JobStore, architecture: Architecture, path: tuple[str | int, ...]) -> Architecture:
    if isinstance(architecture, SearchedArchitecture):
        return _answer(store, architecture, path)
    origin = getattr(architecture, "origin", None)
    if origin is not None and _answer(store, origin, (*path, "origin")) != architecture:
        raise InvalidSpec((*path, "origin"), "this is not that search's answer; leave the field out")
    return architecture


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
        return answer_of(asked, job.spec, job.result).model_copy(update={"origin": asked})
    except InvalidSpec as error:
        # Its path begins with the field that holds the architecture, which only we know.
        raise InvalidSpec((*path, *error.path[1:]), error.message) from None
