"""The composition root of the API process: settings in, application out."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from starlette.concurrency import run_in_threadpool

from collegium.app.http.auth import check_bind
from collegium.app.http.error_handlers import install_problem_handlers
from collegium.app.http.metrics import RequestMetrics
from collegium.app.http.middleware import RequestMiddleware
from collegium.app.http.openapi import COMMON_RESPONSES, publish_openapi
from collegium.app.http.requests import only_known_parameters
from collegium.app.routes import artifacts, datasets, events, health, jobs, pages, searches, trainings, uploads
from collegium.app.services.services import Services, authorize
from collegium.app.settings import Settings, load_settings
from collegium.jobs.broker import Publisher
from collegium.jobs.database.engine import open_engine
from collegium.jobs.files.artifacts import ArtifactStore
from collegium.jobs.files.datasets import DatasetStore
from collegium.jobs.store import JobStore
from collegium.search.spec import SearchSpec
from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec
from collegium.versions import software_version

_BODIES = (SearchSpec, TrainingSpec, StudySpec)


def build_services(settings: Settings) -> Services:
    """The parts of the service that the settings describe. The database is opened when it is first used."""
    engine = open_engine(settings.database_url)
    store = JobStore(engine)
    metrics = RequestMetrics()
    return Services(
        settings=settings,
        engine=engine,
        store=store,
        artifacts=ArtifactStore(settings.artifact_url),
        datasets=DatasetStore(settings.datasets_dir, store, limit=settings.max_dataset_bytes),
        publisher=Publisher(settings.broker_url, failed=metrics.publish_failures.inc),
        metrics=metrics,
        streams=threading.BoundedSemaphore(settings.max_streams),
    )


def create_app(settings: Settings | None = None) -> FastAPI:
    """The ASGI application. Refuses to start where it would be open to a network without keys."""
    services = build_services(settings or load_settings())
    app = FastAPI(
        title="collegium",
        version=software_version(),
        docs_url=None,
        redoc_url=None,
        lifespan=_lifespan(services),
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.services = services
    install_problem_handlers(app)
    app.add_middleware(RequestMiddleware, observe=services.metrics.observe)
    _include_routes(app)
    publish_openapi(app, _BODIES)
    return app


def _lifespan(services: Services) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(check_bind, services.settings, services.store)
        yield
        services.stopping.set()
        await run_in_threadpool(services.publisher.close)
        services.engine.dispose()

    return lifespan


def _include_routes(app: FastAPI) -> None:
    app.include_router(_protected_routes())
    app.include_router(health.router)
    app.include_router(pages.router)


@cache
def _protected_routes() -> APIRouter:
    """The routes for which a key may be asked; the same in every application, and the slow part of making one."""
    protected = APIRouter(dependencies=[Depends(authorize), Depends(only_known_parameters)], responses=COMMON_RESPONSES)
    api = APIRouter(prefix="/v1")
    for module in (searches, trainings, datasets, uploads, jobs, events, artifacts):
        api.include_router(module.router)
    protected.include_router(api)
    protected.include_router(health.metrics)
    return protected
