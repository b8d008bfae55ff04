"""Uploaded data sets: sent in one piece, listed, deleted."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool

from collegium.app.http.openapi import problems
from collegium.app.http.problems import Problem
from collegium.app.http.requests import check_media_type
from collegium.app.services.services import Services, ServicesDep
from collegium.app.services.uploads import (
    ADDED,
    BODY,
    MEDIA_TYPE,
    RECEIVING,
    Kind,
    Name,
    Sha256,
    abandon,
    as_problems,
    finish,
    receive,
)
from collegium.app.services.views import DatasetPage, DatasetView, dataset_view
from collegium.jobs.errors import DatasetNotFound
from collegium.jobs.record import Dataset
from collegium.jobs.states import ACTIVE

router = APIRouter(prefix="/datasets", tags=["datasets"])

DatasetId = Annotated[str, Path(description="a data set's id")]


@router.get(
    "",
    responses={200: {"model": DatasetPage}, **problems("invalid-cursor")},
    summary="List data sets, newest first",
)
def list_datasets(
    services: ServicesDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
) -> JSONResponse:
    page = services.store.list_datasets(limit=limit, cursor=cursor)
    return JSONResponse({"items": [dataset_view(item) for item in page.items], "next_cursor": page.next_cursor})


@router.post(
    "",
    status_code=201,
    responses={**ADDED, **RECEIVING},
    openapi_extra=BODY,
    summary="Send a data set in one piece",
)
async def add_dataset(
    request: Request, services: ServicesDep, name: Name, kind: Kind, sha256: Sha256 = None
) -> JSONResponse:
    check_media_type(request, MEDIA_TYPE)
    upload = await run_in_threadpool(as_problems, lambda: services.datasets.begin(name, kind))
    try:
        await receive(request, services, upload, 0)
        return await finish(services, upload.id, sha256)
    except Problem:
        await run_in_threadpool(abandon, services, upload.id)
        raise


@router.get(
    "/{dataset_id}",
    responses={200: {"model": DatasetView}, **problems("not-found")},
    summary="Read a data set's description",
)
def read_dataset(services: ServicesDep, dataset_id: DatasetId) -> JSONResponse:
    return JSONResponse(dataset_view(_known(services, dataset_id)))


@router.delete(
    "/{dataset_id}",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "Deleted."}, **problems("not-found", "conflict")},
    summary="Delete a data set that no waiting or running job names",
)
def delete_dataset(services: ServicesDep, dataset_id: DatasetId) -> Response:
    dataset = _known(services, dataset_id)
    user = _user_of(services, dataset.id)
    if user is not None:
        raise Problem("conflict", f"job {user} needs this data set; cancel it first")
    try:
        services.datasets.delete(dataset.id)
    except DatasetNotFound as error:
        raise _unknown() from error
    return Response(status_code=204)


def _known(services: Services, dataset_id: str) -> Dataset:
    try:
        return services.store.get_dataset(dataset_id)
    except DatasetNotFound as error:
        raise _unknown() from error


def _unknown() -> Problem:
    return Problem("not-found", "there is no data set with this id")


def _user_of(services: Services, dataset_id: str) -> str | None:
    """A job not yet over that names the data set."""
    for kind in ("training", "study", "search"):
        for status in ACTIVE:
            cursor = None
            while True:
                page = services.store.list(kind=kind, status=status, limit=200, cursor=cursor, results=False)
                for job in page.items:
                    if _data_of(job.spec) == dataset_id:
                        return job.id
                cursor = page.next_cursor
                if cursor is None:
                    break
    return None


def _data_of(spec: dict[str, Any]) -> str | None:
    return (spec.get("data") or {}).get("name") or (spec.get("inputs") or {}).get("data")
