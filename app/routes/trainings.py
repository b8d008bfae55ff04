"""Trainings, studies, and the methods, formats and recipes that they can name."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from collegium.app.http.openapi import json_body
from collegium.app.http.requests import read_model
from collegium.app.services.references import resolved_study, resolved_training, sample_of
from collegium.app.services.services import ServicesDep
from collegium.app.services.submission import SUBMISSION_RESPONSES, Fresh, IdempotencyKey, submit
from collegium.app.services.views import View
from collegium.train.data.catalog import describe_formats
from collegium.train.effects import check_effects
from collegium.train.export import describe_export_formats
from collegium.train.limits import check_study_cost, check_training_cost
from collegium.train.methods import describe_methods
from collegium.train.spec.recipes import describe_recipes
from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec

router = APIRouter(tags=["trainings"])


class MethodView(View):
    """A training method."""

    name: str
    summary: str
    options: list[dict[str, Any]] = Field(
        description="each with `name`, `description`, JSON `schema` and, where it may be left out, `default`"
    )


class MethodList(View):
    """The training methods, those of other installed packages included."""

    items: list[MethodView]


class DataFormatView(View):
    """A format of data, and the data sets that it has a name for."""

    name: str
    summary: str
    data: list[dict[str, Any]] = Field(description="named data sets, with the files that they are read from")
    layout: str = Field(description="what other data of this format looks like, if it takes any")
    options_name: str = Field(description="the field of `data` that holds the options, if there are any")
    options: dict[str, Any] | None = Field(description="JSON schema of the options")


class DataFormatList(View):
    """The formats of data, those of other installed packages included."""

    items: list[DataFormatView]


class ExportFormatView(View):
    """A format of the trained model."""

    name: str
    summary: str
    files: dict[str, str] = Field(description="the files that it adds, with a line about each")
    extra: str | None = Field(description="what is to be installed for it, if anything")


class ExportFormatList(View):
    """The formats that a training can export, those of other installed packages included."""

    items: list[ExportFormatView]


class RecipeList(View):
    """The recipes of the papers, each with every field that a training may override."""

    items: list[dict[str, Any]]


@router.get("/methods", responses={200: {"model": MethodList}}, summary="List the training methods")
def list_methods() -> JSONResponse:
    return JSONResponse({"items": describe_methods()})


@router.get("/data-formats", responses={200: {"model": DataFormatList}}, summary="List the formats of data")
def list_data_formats() -> JSONResponse:
    return JSONResponse({"items": describe_formats()})


@router.get("/export-formats", responses={200: {"model": ExportFormatList}}, summary="List the formats of export")
def list_export_formats() -> JSONResponse:
    return JSONResponse({"items": describe_export_formats()})


@router.get("/recipes", responses={200: {"model": RecipeList}}, summary="List the named recipes")
def list_recipes() -> JSONResponse:
    return JSONResponse({"items": describe_recipes()})


async def _training_spec(request: Request, services: ServicesDep) -> TrainingSpec:
    return await read_model(request, TrainingSpec, services.settings.max_body_bytes, services.parsing)


async def _study_spec(request: Request, services: ServicesDep) -> StudySpec:
    return await read_model(request, StudySpec, services.settings.max_body_bytes, services.parsing)


@router.post(
    "/trainings",
    status_code=202,
    responses=SUBMISSION_RESPONSES,
    openapi_extra=json_body(TrainingSpec),
    summary="Train an architecture, or the result of a search",
)
def create_training(
    services: ServicesDep,
    spec: Annotated[TrainingSpec, Depends(_training_spec)],
    key: IdempotencyKey = None,
    fresh: Fresh = False,
) -> Response:
    definite = resolved_training(services.store, spec, services.settings)
    sample = sample_of(services.store, definite.data, services.settings)
    check_training_cost(definite, sample=sample)
    check_effects(definite, sample)
    return submit(services, "training", definite, "train", key, fresh)


@router.post(
    "/studies",
    status_code=202,
    responses=SUBMISSION_RESPONSES,
    openapi_extra=json_body(StudySpec),
    summary="Compare methods and architectures over several seeds",
)
def create_study(
    services: ServicesDep,
    spec: Annotated[StudySpec, Depends(_study_spec)],
    key: IdempotencyKey = None,
    fresh: Fresh = False,
) -> Response:
    definite = resolved_study(services.store, spec, services.settings)
    check_study_cost(definite, sample=sample_of(services.store, definite.data, services.settings))
    return submit(services, "study", definite, "train", key, fresh)
