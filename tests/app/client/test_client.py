"""The client: retries that are safe, streams over several connections, downloads and uploads that resume."""

from __future__ import annotations

import hashlib
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from collegium.app.client.client import Client, Damaged, Refused, Unreachable
from collegium.app.client.transfer import download, upload
from collegium.app.services.services import Services
from collegium.jobs.record import Job

Live = Callable[..., tuple[str, Services]]


class Flaky(httpx.BaseTransport):
    """Passes requests on, and loses the answers to those that ``lose`` picks."""

    def __init__(self, lose: Callable[[httpx.Request], bool]) -> None:
        self.inner = httpx.HTTPTransport()
        self.lose = lose
        self.requests: list[httpx.Request] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        response = self.inner.handle_request(request)
        if self.lose(request):
            response.read()
            response.close()
            raise httpx.ReadError("the connection broke", request=request)
        return response

    def close(self) -> None:
        self.inner.close()


def first(method: str, path: str) -> Callable[[httpx.Request], bool]:
    """Picks the first such request."""
    seen: list[int] = []

    def pick(request: httpx.Request) -> bool:
        if request.method == method and request.url.path.startswith(path):
            seen.append(1)
            return len(seen) == 1
        return False

    return pick


def test_a_lost_answer_to_a_post_makes_no_second_job(live: Live, mlp: dict[str, Any]) -> None:
    url, services = live()
    transport = Flaky(first("POST", "/v1/searches"))
    with Client(url, transport=transport) as client:
        job = client.submit("search", mlp)
    assert len(transport.requests) == 2
    assert [item.id for item in services.store.list().items] == [job["id"]]


def test_a_refused_connection_is_unreachable_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("collegium.app.client.client.time.sleep", pauses.append)
    with Client("http://127.0.0.1:9") as client:
        began = time.perf_counter()
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:9"):
            client.jobs()
        assert time.perf_counter() - began + sum(pauses) < 3
        with pytest.raises(Unreachable):
            list(client.events("x"))
        assert pauses == sorted(pauses)
        assert sum(pauses) < 60
    for url in ("nonsense", "ftp://host", "http://[::1"):
        with pytest.raises((Unreachable, httpx.InvalidURL)), Client(url) as client:
            client.jobs()


@pytest.mark.parametrize("url", ["nonsense", "ftp://host", "127.0.0.1:8321", "localhost:8321"])
def test_an_address_without_http_is_said_to_be_none(url: str) -> None:
    with pytest.raises(Unreachable, match=r"is not the address of a service, as http://127\.0\.0\.1:8321 is"):
        Client(url).jobs()


def test_a_refusal_carries_the_problem(live: Live) -> None:
    url, _ = live()
    with Client(url) as client:
        with pytest.raises(Refused) as caught:
            client.job("nothing")
        assert (caught.value.status, caught.value.kind) == (404, "not-found")
        with pytest.raises(Refused) as caught:
            client.submit("search", {})
        assert caught.value.errors[0]["path"] == "baseline"


def test_an_error_without_a_problem_document_is_a_refusal() -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(502, text="<html>bad gateway</html>"))
    with Client("http://service", transport=transport) as client, pytest.raises(Refused) as caught:
        client.jobs()
    assert str(caught.value) == "502 Bad Gateway, without a reason: is what answers at http://service/ the service?"


def test_a_busy_service_is_retried() -> None:
    answers = iter([httpx.Response(503, json={"detail": "busy"}), httpx.Response(200, json={"items": []})])
    with Client("http://service", transport=httpx.MockTransport(lambda request: next(answers))) as client:
        assert client.jobs() == {"items": []}


def test_a_key_is_sent() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"items": [request.headers["authorization"]]})

    with Client("http://service", "secret", httpx.MockTransport(answer)) as client:
        assert client.presets() == ["Bearer secret"]


def test_events_continue_over_broken_streams(live: Live, mlp: dict[str, Any], wait_until: Callable[..., Any]) -> None:
    url, services = live()
    job, _ = services.store.create("search", mlp, queue="search")

    def work() -> None:
        services.store.claim(job.id, "worker", 60)
        for step in range(10):
            services.store.report(job.id, 1, step / 10, str(step))
            wait_until(lambda: len(seen) >= step + 3, "the events so far arrive")  # noqa: B023
        services.store.succeed(job.id, 1, {"answer": 1})

    class Cut(httpx.BaseTransport):
        inner = httpx.HTTPTransport()
        streams = 0

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = self.inner.handle_request(request)
            if not request.url.path.endswith("/events"):
                return response
            self.streams += 1
            return httpx.Response(200, headers=response.headers, stream=Short(response, 3 if self.streams < 3 else 99))

    class Short(httpx.SyncByteStream):
        def __init__(self, response: httpx.Response, chunks: int) -> None:
            self.response, self.chunks = response, chunks

        def __iter__(self) -> Any:
            for number, chunk in enumerate(self.response.iter_raw()):
                if number == self.chunks:
                    raise httpx.ReadError("cut")
                yield chunk

        def close(self) -> None:
            self.response.close()

    seen: list[int] = []
    worker = threading.Thread(target=work)
    worker.start()
    transport = Cut()
    with Client(url, transport=transport) as client:
        end = client.wait(job.id, lambda event: seen.append(event.seq))
    worker.join()
    transport.inner.close()
    assert seen == list(range(1, 14))
    assert end["status"] == "succeeded"
    assert transport.streams >= 2


CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def left(live: Live, mlp: dict[str, Any], tmp_path: Path) -> tuple[str, Services, dict[str, Any]]:
    """A service with a job that left a file, and the file as listed."""
    url, services = live()
    job, _ = services.store.create("search", mlp, queue="search")
    services.store.claim(job.id, "worker", 60)
    (tmp_path / "source").write_bytes(CONTENT)
    artifact = services.artifacts.put_file(job.id, 1, "deep/model.bin", tmp_path / "source")
    services.store.succeed(job.id, 1, {}, [artifact])
    with Client(url) as client:
        return url, services, client.artifacts(job.id)[0]


def test_a_download_is_whole_and_is_not_repeated(left: tuple[str, Services, dict[str, Any]], tmp_path: Path) -> None:
    url, _, artifact = left
    transport = Flaky(lambda request: False)
    with Client(url, transport=transport) as client:
        path = download(client, artifact, tmp_path / "to")
        assert path == tmp_path / "to/deep/model.bin"
        assert path.read_bytes() == CONTENT
        asked = len(transport.requests)
        assert download(client, artifact, tmp_path / "to") == path
        assert len(transport.requests) == asked
    assert [item.name for item in path.parent.iterdir()] == ["model.bin"]


def test_an_interrupted_download_is_resumed(left: tuple[str, Services, dict[str, Any]], tmp_path: Path) -> None:
    url, _, artifact = left
    partial = tmp_path / "to/deep/model.bin.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT[:1000])
    transport = Flaky(lambda request: False)
    moved: list[int] = []
    with Client(url, transport=transport) as client:
        assert download(client, artifact, tmp_path / "to", moved.append).read_bytes() == CONTENT
    assert transport.requests[0].headers["range"] == "bytes=1000-"
    assert sum(moved) == len(CONTENT)


@pytest.mark.parametrize("stale", [b"wrong" * 10, CONTENT[:-1] + b"?", CONTENT + b"more"])
def test_a_partial_file_that_is_wrong_is_fetched_anew(
    left: tuple[str, Services, dict[str, Any]], tmp_path: Path, stale: bytes
) -> None:
    url, _, artifact = left
    partial = tmp_path / "to/deep/model.bin.part"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(stale)
    with Client(url) as client:
        assert download(client, artifact, tmp_path / "to").read_bytes() == CONTENT


def test_a_file_with_a_wrong_hash_is_not_kept(left: tuple[str, Services, dict[str, Any]], tmp_path: Path) -> None:
    url, _, artifact = left
    with Client(url) as client, pytest.raises(Damaged, match=r"model\.bin"):
        download(client, artifact | {"sha256": hashlib.sha256(b"else").hexdigest()}, tmp_path / "to")
    assert list((tmp_path / "to/deep").iterdir()) == []


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "a/../../b", "", "c:\\x"])
def test_a_name_never_leaves_its_folder(tmp_path: Path, name: str) -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(Damaged, match="not the name of a file"):
        download(client, {"name": name, "bytes": 1, "sha256": "0" * 64, "link": "/"}, tmp_path)


def test_a_file_that_is_gone_is_refused(left: tuple[str, Services, dict[str, Any]], tmp_path: Path) -> None:
    url, services, artifact = left
    services.artifacts.delete_attempt(artifact["link"].split("/")[3], 1)
    with Client(url) as client, pytest.raises(Refused, match="cannot download"):
        download(client, artifact, tmp_path)


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    path = tmp_path / "mine.npz"
    random = np.random.default_rng(0)
    np.savez(
        path,
        x_train=random.normal(size=(600, 10)).astype(np.float32),
        y_train=np.arange(600) % 3,
        x_test=random.normal(size=(30, 10)).astype(np.float32),
        y_test=np.arange(30) % 3,
    )
    return path


@pytest.mark.parametrize("lost", [None, ("PATCH", "/v1/uploads")])
def test_an_upload_arrives_whole_whatever_is_lost(
    live: Live, npz: Path, monkeypatch: pytest.MonkeyPatch, lost: tuple[str, str] | None
) -> None:
    monkeypatch.setattr("collegium.app.client.transfer._PIECE", 10_000)
    url, services = live()
    transport = Flaky(first(*lost) if lost else lambda request: False)
    with Client(url, transport=transport) as client:
        dataset = upload(client, npz, "mine", "npz")
        assert [item["id"] for item in client.datasets()] == [dataset["id"]]
        assert services.datasets.path(dataset["id"]).read_bytes() == npz.read_bytes()
        client.delete_dataset(dataset["id"])
        assert client.datasets() == []


def test_a_refused_upload_gives_the_reason(live: Live, tmp_path: Path) -> None:
    url, _ = live()
    path = tmp_path / "bad.npz"
    buffer = io.BytesIO()
    np.savez(buffer, x_train=np.ones(3))
    path.write_bytes(buffer.getvalue())
    with Client(url) as client, pytest.raises(Refused, match="y_train"):
        upload(client, path, "bad", "npz")


def test_every_exception_is_in_the_drawn_tree() -> None:
    import collegium.app.client.client

    drawing = collegium.app.client.client.__doc__ or ""
    kinds = [
        kind
        for kind in vars(collegium.app.client.client).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert kinds
    assert all(kind.__name__ in drawing for kind in kinds)


def test_jobs_are_typed(live: Live, mlp: dict[str, Any]) -> None:
    url, services = live()
    job: Job = services.store.create("training", mlp, queue="train")[0]
    services.store.claim(job.id, "worker", 60)
    services.store.append_event(job.id, 1, "metric", {"step": 1, "loss": 2.0})
    with Client(url) as client:
        assert client.metrics(job.id)["rows"] == [[1, 2.0]]
        assert client.cancel(job.id)["status"] == "cancelling"
