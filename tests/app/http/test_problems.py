"""Every error is a problem document, whatever went wrong and wherever."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from collegium.app.http import problems
from collegium.app.http.openapi import problems as documented
from collegium.app.http.problems import KINDS, Problem, ProblemDocument, of_status
from collegium.app.services.services import Services


def assert_problem(answer: Any, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    document = ProblemDocument.model_validate_json(answer.content)
    assert document.status == status
    assert document.type == f"urn:collegium:problem:{kind}"
    assert document.instance == f"urn:uuid:{answer.headers['x-request-id']}"
    return answer.json()


def test_paths_without_a_route_are_not_found(api: TestClient) -> None:
    for path in ("/nothing", "/v1", "/v1/", "/v1/jobs/", "/static/none.js", "/static/..%2fmain.py", "/docs"):
        assert_problem(api.get(path), 404, "not-found")


def test_a_wrong_method_is_refused_with_the_allowed_ones(api: TestClient) -> None:
    document = assert_problem(api.put("/v1/jobs"), 405, "method-not-allowed")
    assert "GET" in document["detail"]
    assert api.delete("/v1/datasets").headers["allow"] == "GET, POST"
    assert api.put("/v1/jobs/x/artifacts/y").headers["allow"] == "GET, HEAD"
    assert_problem(api.request("BREW", "/v1/searches"), 405, "method-not-allowed")


def test_a_bug_is_a_500_without_details(
    api: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*args: Any, **options: Any) -> Any:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(services.store, "list", broken)
    with caplog.at_level(logging.ERROR, "collegium.api"):
        answer = api.get("/v1/jobs")
    document = assert_problem(answer, 500, "internal")
    assert "secret" not in answer.text
    assert document["instance"].removeprefix("urn:uuid:") in caplog.text


def test_an_unavailable_database_is_a_503(
    api: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch, mlp: dict[str, Any]
) -> None:
    def silent(*args: Any, **options: Any) -> Any:
        raise OperationalError("SELECT", {}, Exception("gone"))

    monkeypatch.setattr(services.store, "create", silent)
    monkeypatch.setattr(services.store, "get", silent)
    assert_problem(api.post("/v1/searches", json=mlp), 503, "unavailable")
    answer = api.get("/v1/jobs/abc")
    assert_problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "5"


def test_every_answer_has_security_headers(api: TestClient) -> None:
    for answer in (api.get("/"), api.get("/livez"), api.get("/nothing"), api.post("/v1/searches", content=b"")):
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])


def test_every_kind_of_problem_is_drawn_and_documented() -> None:
    drawing = problems.__doc__ or ""
    assert all(kind in drawing and str(status) in drawing for kind, (status, _) in KINDS.items())
    assert set(documented(*KINDS)) == {status for status, _ in KINDS.values()}
    guide = Path(__file__).parents[3].joinpath("docs/api.md").read_text(encoding="utf-8")
    assert all(f"`{kind}`" in guide for kind in KINDS)


def test_a_status_without_its_own_kind_takes_its_class() -> None:
    assert of_status(404).kind == "not-found"
    assert of_status(418).status == 400
    assert of_status(502).status == 500


def test_a_problem_with_half_a_surrogate_pair_is_encoded() -> None:
    answer = Problem("invalid-spec", "bad \ud800", errors=[(("a\ud800",), "b")]).response("id")
    document = json.loads(bytes(answer.body))
    assert document["status"] == 422
    assert document["detail"].startswith("bad ")


def test_requests_are_counted_by_endpoint(api: TestClient) -> None:
    api.get("/v1/jobs/one")
    api.get("/v1/jobs/two")
    text = api.get("/metrics").text
    assert 'collegium_http_requests_total{endpoint="read_job",method="GET",status="404"} 2.0' in text
