"""Bytes of data sets on their way in, and the problems they can meet."""

from __future__ import annotations

import asyncio
import errno
import json
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Query, Request
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool

from collegium.app.http.openapi import Responses, binary, header, problems
from collegium.app.http.problems import Problem
from collegium.app.http.requests import bounded_stream
from collegium.app.services.services import Services
from collegium.app.services.views import DatasetView, dataset_view
from collegium.jobs.errors import HashMismatch, InvalidName, OffsetMismatch, TooLarge, UploadNotFound
from collegium.jobs.files.datasets import Upload
from collegium.jobs.subprocesses import environment, python

T = TypeVar("T")

#: Written to the disk, and flushed, at a time.
PIECE = 8 << 20
#: Loaded arrays may take so many times the bytes that a file may have.
UNPACKED = 4
#: Memory that checking a file may take, in bytes; it reads a chunk at a time and takes a few MB.
HEADROOM = 256 << 20
#: An upload waits so long for its check, in seconds; then it is refused for the time being.
WAIT_S = 30.0
RETRY_AFTER_S = 15
MEDIA_TYPE = "application/octet-stream"

Name = Annotated[str, Query(min_length=1, max_length=255, description="what to call it")]
Kind = Annotated[Literal["npz", "safetensors"], Query(description="the file's format")]
Sha256 = Annotated[
    str | None, Query(pattern="^[0-9a-f]{64}$", description="SHA-256 of the whole file, checked on arrival")
]

BODY = {"requestBody": {"required": True, "content": binary(MEDIA_TYPE)}}
RECEIVING = problems("malformed-request", "too-large", "unsupported-media-type", "invalid-dataset", "invalid-request")
_LOCATION = {"Location": header("the data set's path")}
ADDED: Responses = {
    200: {"model": DatasetView, "description": "The same bytes are here already.", "headers": _LOCATION},
    201: {"model": DatasetView, "description": "Checked and stored.", "headers": _LOCATION},
}


async def receive(request: Request, services: Services, upload: Upload, offset: int) -> Upload:
    """Write the request's body on at ``offset``, in pieces so large that flushing each to the disk costs little."""
    piece = bytearray()

    async def write() -> None:
        nonlocal upload, offset
        chunk = bytes(piece)
        upload = await run_in_threadpool(as_problems, lambda: services.datasets.append(upload.id, offset, chunk))
        offset = upload.offset
        piece.clear()

    async for chunk in bounded_stream(request, services.settings.max_dataset_bytes):
        piece += chunk
        if len(piece) >= PIECE:
            await write()
    await write()
    return upload


async def finish(services: Services, upload_id: str, sha256: str | None) -> JSONResponse:
    """Check what was sent and make a data set of it.

    A few uploads are checked at a time; the others wait, and after ``WAIT_S`` are refused with a 503 problem that says
    when to try again: an upload in pieces is still there then. Raises 404, 422 and 503 problems.
    """
    try:
        await asyncio.wait_for(services.checking.acquire(), WAIT_S)
    except TimeoutError:
        detail = "other data sets are being checked: try again"
        raise Problem("unavailable", detail, headers={"Retry-After": str(RETRY_AFTER_S)}) from None
    try:
        return await run_in_threadpool(_finish, services, upload_id, sha256)
    finally:
        services.checking.release()


def _finish(services: Services, upload_id: str, sha256: str | None) -> JSONResponse:
    limit = UNPACKED * services.settings.max_dataset_bytes
    dataset, created = as_problems(
        lambda: services.datasets.finish(upload_id, lambda path: checked(path, limit), sha256=sha256)
    )
    view = dataset_view(dataset)
    return JSONResponse(view, status_code=201 if created else 200, headers={"Location": view["link"]})


def abandon(services: Services, upload_id: str) -> None:
    """Delete an upload, if it is still there: one that was refused is deleted already."""
    with suppress(UploadNotFound):
        services.datasets.abandon(upload_id)


def as_problems(action: Callable[[], T]) -> T:
    """Run an action of the data set store; what it refuses becomes a problem."""
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


_TIMEOUT_S = 900
_CHILD = """
import json, sys
from pathlib import Path
from collegium.train.errors import DataError
from collegium.train.data.formats.upload import check_upload, limit_memory
path, limit, headroom = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
try:
    limit_memory(headroom)
    outcome = {"summary": check_upload(path, limit=limit)}
except DataError as error:
    outcome = {"message": error.message, "remedy": error.remedy}
except MemoryError:
    message = f"checking the file takes more than {headroom} bytes of memory"
    outcome = {"message": message, "remedy": "write it with numpy.savez or safetensors"}
print(json.dumps(outcome))
"""


def checked(path: Path, limit: int) -> dict[str, Any]:
    """The file's description, by a process of its own. Raises a 422 problem that names what is wrong.

    ``limit`` bounds the bytes that its arrays take when they are loaded.
    """
    command = python("-c", _CHILD, str(path), str(limit), str(HEADROOM))
    one_thread = environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    try:
        done = subprocess.run(command, env=one_thread, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise Problem("invalid-dataset", f"checking the file took more than {_TIMEOUT_S} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1][:300] if lines else f"exit status {done.returncode}"
        raise Problem("invalid-dataset", f"the file could not be checked: {reason}")
    outcome = json.loads(done.stdout)
    if "summary" not in outcome:
        raise Problem("invalid-dataset", f"{outcome['message']}. {outcome['remedy']}".removesuffix(". "))
    return outcome["summary"]
