"""Event streams: complete, resumable, alive, and always ended by the terminal event."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from collegium.app.routes.events import encoded
from collegium.app.services.services import Services
from collegium.jobs.record import Job


def parse(text: str) -> list[tuple[int, str, dict[str, Any]]]:
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if line and not line.startswith(":"))
        if "data" in fields:
            events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return events


def test_a_finished_jobs_stream_starts_at_the_first_event(api: TestClient, finished: Callable[..., Job]) -> None:
    answer = api.get(f"/v1/jobs/{finished().id}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.startswith("retry: ")
    events = parse(answer.text)
    assert [seq for seq, _, _ in events] == list(range(1, len(events) + 1))
    assert [data["status"] for _, kind, data in events if kind == "state"] == ["queued", "running", "succeeded"]
    assert all("at" in data for _, _, data in events)


@pytest.mark.parametrize("resume", [{"Last-Event-ID": "1"}, {}])
def test_a_stream_resumes_after_an_event(api: TestClient, finished: Callable[..., Job], resume: dict[str, str]) -> None:
    job = finished()
    query = "" if resume else "?after=1"
    events = parse(api.get(f"/v1/jobs/{job.id}/events{query}", headers=resume).text)
    assert [seq for seq, _, _ in events] == [2, 3]


@pytest.mark.parametrize("last", [3, 4, 10**9])
def test_the_terminal_event_is_repeated_to_a_client_that_has_it(
    api: TestClient, finished: Callable[..., Job], last: int
) -> None:
    events = parse(api.get(f"/v1/jobs/{finished().id}/events", headers={"Last-Event-ID": str(last)}).text)
    assert [(seq, data["status"]) for seq, _, data in events] == [(3, "succeeded")]


@pytest.mark.parametrize("header", ["-1", "x", "1.5", "99999999999999999999"])
def test_an_odd_event_id_is_refused(api: TestClient, finished: Callable[..., Job], header: str) -> None:
    answer = api.get(f"/v1/jobs/{finished().id}/events", headers={"Last-Event-ID": header})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == "header.Last-Event-ID"


def test_events_arrive_as_they_happen_with_keep_alives_between(
    live: Callable[..., tuple[str, Services]], mlp: dict[str, Any]
) -> None:
    url, services = live()
    job, _ = services.store.create("search", mlp, queue="search")
    idle, idle_again = threading.Event(), threading.Event()

    def work() -> None:
        idle.wait(10)
        claimed = services.store.claim(job.id, "worker", 60)
        assert claimed is not None
        services.store.report(job.id, 1, 0.5, "half\nway ⅓")
        idle_again.wait(10)
        services.store.succeed(job.id, 1, {"answer": 1})

    worker = threading.Thread(target=work)
    worker.start()
    with httpx.stream("GET", f"{url}/v1/jobs/{job.id}/events", timeout=10) as response:
        text = ""
        for received in response.iter_text():
            text += received
            if ": keep-alive" in text:
                idle.set()
            if ": keep-alive" in text.partition("half")[2]:
                idle_again.set()
    worker.join()
    events = parse(text)
    assert [kind for _, kind, _ in events] == ["state", "state", "progress", "state"]
    assert events[2][2]["message"] == "half\nway ⅓"
    assert events[-1][2]["status"] == "succeeded"
    assert ": keep-alive\n\n" in text


def test_a_future_event_id_does_not_hide_later_events(
    live: Callable[..., tuple[str, Services]], mlp: dict[str, Any]
) -> None:
    url, services = live()
    job, _ = services.store.create("search", mlp, queue="search")
    text = ""
    path, headers = f"{url}/v1/jobs/{job.id}/events", {"Last-Event-ID": "500"}
    with httpx.stream("GET", path, headers=headers, timeout=10) as response:
        for received in response.iter_text():
            text += received
            if ": keep-alive" in text:
                services.store.request_cancel(job.id)
    assert [data["status"] for _, _, data in parse(text)] == ["cancelled"]


def test_streams_are_limited_in_number_and_released(
    live: Callable[..., tuple[str, Services]], mlp: dict[str, Any], wait_until: Callable[..., Any]
) -> None:
    url, services = live(max_streams=2)
    job, _ = services.store.create("search", mlp, queue="search")
    path = f"{url}/v1/jobs/{job.id}/events"
    with httpx.Client(timeout=10) as client:
        with client.stream("GET", path) as one, client.stream("GET", path) as two:
            assert (one.status_code, two.status_code) == (200, 200)
            refused = client.get(path)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "5"
        services.store.request_cancel(job.id)
        answered = lambda: (answer := client.get(path)).status_code != 503 and answer  # noqa: E731
        assert wait_until(answered, "a place is free", 5).status_code == 200


def test_streams_close_when_the_service_ends(live: Callable[..., tuple[str, Services]], mlp: dict[str, Any]) -> None:
    url, services = live()
    job, _ = services.store.create("search", mlp, queue="search")
    text = ""
    with httpx.stream("GET", f"{url}/v1/jobs/{job.id}/events", timeout=10) as response:
        for received in response.iter_text():
            text += received
            if ": keep-alive" in text:
                services.stopping.set()
    assert [kind for _, kind, _ in parse(text)] == ["state"]
    assert httpx.get(f"{url}/v1/jobs/{job.id}/events").status_code == 503


def test_an_event_is_one_line_of_data_whatever_it_holds(services: Services, started: Callable[..., Job]) -> None:
    job = started()
    services.store.append_event(job.id, 1, "log", {"message": "a\r\n\u2028b\n\ndata: no \ud83d"})
    block = encoded(services.store.events(job.id)[-1]).decode()
    assert block.endswith("\n\n")
    assert block.count("\n") == 4
