"""Health checks, metrics, pages."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text

import collegium.app.routes.pages
from collegium.app.routes.health import Ready
from collegium.app.services.services import Services
from collegium.jobs.record import Failure, Job


def test_livez_depends_on_nothing(api: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    services.engine.dispose()
    monkeypatch.setattr(services.store, "ping", lambda: pytest.fail("asked"))
    assert api.get("/livez").json() == {"status": "ok"}


def test_readyz_lists_its_checks(api: TestClient) -> None:
    answer = api.get("/readyz")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    ready = Ready.model_validate_json(answer.content)
    assert ready.checks == {"database": "ok", "migrations": "ok", "artifacts": "ok", "broker": "ok"}


def test_without_a_broker_the_service_is_degraded(build: Callable[..., TestClient], mlp: dict[str, Any]) -> None:
    api = build(broker_url="redis://127.0.0.1:1/0")
    answer = api.get("/readyz")
    assert answer.status_code == 200
    assert answer.json()["status"] == answer.json()["checks"]["broker"] == "degraded"
    assert api.post("/v1/searches", json=mlp).status_code == 202


def test_with_an_old_schema_the_service_is_not_ready(api: TestClient, services: Services) -> None:
    with services.store.database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'unknown'"))
    answer = api.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["migrations"] == "failed"


def test_without_an_artifact_folder_the_service_is_not_ready(build: Callable[..., TestClient], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    answer = build(artifact_url=f"file://{tmp_path}/file/folder").get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["artifacts"] == "failed"


def test_without_a_database_the_service_is_not_ready(build: Callable[..., TestClient]) -> None:
    api = build(database_url="postgresql://nobody@127.0.0.1:1/none", host="127.0.0.1")
    answer = api.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["database"] == "failed"
    assert api.get("/v1/jobs").status_code == 503
    assert api.get("/livez").status_code == 200


def test_metrics_are_rendered_for_prometheus(
    api: TestClient, services: Services, started: Callable[..., Job], failure: Failure
) -> None:
    job = started()
    services.store.fail(job.id, job.attempt, failure, retry=False)
    services.store.create("search", {}, queue="search")
    answer = api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        'collegium_jobs{queue="search",status="queued"} 1.0',
        'collegium_jobs{queue="train",status="running"} 0.0',
        'collegium_attempts_total{outcome="failed.out_of_memory"} 1.0',
        "collegium_lease_expiries_total 0.0",
        "collegium_fenced_writes_total 0.0",
        "collegium_event_streams 0.0",
    ):
        assert line in answer.text
    assert re.search(r'collegium_oldest_queued_seconds\{queue="search"\} 0\.\d', answer.text)


def test_the_page_and_its_files_are_served_with_tags(api: TestClient) -> None:
    page = api.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    links = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    assert len(links) >= 3
    for link in {"/", *links}:
        answer = api.get(link)
        assert answer.status_code == 200
        again = api.get(link, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert api.head(link).status_code == 200


def test_the_page_loads_nothing_from_other_hosts() -> None:
    folder = Path(collegium.app.routes.pages.__file__).parent.parent / "web"
    for path in folder.iterdir():
        source = path.read_text(encoding="utf-8")
        elsewhere = re.findall(r"https?://[^\s\"'`)]+", source)
        assert set(elsewhere) <= {"http://www.w3.org/2000/svg"}, path.name
        assert not re.search(r"\bstyle=|\bon\w+=\"|innerHTML|\beval\(", source), path.name
        for module in re.findall(r'from "\./([^"]+)"', source):
            assert (folder / module).is_file()
