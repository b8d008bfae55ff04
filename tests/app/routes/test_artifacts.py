"""Downloads: whole, in part, conditional, with digests."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable

import pytest
from fastapi.testclient import TestClient

from collegium.app.services.services import Services
from collegium.app.services.views import ArtifactList
from collegium.jobs.record import Job

CONTENT = bytes(range(256)) * 3000


@pytest.fixture
def path(finished: Callable[..., Job]) -> str:
    return f"/v1/jobs/{finished({'model.bin': CONTENT, 'README.md': b'# hi', 'deep/config.json': b'{}'}).id}/artifacts"


def digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def test_files_are_listed_with_size_hash_and_link(api: TestClient, path: str) -> None:
    answer = api.get(path)
    ArtifactList.model_validate_json(answer.content)
    items = {item["name"]: item for item in answer.json()["items"]}
    assert set(items) == {"model.bin", "README.md", "deep/config.json"}
    assert items["model.bin"]["bytes"] == len(CONTENT)
    assert items["model.bin"]["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    for name, content in (("model.bin", CONTENT), ("deep/config.json", b"{}")):
        assert api.get(items[name]["link"]).content == content


def test_a_whole_file_carries_its_digests(api: TestClient, path: str) -> None:
    answer = api.get(f"{path}/model.bin")
    assert answer.status_code == 200
    assert answer.content == CONTENT
    assert answer.headers["content-length"] == str(len(CONTENT))
    assert answer.headers["repr-digest"] == answer.headers["content-digest"] == digest(CONTENT)
    assert answer.headers["etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''model.bin"
    assert answer.headers["x-content-type-options"] == "nosniff"
    head = api.head(f"{path}/model.bin")
    assert head.status_code == 200
    assert head.content == b""
    for name in ("content-length", "repr-digest", "etag", "content-type"):
        assert head.headers[name] == answer.headers[name]


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-99", 0, 100),
        ("bytes=100-", 100, len(CONTENT)),
        ("bytes=-50", len(CONTENT) - 50, len(CONTENT)),
        ("bytes=5-5", 5, 6),
        (f"bytes=10-{len(CONTENT) * 2}", 10, len(CONTENT)),
        (f"bytes=-{len(CONTENT) * 2}", 0, len(CONTENT)),
        ("Bytes = 1 - 2", 1, 3),
    ],
)
def test_a_range_is_sent_with_its_place_in_the_file(
    api: TestClient, path: str, header: str, start: int, end: int
) -> None:
    answer = api.get(f"{path}/model.bin", headers={"Range": header})
    assert answer.status_code == 206
    assert answer.content == CONTENT[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert answer.headers["content-length"] == str(end - start)
    assert answer.headers["repr-digest"] == digest(CONTENT)
    assert "content-digest" not in answer.headers


def test_a_range_beyond_the_file_is_not_satisfiable(api: TestClient, path: str) -> None:
    for header in (f"bytes={len(CONTENT)}-", "bytes=-0", "bytes=999999999-"):
        answer = api.get(f"{path}/model.bin", headers={"Range": header})
        assert answer.status_code == 416
        assert answer.headers["content-range"] == f"bytes */{len(CONTENT)}"
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_malformed_range_is_ignored(api: TestClient, path: str) -> None:
    for header in ("bytes=9-5", "lines=0-5", "bytes=0-5,10-15", "bytes=-", "x", "bytes=" + "9" * 40 + "-"):
        answer = api.get(f"{path}/model.bin", headers={"Range": header})
        assert (answer.status_code, answer.content) == (200, CONTENT), header


def test_a_range_is_sent_only_while_the_file_is_the_same(api: TestClient, path: str) -> None:
    tag = api.head(f"{path}/model.bin").headers["etag"]
    same = api.get(f"{path}/model.bin", headers={"Range": "bytes=0-9", "If-Range": tag})
    assert (same.status_code, same.content) == (206, CONTENT[:10])
    for other in ('"other"', f"W/{tag}", "Sat, 01 Jan 2000 00:00:00 GMT"):
        answer = api.get(f"{path}/model.bin", headers={"Range": "bytes=0-9", "If-Range": other})
        assert (answer.status_code, answer.content) == (200, CONTENT)
    for request in (api.get, api.head):
        unchanged = request(f"{path}/model.bin", headers={"If-None-Match": tag})
        assert (unchanged.status_code, unchanged.content) == (304, b"")


def test_an_empty_file_is_sent_whole(api: TestClient, finished: Callable[..., Job]) -> None:
    link = f"/v1/jobs/{finished({'empty.txt': b''}).id}/artifacts/empty.txt"
    assert (api.get(link).status_code, api.get(link).content) == (200, b"")
    assert api.get(link, headers={"Range": "bytes=0-"}).status_code == 416


def test_unknown_jobs_and_files_are_not_found(api: TestClient, services: Services, path: str) -> None:
    for name in ("none", "../secret", "%2e%2e/secret", "a" * 600, "nul%00", "model.bin/"):
        answer = api.get(f"{path}/{name}")
        assert answer.status_code == 404, name
        assert answer.headers["content-type"] == "application/problem+json"
    job_id = path.split("/")[3]
    services.artifacts.delete_attempt(job_id, 1)
    assert api.get(f"{path}/model.bin").status_code == 404
