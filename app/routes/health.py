"""Health checks and metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from collegium.app.http.openapi import problems
from collegium.app.services.services import ServicesDep
from collegium.app.services.views import View
from collegium.jobs.broker import BrokerDown
from collegium.jobs.database import migrate
from collegium.jobs.database.engine import UNAVAILABLE
from collegium.jobs.errors import SchemaMismatch

router = APIRouter(tags=["health"])
metrics = APIRouter(tags=["health"])

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
State = Literal["ok", "degraded", "failed"]


class Alive(View):
    """The process responds."""

    status: Literal["ok"]


class Ready(View):
    """The state of what the service depends on. Without the broker it is degraded: jobs are kept, and start later."""

    status: State
    checks: dict[str, State] = Field(description="`database`, `migrations`, `artifacts` and `broker`")


@router.get(
    "/livez", responses={200: {"model": Alive}, **problems("internal")}, summary="Check that the process is alive"
)
async def live() -> JSONResponse:
    return JSONResponse({"status": "ok"}, headers={"Cache-Control": "no-store"})


@router.get(
    "/readyz",
    responses={
        200: {"model": Ready, "description": "Ready, possibly degraded."},
        503: {"model": Ready, "description": "A part that is indispensable has failed."},
        **problems("internal"),
    },
    summary="Check what the service depends on",
)
def ready(services: ServicesDep) -> JSONResponse:
    checks: dict[str, State] = {
        "database": _state(services.store.ping, UNAVAILABLE),
        "migrations": _state(lambda: migrate.check(services.engine), (*UNAVAILABLE, SchemaMismatch)),
        "artifacts": _state(services.artifacts.ping, (OSError,)),
        "broker": _state(services.publisher.check, (BrokerDown,), otherwise="degraded"),
    }
    worst: State = max(checks.values(), key=["ok", "degraded", "failed"].index)
    return JSONResponse(
        {"status": worst, "checks": checks},
        status_code=503 if worst == "failed" else 200,
        headers={"Cache-Control": "no-store"},
    )


@metrics.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        }
    },
    summary="Metrics for Prometheus",
)
def read_service_metrics(services: ServicesDep) -> Response:
    return Response(services.metrics.render(services.store.metrics()), media_type=_PROMETHEUS)


def _state(check: Callable[[], object], failures: tuple[type[Exception], ...], otherwise: State = "failed") -> State:
    try:
        check()
    except failures:
        return otherwise
    return "ok"
