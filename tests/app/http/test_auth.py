"""API keys, and what protects a service that has none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from collegium.app.http.auth import NoKeys
from collegium.app.main import create_app
from collegium.app.services.services import Services
from collegium.app.settings import Settings

GUARDED = ["/v1/jobs", "/v1/presets", "/v1/datasets", "/v1/jobs/x/events", "/metrics"]


def test_a_key_is_required_as_soon_as_there_is_one(api: TestClient, services: Services, mlp: dict[str, Any]) -> None:
    assert api.get("/v1/jobs").status_code == 200
    key, secret = services.store.add_key("me")
    for path in GUARDED:
        answer = api.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"
    good = {"Authorization": f"Bearer {secret}"}
    assert api.get("/v1/jobs", headers=good).status_code == 200
    assert api.get("/metrics", headers={"Authorization": f"bearer  {secret} "}).status_code == 200
    assert api.post("/v1/searches", json=mlp, headers=good).status_code == 202
    for path in ("/", "/livez", "/readyz", "/openapi.json"):
        assert api.get(path).status_code == 200
    services.store.revoke_key(key.id)
    services.store.add_key("other")
    refused = api.get("/v1/jobs", headers=good)
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic abc", "Bearer collegium_x_y", "Bearer \xff\xfe"])
def test_a_wrong_key_is_refused(api: TestClient, services: Services, header: str) -> None:
    services.store.add_key("me")
    answer = api.get("/v1/jobs", headers=[(b"Authorization", header.encode("latin-1"))])
    assert answer.status_code == 401


def test_the_key_is_checked_before_the_body(api: TestClient, services: Services) -> None:
    services.store.add_key("me")
    assert api.post("/v1/searches", content=b"x" * 100_000).status_code == 401
    assert api.get("/v1/jobs?limit=0").status_code == 401


def test_a_secret_is_stored_hashed(services: Services, settings: Settings) -> None:
    _, secret = services.store.add_key("me")
    file = Path(settings.database_url.removeprefix("sqlite:///"))
    stored = b"".join(path.read_bytes() for path in file.parent.glob(f"{file.name}*"))
    assert secret.encode() not in stored
    assert secret.rpartition("_")[2].encode() not in stored


def test_a_network_address_without_keys_is_refused_at_the_start(
    settings: Settings, build: Callable[..., TestClient], services: Services
) -> None:
    for host in ("0.0.0.0", "192.168.1.5", "::", "example.org"):
        with pytest.raises(NoKeys, match="collegium keys create"):
            build(host=host)
    _, secret = services.store.add_key("me")
    api = build(host="0.0.0.0")
    assert api.get("/v1/jobs").status_code == 401
    assert api.get("/v1/jobs", headers={"Authorization": f"Bearer {secret}"}).status_code == 200


def test_a_network_address_never_opens_even_when_the_last_key_goes(
    build: Callable[..., TestClient], services: Services
) -> None:
    key, _ = services.store.add_key("me")
    api = build(host="0.0.0.0")
    services.store.revoke_key(key.id)
    assert api.get("/v1/jobs").status_code == 401


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_loopback_needs_no_keys(build: Callable[..., TestClient], host: str) -> None:
    assert build(host=host).get("/v1/jobs").status_code == 200


def test_foreign_names_and_pages_are_refused_without_keys(
    api: TestClient, services: Services, build: Callable[..., TestClient], mlp: dict[str, Any]
) -> None:
    rebound = api.get("/v1/jobs", headers={"Host": "evil.example"})
    assert (rebound.status_code, rebound.json()["type"]) == (403, "urn:collegium:problem:forbidden")
    for host in ("localhost:8321", "[::1]:8321", "127.0.0.1"):
        assert api.get("/v1/jobs", headers={"Host": host}).status_code == 200
    assert build(allowed_hosts="Tool.example, other").get("/v1/jobs", headers={"Host": "tool.example:80"}).is_success
    for header in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert api.post("/v1/searches", json=mlp, headers=header).status_code == 403
        assert api.post("/v1/jobs/x/cancel", headers=header).status_code == 403
        assert api.get("/v1/jobs", headers=header).status_code == 200
    own = {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}
    assert api.post("/v1/searches", json=mlp, headers=own).status_code == 202


def test_two_services_do_not_share_state(settings: Settings) -> None:
    one, two = create_app(settings), create_app(settings)
    parts = [field.name for field in fields(Services) if field.name != "settings"]
    shared = [name for name in parts if getattr(one.state.services, name) is getattr(two.state.services, name)]
    assert shared == []
    for app in (one, two):
        app.state.services.publisher.close()
        app.state.services.engine.dispose()
