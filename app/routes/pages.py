"""The web page and its files, read once, each with a strong entity tag."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from collegium.app.http.conditional import none_match, tag_of_bytes
from collegium.app.http.problems import Problem

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).parent.parent / "web"
_TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
          ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}  # fmt: skip
_FILES = {path.name: path.read_bytes() for path in _FOLDER.iterdir() if path.suffix in _TYPES}


@router.api_route("/", methods=["GET", "HEAD"])
def read_page(request: Request) -> Response:
    return _file("index.html", request)


@router.api_route("/static/{name}", methods=["GET", "HEAD"])
def read_static(name: str, request: Request) -> Response:
    if name not in _FILES:
        raise Problem("not-found", "there is no such file")
    return _file(name, request)


def _file(name: str, request: Request) -> Response:
    body = _FILES[name]
    headers = {"ETag": tag_of_bytes(body), "Cache-Control": "no-cache"}
    if none_match(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=_TYPES[Path(name).suffix], headers=headers)
