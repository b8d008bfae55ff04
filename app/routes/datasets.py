"""The user's own data: sent in one piece, or in pieces that go on after a break; listed, deleted."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Header, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from app.body import bounded_stream, check_media_type
from app.dataset_check import checked
from app.documented import binary, header, problems
from app.problems import Problem
from app.services import Given, Services
from app.views import DatasetPage, DatasetView, View, dataset_view
from jobs.dataset_store import Upload
from jobs.errors import (
    DatasetNotFound,
    HashMismatch,
    InvalidName,
    OffsetMismatch,
    TooLarge,
    UploadNotFound,
)
from jobs.record import Dataset
from jobs.states import ACTIVE

router = APIRouter(prefix="/datasets", tags=["datasets"])

T = TypeVar("T")

_PIECE = 8 << 20
_STALE_S = 86_400.0
_MEDIA_TYPE = "application/octet-stream"
_BODY = {"requestBody": {"required": True, "content": binary(_MEDIA_TYPE)}}
_UPLOADING = problems("malformed-request", "too-large", "unsupported-media-type", "invalid-dataset")
_LOCATION = {"Location": header("the data set's path")}
_ADDED = {
    200: {"model": DatasetView, "description": "The same bytes are here already.", "headers": _LOCATION},
    201: {"model": DatasetView, "description": "Checked and stored.", "headers": _LOCATION},
}

Name = Annotated[str, Query(min_length=1, max_length=255, description="what to call it")]
Kind = Annotated[Literal["npz", "safetensors"], Query(description="the file's format")]
Sha256 = Annotated[
    str | None, Query(pattern="^[0-9a-f]{64}$", description="SHA-256 of the whole file, checked on arrival")
]
DatasetId = Annotated[str, Path(description="a data set's id")]
UploadId = Annotated[str, Path(description="an upload's id")]


class UploadView(View):
    """An upload under way; go on at ``offset``."""

    id: str
    name: str
    kind: Literal["npz", "safetensors"]
    offset: int = Field(ge=0)
    link: str


@router.get(
    "",
    responses={200: {"model": DatasetPage}, **problems("invalid-cursor")},
    summary="List data sets, newest first",
)
def list_datasets(
    services: Given,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
) -> JSONResponse:
    page = services.store.list_datasets(limit=limit, cursor=cursor)
    return JSONResponse({"items": [dataset_view(item) for item in page.items], "next_cursor": page.next_cursor})


@router.post(
    "",
    status_code=201,
    responses={**_ADDED, **_UPLOADING},
    openapi_extra=_BODY,
    summary="Send a data set in one piece",
)
async def add_dataset(request: Request, services: Given, name: Name, kind: Kind, sha256: Sha256 = None) -> JSONResponse:
    check_media_type(request, _MEDIA_TYPE)
    upload = await run_in_threadpool(_guarded, lambda: services.datasets.begin(name, kind))
    try:
        await _receive(request, services, upload, 0)
        return await run_in_threadpool(_finish, services, upload.id, sha256)
    except Problem:
        await run_in_threadpool(_abandon, services, upload.id)
        raise


@router.get(
    "/{dataset_id}",
    responses={200: {"model": DatasetView}, **problems("not-found")},
    summary="Read a data set's description",
)
def read_dataset(services: Given, dataset_id: DatasetId) -> JSONResponse:
    return JSONResponse(dataset_view(_known(services, dataset_id)))


@router.delete(
    "/{dataset_id}",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "Gone."}, **problems("not-found", "conflict")},
    summary="Delete a data set that no waiting or running training names",
)
def delete_dataset(services: Given, dataset_id: DatasetId) -> Response:
    dataset = _known(services, dataset_id)
    user = _user_of(services, dataset.id)
    if user is not None:
        raise Problem("conflict", f"job {user} is going to read this data set; cancel it first")
    services.datasets.delete(dataset.id)
    return Response(status_code=204)


@router.post(
    "/uploads",
    status_code=201,
    responses={
        201: {
            "model": UploadView,
            "description": "Send the bytes to `link`.",
            "headers": {"Location": header("the upload's path")},
        },
        **problems("invalid-dataset"),
    },
    summary="Begin a data set that is sent in pieces",
)
def begin_upload(services: Given, name: Name, kind: Kind) -> JSONResponse:
    services.datasets.purge(_STALE_S)
    upload = _guarded(lambda: services.datasets.begin(name, kind))
    view = _upload_view(upload)
    return JSONResponse(view, status_code=201, headers={"Location": view["link"]})


@router.get(
    "/uploads/{upload_id}",
    responses={200: {"model": UploadView}, **problems("not-found")},
    summary="Ask how far an upload has come",
)
def read_upload(services: Given, upload_id: UploadId) -> JSONResponse:
    return JSONResponse(_upload_view(_guarded(lambda: services.datasets.get_upload(upload_id))))


@router.patch(
    "/uploads/{upload_id}",
    responses={200: {"model": UploadView}, **_UPLOADING, **problems("not-found", "conflict")},
    openapi_extra=_BODY,
    summary="Send the next piece",
)
async def continue_upload(
    request: Request,
    services: Given,
    upload_id: UploadId,
    offset: Annotated[int, Header(alias="Upload-Offset", ge=0, le=2**53, description="where the piece begins")],
) -> JSONResponse:
    check_media_type(request, _MEDIA_TYPE)
    upload = await run_in_threadpool(_guarded, lambda: services.datasets.get_upload(upload_id))
    return JSONResponse(_upload_view(await _receive(request, services, upload, offset)))


@router.post(
    "/uploads/{upload_id}/finish",
    status_code=201,
    responses={**_ADDED, **problems("not-found", "invalid-dataset")},
    summary="Check and store what was sent",
)
def finish_upload(services: Given, upload_id: UploadId, sha256: Sha256 = None) -> JSONResponse:
    return _finish(services, upload_id, sha256)


@router.delete(
    "/uploads/{upload_id}",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "Gone."}, **problems("not-found")},
    summary="Throw an upload away",
)
def abandon_upload(services: Given, upload_id: UploadId) -> Response:
    _guarded(lambda: services.datasets.abandon(upload_id))
    return Response(status_code=204)


async def _receive(request: Request, services: Services, upload: Upload, offset: int) -> Upload:
    """Write the body on in pieces large enough that flushing each to the disk costs little."""
    piece = bytearray()

    async def write() -> None:
        nonlocal upload, offset
        chunk = bytes(piece)
        upload = await run_in_threadpool(_guarded, lambda: services.datasets.append(upload.id, offset, chunk))
        offset = upload.offset
        piece.clear()

    async for chunk in bounded_stream(request, services.settings.max_dataset_bytes):
        piece += chunk
        if len(piece) >= _PIECE:
            await write()
    await write()
    return upload


def _finish(services: Services, upload_id: str, sha256: str | None) -> JSONResponse:
    limit = 4 * services.settings.max_dataset_bytes
    dataset, created = _guarded(
        lambda: services.datasets.finish(upload_id, lambda path: checked(path, limit), sha256=sha256)
    )
    view = dataset_view(dataset)
    return JSONResponse(view, status_code=201 if created else 200, headers={"Location": view["link"]})


def _abandon(services: Services, upload_id: str) -> None:
    with suppress(UploadNotFound):  # a file that was refused is gone already
        services.datasets.abandon(upload_id)


def _guarded(action: Callable[[], T]) -> T:
    try:
        return action()
    except UploadNotFound as error:
        raise Problem("not-found", "there is no upload with this id; it may have been finished") from error
    except OffsetMismatch as error:
        raise Problem(
            "conflict",
            f"the upload holds {error.expected} bytes: go on there",
            headers={"Upload-Offset": str(error.expected)},
        ) from error
    except TooLarge as error:
        raise Problem("too-large", f"a data set has at most {error.limit} bytes") from error
    except (HashMismatch, InvalidName) as error:
        raise Problem("invalid-dataset", str(error)) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Problem("unavailable", "there is no space left for data sets") from error
        raise


def _known(services: Services, dataset_id: str) -> Dataset:
    try:
        return services.store.get_dataset(dataset_id)
    except DatasetNotFound as error:
        raise Problem("not-found", "there is no data set with this id") from error


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


def _upload_view(upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "name": upload.name,
        "kind": upload.kind,
        "offset": upload.offset,
        "link": f"/v1/datasets/uploads/{upload.id}",
    }
