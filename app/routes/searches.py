"""Searches, and the presets that they can start from."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from collegium.app.http.openapi import json_body, problems
from collegium.app.http.problems import Problem
from collegium.app.http.requests import read_model
from collegium.app.services.references import check_data
from collegium.app.services.services import ServicesDep
from collegium.app.services.submission import SUBMISSION_RESPONSES, Fresh, IdempotencyKey, submit
from collegium.app.services.views import View
from collegium.search.networks.build import describe_preset, list_presets, validate_search
from collegium.search.spec import SearchSpec

router = APIRouter(tags=["searches"])


class ListedPreset(View):
    """A named architecture: post ``{"preset": name}`` as a baseline."""

    name: str
    about: str
    source: str = Field(description="`collegium`, or the library whose network was described")
    family: str
    parameters: int
    flops: int


class PresetView(ListedPreset):
    """A named architecture with what it stands for."""

    baseline: dict[str, Any] = Field(description='the whole baseline; post it, or `{"preset": name}`')


class PresetList(View):
    """The named architectures."""

    items: list[ListedPreset]


@router.get("/presets", responses={200: {"model": PresetList}}, summary="List the named architectures")
def get_presets() -> JSONResponse:
    return JSONResponse({"items": list_presets()})


@router.get(
    "/presets/{name:path}",
    responses={200: {"model": PresetView}, **problems("not-found")},
    summary="Get a named architecture",
)
def get_preset(name: str) -> JSONResponse:
    try:
        return JSONResponse(describe_preset(name))
    except KeyError:
        raise Problem("not-found", f"there is no preset {name[:64]!r}; GET /v1/presets lists them") from None


async def _search_spec(request: Request, services: ServicesDep) -> SearchSpec:
    return await read_model(request, SearchSpec, services.settings.max_body_bytes, services.parsing)


@router.post(
    "/searches",
    status_code=202,
    responses=SUBMISSION_RESPONSES,
    openapi_extra=json_body(SearchSpec),
    summary="Search the optimal m × n grouping of a baseline",
)
def create_search(
    services: ServicesDep,
    spec: Annotated[SearchSpec, Depends(_search_spec)],
    key: IdempotencyKey = None,
    fresh: Fresh = False,
) -> Response:
    validate_search(spec)
    if spec.inputs.data is not None:
        check_data(services.store, spec.inputs.data, services.settings, ("inputs", "data"))
    return submit(services, "search", spec, "search", key, fresh)
