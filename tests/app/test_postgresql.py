"""The same routes over PostgreSQL, which refuses more than SQLite does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi.testclient import TestClient

from collegium.app.services.services import Services


def test_a_job_from_post_to_download(
    build: Callable[..., TestClient],
    parts_of: Callable[[TestClient], Services],
    postgresql_url: str,
    mlp: dict[str, Any],
) -> None:
    api = build(database_url=postgresql_url)
    store = parts_of(api).store
    assert api.get("/readyz").json()["status"] == "ok"
    posted = api.post("/v1/searches", json=mlp, headers={"Idempotency-Key": "once"})
    assert posted.status_code == 202
    job = store.claim(posted.json()["id"], "worker", 60)
    assert job is not None
    store.report(job.id, 1, 0.5, "half")
    store.append_event(job.id, 1, "metric", {"loss": 1.0})
    store.succeed(job.id, 1, {"answer": 1})
    assert api.get(f"/v1/jobs/{job.id}/events").text.count("event: ") == 5
    assert api.get(f"/v1/jobs/{job.id}/metrics").json()["rows"] == [[1.0]]
    assert api.post("/v1/searches", json=mlp).status_code == 200
    assert api.get("/v1/jobs?limit=1").json()["items"][0]["id"] == job.id
    assert "collegium_attempts_total" in api.get("/metrics").text


def test_odd_text_in_paths_queries_and_headers_is_no_server_error(
    build: Callable[..., TestClient], postgresql_url: str
) -> None:
    api = build(database_url=postgresql_url)
    for text in ("%00", "a%00b", "%ed%a0%80", "%ff", "'%20OR%201=1--", "%F0%9F%A6%84", "x" * 3000):
        for path in ("jobs/{}", "jobs/{}/events", "jobs/{}/artifacts/{}", "datasets/{}", "uploads/{}"):
            assert api.get(f"/v1/{path.replace('{}', text)}").status_code == 404, (path, text)
        assert api.delete(f"/v1/datasets/{text}").status_code == 404
        assert api.get(f"/v1/jobs?parent_id={text}").json()["items"] == []
        assert api.get(f"/v1/jobs?cursor={text}").status_code == 400
        assert api.get("/v1/jobs", headers={"Authorization": f"Bearer {text}"}).status_code == 200
