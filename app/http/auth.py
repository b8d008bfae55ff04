"""Authentication: API keys, and the rules that protect a service without keys.

Keys are required as soon as there is one, and always where the service listens beyond this machine. Without keys
requests are accepted from this machine alone, and not from foreign web pages open on it: the ``Host`` header has to
name the service (against DNS rebinding), and a change has to come from the service's own origin (against forged
requests).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.requests import Request

from collegium.app.http.problems import Problem
from collegium.app.settings import Settings
from collegium.jobs.store import JobStore

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class NoKeys(RuntimeError):
    """The service would listen beyond this machine without a single API key."""


def check_bind(settings: Settings, store: JobStore) -> None:
    """Refuse to listen beyond this machine while there is no key. Raises ``NoKeys``."""
    if not settings.loopback and not store.has_keys():
        raise NoKeys(
            f"refusing to listen on {settings.host} without API keys: make one with `collegium keys create NAME`, "
            "or listen on 127.0.0.1"
        )


def check_origin(request: Request, settings: Settings, keys_required: bool) -> None:
    """Refuse foreign pages. Raises a 403 problem."""
    host = request.headers.get("host", "").lower()
    name = host if host.endswith("]") else host.rsplit(":", 1)[0]
    if not keys_required and name not in settings.host_names:
        raise Problem(
            "forbidden",
            "without API keys the service accepts requests to its own address only; "
            "name others in COLLEGIUM_ALLOWED_HOSTS, or make a key",
        )
    if request.method in _SAFE:
        return
    origin = request.headers.get("origin")
    foreign = origin is not None and urlsplit(origin).netloc.lower() != host
    if foreign or request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}:
        raise Problem("forbidden", "changes are accepted from the service's own pages only")


def check_key(request: Request, store: JobStore) -> None:
    """Refuse a request without a valid bearer key. Raises a 401 problem."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    challenge = 'Bearer realm="collegium"'
    if scheme.lower() != "bearer" or not key.strip():
        raise Problem("unauthorized", "send 'Authorization: Bearer KEY'", headers={"WWW-Authenticate": challenge})
    if not store.verify_key(key.strip()):
        raise Problem(
            "unauthorized",
            "the key is unknown or was revoked",
            headers={"WWW-Authenticate": f'{challenge}, error="invalid_token"'},
        )
