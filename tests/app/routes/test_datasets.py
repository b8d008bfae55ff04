"""Uploads in one piece and in several; what is refused, listed and deleted."""

from __future__ import annotations

import asyncio
import hashlib
import io
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from collegium.app.services.services import CHECKED_UPLOADS, Services
from collegium.app.services.views import DatasetPage, DatasetView
from collegium.jobs.record import Job
from collegium.jobs.subprocesses import environment, python

RAW = {"Content-Type": "application/octet-stream"}


def npz(seed: int = 0, **changes: Any) -> bytes:
    random = np.random.default_rng(seed)
    arrays = {
        "x_train": random.normal(size=(40, 6)).astype(np.float32),
        "y_train": np.arange(40) % 3,
        "x_test": random.normal(size=(12, 6)).astype(np.float32),
        "y_test": np.arange(12) % 3,
    }
    file = io.BytesIO()
    np.savez(file, **{name: value for name, value in (arrays | changes).items() if value is not None})
    return file.getvalue()


def send(api: TestClient, content: Any, kind: str = "npz", **query: str) -> Any:
    return api.post("/v1/datasets", params={"name": "mine", "kind": kind, **query}, content=content, headers=RAW)


def test_a_data_set_is_checked_and_stored_once_by_its_hash(api: TestClient, services: Services) -> None:
    content = npz()
    identity = hashlib.sha256(content).hexdigest()
    answer = send(api, content, sha256=identity)
    assert answer.status_code == 201
    view = DatasetView.model_validate_json(answer.content)
    assert (view.id, view.name, view.bytes, view.kind) == (identity, "mine", len(content), "npz")
    assert view.summary["classes"] == 3
    assert view.summary["train"] == 40
    assert answer.headers["location"] == f"/v1/datasets/{identity}"
    assert services.datasets.path(identity).read_bytes() == content
    again = send(api, content, name="another name")
    assert (again.status_code, again.json()["name"]) == (200, "mine")
    assert api.get(answer.headers["location"]).json() == answer.json()
    page = DatasetPage.model_validate_json(api.get("/v1/datasets").content)
    assert [item.id for item in page.items] == [identity]


def test_a_safetensors_file_is_checked_and_stored(api: TestClient) -> None:
    from safetensors.numpy import save

    content = save(
        {
            "x_train": np.ones((8, 3), np.float32),
            "y_train": np.arange(8) % 2,
            "x_test": np.ones((4, 3), np.float32),
            "y_test": np.arange(4) % 2,
        }
    )
    answer = send(api, content, kind="safetensors")
    assert (answer.status_code, answer.json()["kind"]) == (201, "safetensors")
    assert answer.json()["summary"]["shape"] == [3]
    assert answer.json()["id"] == hashlib.sha256(content).hexdigest()


def test_wrong_files_are_refused_and_leave_nothing(api: TestClient, services: Services) -> None:
    pickled = np.array([{"a": 1}], dtype=object)
    for content, word in (
        (b"not a file at all", "neither"),
        (b"", "neither"),
        (npz()[:2000], "archive"),
        (npz(y_test=None), "y_test"),
        (npz(y_train=np.arange(40.0)), "y_train"),
        (npz(x_train=np.full((40, 6), np.nan)), "finite"),
        (npz(extra=np.ones(3)), "extra"),
        (npz(x_train=pickled), "x_train"),
    ):
        answer = send(api, content)
        assert answer.status_code == 422, word
        assert answer.json()["type"] == "urn:collegium:problem:invalid-dataset"
        assert word in answer.json()["detail"]
    assert send(api, npz(), sha256="0" * 64).status_code == 422
    assert api.get("/v1/datasets").json() == {"items": [], "next_cursor": None}
    assert [path for path in services.datasets.folder.rglob("*") if path.is_file()] == []


def test_a_bomb_is_refused_before_it_is_unpacked(api: TestClient) -> None:
    random = np.zeros((1_000_000, 6), np.float32)
    file = io.BytesIO()
    np.savez_compressed(file, x_train=random, y_train=np.zeros(1_000_000, int), x_test=random, y_test=np.zeros(9, int))
    assert len(file.getvalue()) < 200_000
    answer = send(api, file.getvalue())
    assert answer.status_code == 422
    assert "unpack" in answer.json()["detail"]


def test_uploads_are_bounded_in_size_and_of_one_media_type(api: TestClient) -> None:
    assert send(api, b"x" * 200_001).status_code == 413
    chunks = (b"x" * 50_000 for _ in range(5))
    assert send(api, chunks).status_code == 413
    query = {"name": "mine", "kind": "npz"}
    assert api.post("/v1/datasets", params=query, content=npz()).status_code == 415
    for wrong in ({"name": ""}, {"kind": "csv"}, {"sha256": "XYZ"}, {"name": "a" * 256}):
        assert send(api, npz(), **wrong).status_code == 422
    assert send(api, npz(), name="a\x07b").status_code == 422


def test_an_interrupted_upload_is_resumed(api: TestClient, services: Services) -> None:
    content = npz()
    begun = api.post("/v1/uploads", params={"name": "mine", "kind": "npz"})
    assert (begun.status_code, begun.json()["offset"]) == (201, 0)
    link = begun.headers["location"]
    first = api.patch(link, content=content[:1000], headers=RAW | {"Upload-Offset": "0"})
    assert (first.status_code, first.json()["offset"]) == (200, 1000)
    misplaced = api.patch(link, content=content[:1000], headers=RAW | {"Upload-Offset": "0"})
    assert (misplaced.status_code, misplaced.headers["upload-offset"]) == (409, "1000")
    assert api.get(link).json()["offset"] == 1000
    assert api.patch(link, content=content[1000:], headers=RAW | {"Upload-Offset": "1000"}).status_code == 200
    done = api.post(f"{link}/finish", params={"sha256": hashlib.sha256(content).hexdigest()})
    assert done.status_code == 201
    assert services.datasets.path(done.json()["id"]).read_bytes() == content
    for answer in (api.get(link), api.post(f"{link}/finish"), api.delete(link)):
        assert answer.status_code == 404


def begin(api: TestClient) -> str:
    return api.post("/v1/uploads", params={"name": "mine", "kind": "npz"}).json()["link"]


def test_a_wrong_hash_ends_the_upload(api: TestClient) -> None:
    link = begin(api)
    api.patch(link, content=b"half", headers=RAW | {"Upload-Offset": "0"})
    refused = api.post(f"{link}/finish", params={"sha256": "0" * 64})
    assert refused.status_code == 422
    assert "hash" in refused.json()["detail"]
    assert api.get(link).status_code == 404


def test_wrong_pieces_are_refused_and_an_upload_can_be_deleted(api: TestClient) -> None:
    link = begin(api)
    assert api.patch(link, content=b"x" * 200_001, headers=RAW | {"Upload-Offset": "0"}).status_code == 413
    assert api.patch(link, content=b"x", headers=RAW).status_code == 422
    assert api.patch(link, content=b"x", headers={"Upload-Offset": "0"}).status_code == 415
    assert api.get(link).json()["offset"] == 0
    assert api.delete(link).status_code == 204
    assert api.delete(link).status_code == 404
    assert api.get("/v1/uploads/../../etc").status_code == 404


def test_a_data_set_in_use_is_not_deleted(api: TestClient, services: Services, started: Callable[..., Job]) -> None:
    identity = send(api, npz()).json()["id"]
    job = started("training", {"data": {"name": identity}})
    refused = api.delete(f"/v1/datasets/{identity}")
    assert refused.status_code == 409
    assert job.id in refused.json()["detail"]
    services.store.request_cancel(job.id)
    services.store.finish_cancelled(job.id, job.attempt)
    assert api.delete(f"/v1/datasets/{identity}").status_code == 204
    assert api.delete(f"/v1/datasets/{identity}").status_code == 404
    assert api.get(f"/v1/datasets/{identity}").status_code == 404
    assert list(services.datasets.folder.glob("*.npz")) == []


def test_lists_have_pages(api: TestClient) -> None:
    made = [send(api, npz(seed)).json()["id"] for seed in range(3)]
    first = api.get("/v1/datasets?limit=2").json()
    rest = api.get("/v1/datasets", params={"cursor": first["next_cursor"]}).json()
    assert [item["id"] for item in first["items"] + rest["items"]] == made[::-1]
    assert api.get("/v1/datasets?cursor=x").status_code == 400


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT"])
def test_a_full_disk_is_unavailable(
    api: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    import errno

    def full(*args: Any) -> Any:
        raise OSError(getattr(errno, error), "full")

    monkeypatch.setattr(services.datasets, "append", full)
    answer = send(api, npz())
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:collegium:problem:unavailable")
    assert api.get("/v1/datasets").json()["items"] == []


def test_a_check_that_is_killed_is_an_invalid_data_set(
    api: TestClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("collegium.app.services.uploads._CHILD", "import os; os.abort()")
    answer = send(api, npz())
    assert answer.status_code == 422
    assert "could not be checked" in answer.json()["detail"]


def compressed(rows: int) -> bytes:
    """A small file of zeros that takes a thousand times its size when it is unpacked."""
    file = io.BytesIO()
    zeros, labels = np.zeros((rows, 1000), np.uint8), np.arange(rows) % 2
    np.savez_compressed(file, x_train=zeros, y_train=labels, x_test=zeros[:10], y_test=labels[:10])
    return file.getvalue()


def test_what_float32_takes_is_counted(api: TestClient) -> None:
    refused = send(api, compressed(300))
    assert refused.status_code == 422
    assert "unpack to 1242480 bytes" in refused.json()["detail"]
    assert send(api, compressed(150)).status_code == 201


def test_checking_a_file_takes_no_memory_in_proportion_to_it(tmp_path: Path) -> None:
    """0.13 MB that unpack to 125 MB, and to 500 MB as float32."""
    path = tmp_path / "zeros.npz"
    path.write_bytes(compressed(125_000))
    assert path.stat().st_size < 400_000
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from collegium.app.services.uploads import checked\n"
        "assert checked(Path(sys.argv[1]), 1 << 30)['train'] == 125_000\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == 'darwin' else 1024))\n"
    )
    done = subprocess.run(python("-c", code, str(path)), env=environment(), capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150e6


@pytest.mark.skipif(sys.platform != "linux", reason="the address space is bounded on Linux alone")
def test_memory_of_a_check_is_bounded(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collegium.app.services.uploads.HEADROOM", 50_000)
    refused = send(api, compressed(150))
    assert refused.status_code == 422
    assert "more than 50000 bytes of memory" in refused.json()["detail"]


def test_few_uploads_are_checked_at_a_time(
    api: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def slow(path: Path, limit: int) -> dict[str, Any]:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.2)
        with lock:
            running -= 1
        return {"format": "npz", "shape": [6], "dtype": "float32", "classes": 3, "train": 40, "test": 12}

    monkeypatch.setattr("collegium.app.services.uploads.checked", slow)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda seed: send(api, npz(seed)).status_code, range(6)))
    assert answers == [201] * 6
    assert most == CHECKED_UPLOADS


def test_an_upload_that_waited_too_long_can_be_finished_later(
    api: TestClient, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("collegium.app.services.uploads.WAIT_S", 0.05)
    link = begin(api)
    api.patch(link, content=npz(), headers=RAW | {"Upload-Offset": "0"})
    busy = asyncio.Semaphore(0)
    object.__setattr__(services, "checking", busy)
    refused = api.post(f"{link}/finish")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "15")
    assert refused.json()["type"] == "urn:collegium:problem:unavailable"
    busy.release()
    assert api.post(f"{link}/finish").status_code == 201
