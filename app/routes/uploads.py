"""A data set in pieces, as an upload that can be resumed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from collegium.app.http.openapi import header, problems
from collegium.app.http.requests import check_media_type
from collegium.app.services.services import ServicesDep
from collegium.app.services.uploads import (
    ADDED,
    BODY,
    MEDIA_TYPE,
    RECEIVING,
    Kind,
    Name,
    Sha256,
    as_problems,
    finish,
    receive,
)
from collegium.app.services.views import View
from collegium.jobs.files.datasets import Upload

router = APIRouter(prefix="/uploads", tags=["datasets"])

_STALE_S = 86_400.0

UploadId = Annotated[str, Path(description="an upload's id")]


class UploadView(View):
    """An unfinished upload; the next piece begins at ``offset``."""

    id: str
    name: str
    kind: Literal["npz", "safetensors"]
    offset: int = Field(ge=0)
    link: str


def _view(upload: Upload) -> dict[str, Any]:
    return {
        "id": upload.id,
        "name": upload.name,
        "kind": upload.kind,
        "offset": upload.offset,
        "link": f"/v1/uploads/{upload.id}",
    }


_FOLLOW = {"upload_id": "$response.body#/id"}


@router.post(
    "",
    status_code=201,
    responses={
        201: {
            "model": UploadView,
            "description": "Send the bytes to `link`.",
            "headers": {"Location": header("the upload's path")},
            "links": {
                "offset": {"operationId": "read_upload", "parameters": _FOLLOW},
                "finish": {"operationId": "finish_upload", "parameters": _FOLLOW},
                "abandon": {"operationId": "abandon_upload", "parameters": _FOLLOW},
            },
        },
        **problems("invalid-dataset", "invalid-request"),
    },
    summary="Begin a data set that is sent in pieces; an upload that is left untouched for a day is deleted",
)
def begin_upload(services: ServicesDep, name: Name, kind: Kind) -> JSONResponse:
    services.datasets.purge(_STALE_S)
    view = _view(as_problems(lambda: services.datasets.begin(name, kind)))
    return JSONResponse(view, status_code=201, headers={"Location": view["link"]})


@router.get(
    "/{upload_id}",
    responses={200: {"model": UploadView}, **problems("not-found")},
    summary="Read an upload's offset",
)
def read_upload(services: ServicesDep, upload_id: UploadId) -> JSONResponse:
    return JSONResponse(_view(as_problems(lambda: services.datasets.get_upload(upload_id))))


@router.patch(
    "/{upload_id}",
    responses={200: {"model": UploadView}, **RECEIVING, **problems("not-found", "conflict")},
    openapi_extra=BODY,
    summary="Send the next piece",
)
async def continue_upload(
    request: Request,
    services: ServicesDep,
    upload_id: UploadId,
    offset: Annotated[int, Header(alias="Upload-Offset", ge=0, le=2**53, description="where the piece begins")],
) -> JSONResponse:
    check_media_type(request, MEDIA_TYPE)
    upload = await run_in_threadpool(as_problems, lambda: services.datasets.get_upload(upload_id))
    return JSONResponse(_view(await receive(request, services, upload, offset)))


@router.post(
    "/{upload_id}/finish",
    status_code=201,
    responses={**ADDED, **problems("not-found", "invalid-dataset", "invalid-request")},
    summary="Check and store what was sent; 503 with Retry-After where too many others are being checked",
)
async def finish_upload(services: ServicesDep, upload_id: UploadId, sha256: Sha256 = None) -> JSONResponse:
    return await finish(services, upload_id, sha256)


@router.delete(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "Deleted."}, **problems("not-found")},
    summary="Delete an upload",
)
def abandon_upload(services: ServicesDep, upload_id: UploadId) -> Response:
    as_problems(lambda: services.datasets.abandon(upload_id))
    return Response(status_code=204)
