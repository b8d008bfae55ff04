"""Jobs as the API shows them: read, list, cancel, metrics; entity tags."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from collegium.app.services.services import Services
from collegium.app.services.views import JobPage, JobView, MetricTable, job_response, job_view
from collegium.jobs.record import Failure, Job


def test_a_job_has_every_documented_field(api: TestClient, finished: Callable[..., Job]) -> None:
    job = finished()
    body = api.get(f"/v1/jobs/{job.id}").json()
    JobView.model_validate_json(api.get(f"/v1/jobs/{job.id}").content)
    promised = {
        "id", "kind", "status", "progress", "spec", "result", "failure", "attempt", "created_at", "started_at",
        "finished_at", "links",
    }  # fmt: skip
    assert promised <= set(body)
    assert body["status"] == "succeeded"
    assert body["result"] == {"answer": 42}
    assert set(body["progress"]) == {"fraction", "message"}
    assert body["created_at"] <= body["started_at"] <= body["finished_at"]
    assert all(api.get(body["links"][name]).status_code == 200 for name in ("self", "events", "artifacts", "metrics"))


def test_a_job_is_answered_with_its_specification_as_it_is_stored(services: Services, api: TestClient) -> None:
    spec = {"z": [1, 2.0, 1e-07], "a": {"é": '\u0000\u2028"</', "b": None}}
    job, _ = services.store.create("search", spec, queue="search")
    wanted = JSONResponse(job_view(job)).body
    assert job_view(job)["spec"] == spec
    assert job_response(job, 200, {}).body == wanted
    assert api.get(f"/v1/jobs/{job.id}").content == wanted
    assert api.get(f"/v1/jobs/{job.id}").headers["content-type"] == "application/json"


def test_a_failure_carries_kind_message_remedy_and_log(
    api: TestClient, services: Services, started: Callable[..., Job], failure: Failure
) -> None:
    job = started()
    services.store.fail(job.id, job.attempt, failure, retry=False)
    body = api.get(f"/v1/jobs/{job.id}").json()
    assert body["status"] == "failed"
    assert body["failure"] == {
        "kind": "out_of_memory",
        "message": "It did not fit.",
        "remedy": "Take less.",
        "log_tail": "line 1\nline 2",
    }
    listed = api.get("/v1/jobs").json()["items"][0]
    assert listed["failure"]["log_tail"] == ""
    assert api.get("/v1/jobs?full=true").json()["items"][0]["failure"]["log_tail"] == "line 1\nline 2"


def test_unknown_and_odd_ids_are_the_same_404(api: TestClient) -> None:
    for odd in ("nothing", "%00", "a" * 500, "..%2f..%2fetc", "ü"):
        for below in ("", "/events", "/artifacts", "/artifacts/x", "/metrics"):
            answer = api.get(f"/v1/jobs/{odd}{below}")
            assert answer.status_code == 404, (odd, below)
            assert answer.headers["content-type"] == "application/problem+json"
        assert api.post(f"/v1/jobs/{odd}/cancel").status_code == 404


def test_entity_tag_is_strong_and_follows_visible_changes(
    api: TestClient, services: Services, started: Callable[..., Job]
) -> None:
    job = started()
    path = f"/v1/jobs/{job.id}"
    tag = api.get(path).headers["etag"]
    assert tag[0] == tag[-1] == '"'
    unchanged = api.get(path, headers={"If-None-Match": tag})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", tag)
    services.store.heartbeat(job.id, job.attempt, 60)
    assert api.get(path, headers={"If-None-Match": f'"other", W/{tag}'}).status_code == 304
    services.store.report(job.id, job.attempt, 0.5, "half")
    changed = api.get(path, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    assert changed.json()["progress"] == {"fraction": 0.5, "message": "half"}
    assert api.get(path, headers={"If-None-Match": "*"}).status_code == 304


def test_a_list_has_an_entity_tag_too(api: TestClient, started: Callable[..., Job]) -> None:
    started()
    tag = api.get("/v1/jobs").headers["etag"]
    assert api.get("/v1/jobs", headers={"If-None-Match": tag}).status_code == 304
    started()
    assert api.get("/v1/jobs", headers={"If-None-Match": tag}).status_code == 200


def test_pages_follow_each_other_newest_first(api: TestClient, services: Services, mlp: dict[str, Any]) -> None:
    made = [services.store.create("search", mlp, queue="search")[0].id for _ in range(7)]
    seen: list[str] = []
    cursor = None
    while True:
        page = api.get("/v1/jobs", params={"limit": 3, **({"cursor": cursor} if cursor else {})})
        JobPage.model_validate_json(page.content)
        seen += [job["id"] for job in page.json()["items"]]
        cursor = page.json()["next_cursor"]
        if cursor is None:
            break
    assert seen == made[::-1]


def test_lists_are_filtered_and_leave_results_out(
    api: TestClient, finished: Callable[..., Job], started: Callable[..., Job]
) -> None:
    done, training = finished(), started("training")
    by_kind = api.get("/v1/jobs?kind=training").json()["items"]
    assert [job["id"] for job in by_kind] == [training.id]
    by_status = api.get("/v1/jobs?status=succeeded").json()["items"]
    assert [job["id"] for job in by_status] == [done.id]
    assert by_status[0]["result"] is None
    assert api.get("/v1/jobs?status=succeeded&full=true").json()["items"][0]["result"] == {"answer": 42}
    assert api.get("/v1/jobs?kind=study").json() == {"items": [], "next_cursor": None}


def test_children_are_listed_below_their_parent_alone(
    api: TestClient, services: Services, started: Callable[..., Job]
) -> None:
    parent = started()
    child, _ = services.store.create("shard", {}, queue="search", parent_id=parent.id, child_key="0")
    assert [job["id"] for job in api.get("/v1/jobs").json()["items"]] == [parent.id]
    children = api.get(api.get(f"/v1/jobs/{parent.id}").json()["links"]["children"]).json()["items"]
    assert [job["id"] for job in children] == [child.id]
    assert children[0]["links"]["parent"] == f"/v1/jobs/{parent.id}"


def test_bad_list_parameters_name_the_parameter(api: TestClient) -> None:
    for query, parameter in (
        ("limit=0", "query.limit"),
        ("limit=201", "query.limit"),
        ("limit=x", "query.limit"),
        ("kind=dance", "query.kind"),
        ("status=dead", "query.status"),
        ("colour=red", "query.colour"),
        ("limit=1&limit=2", "query.limit"),
    ):
        answer = api.get(f"/v1/jobs?{query}")
        assert answer.status_code == 422, query
        assert answer.json()["errors"][0]["path"] == parameter
    for cursor in ("x", "", "bm9wZQ", "é"):
        answer = api.get("/v1/jobs", params={"cursor": cursor})
        assert answer.status_code == 400
        assert answer.json()["type"] == "urn:collegium:problem:invalid-cursor"


def test_cancel_a_queued_and_a_running_job(
    api: TestClient, services: Services, started: Callable[..., Job], mlp: dict[str, Any]
) -> None:
    queued, _ = services.store.create("search", mlp, queue="search")
    answer = api.post(f"/v1/jobs/{queued.id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
    again = api.post(f"/v1/jobs/{queued.id}/cancel")
    assert (again.status_code, again.json()["status"]) == (200, "cancelled")
    running = started()
    answer = api.post(f"/v1/jobs/{running.id}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (202, "cancelling")
    assert answer.json()["cancel_requested"] is True


def test_metrics_are_a_table(api: TestClient, services: Services, started: Callable[..., Job]) -> None:
    job = started("training")
    store = services.store
    store.append_event(job.id, job.attempt, "metric", {"step": 1, "loss": 2.5})
    store.report(job.id, job.attempt, 0.1, "on")
    store.append_event(job.id, job.attempt, "metric", {"step": 2, "loss": 2.0, "top1": 0.5})
    answer = api.get(f"/v1/jobs/{job.id}/metrics")
    table = MetricTable.model_validate_json(answer.content)
    assert table.columns == ["step", "loss", "top1"]
    assert table.rows == [[1, 2.5, None], [2, 2.0, 0.5]]
    assert api.get(f"/v1/jobs/{job.id}/metrics", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304
    rest = api.get(f"/v1/jobs/{job.id}/metrics", params={"after": table.next_after}).json()
    assert rest == {"columns": [], "rows": [], "next_after": table.next_after}
    text = api.get(f"/v1/jobs/{job.id}/metrics?format=csv")
    assert text.headers["content-type"].startswith("text/csv")
    assert list(csv.reader(io.StringIO(text.text))) == [["step", "loss", "top1"], ["1", "2.5", ""], ["2", "2.0", "0.5"]]


def attempt(services: Services, job: Job, rows: list[tuple[Any, ...]]) -> Job:
    """What one attempt measures before it is lost, and the attempt after it."""
    store = services.store
    for phase, scope, step in rows:
        data = {"phase": phase, "scope": scope, "step": step, "loss": 1 / step, "attempt": job.attempt}
        store.append_event(job.id, job.attempt, "metric", data)
    store.release(job.id, job.attempt)
    return store.claim(job.id, "worker", 60) or pytest.fail("the job is not claimed")


def steps(*numbers: int, phase: str = "training", every: int = 20) -> list[tuple[str, str, int]]:
    """A row for each of these steps, and one for each epoch of ``every`` steps."""
    rows = [[("step", number)] + [("epoch", number)] * (number % every == 0) for number in numbers]
    return [(phase, scope, number) for both in rows for scope, number in both]


@pytest.mark.parametrize(
    ("attempts", "kept"),
    [
        ([steps(10, 20, 30, 40), steps(30, 40, 50)], [steps(10, 20), steps(30, 40, 50)]),
        ([steps(10, 20, 30), steps(10, 20), steps(20, 30)], [[], steps(10), steps(20, 30)]),
        ([steps(10, 20, 30, 40), steps(50)], [steps(10, 20, 30, 40), steps(50)]),
        ([steps(10, 20, 30, 40), []], [steps(10, 20, 30, 40), []]),
        # a checkpoint between the row of an epoch's last step and that of the epoch
        ([steps(10, 20, 30), [("training", "epoch", 20), *steps(30)]],
         [[*steps(10), ("training", "step", 20)], [("training", "epoch", 20), *steps(30)]]),
        # of models that are trained one after another the first are done, or everything begins anew
        ([[*steps(10, 20, phase="model-1"), *steps(10, 20, phase="model-2")], steps(20, 30, phase="model-2")],
         [[*steps(10, 20, phase="model-1"), *steps(10, phase="model-2")], steps(20, 30, phase="model-2")]),
        ([[*steps(10, 20, phase="model-1"), *steps(10, 20, phase="model-2")], steps(10, phase="training")],
         [[*steps(10, 20, phase="model-1"), *steps(10, 20, phase="model-2")], steps(10, phase="training")]),
        ([[*steps(10, 20, phase="model-1"), *steps(10, 20, phase="model-2")], steps(10, phase="model-1")],
         [[], steps(10, phase="model-1")]),
    ],
)  # fmt: skip
def test_a_resumed_training_has_each_step_once(
    api: TestClient,
    services: Services,
    started: Callable[..., Job],
    attempts: list[list[tuple[str, str, int]]],
    kept: list[list[tuple[str, str, int]]],
) -> None:
    job = started("training")
    for rows in attempts:
        job = attempt(services, job, rows)
    expected = [[*row, number] for number, rows in enumerate(kept, 1) for row in rows]
    table = api.get(f"/v1/jobs/{job.id}/metrics").json()
    at = [table["columns"].index(name) for name in ("phase", "scope", "step", "attempt")]
    assert [[row[index] for index in at] for row in table["rows"]] == expected
    text = api.get(f"/v1/jobs/{job.id}/metrics?format=csv").text
    assert [[row[name] for name in ("phase", "scope")] for row in csv.DictReader(io.StringIO(text))] == [
        row[:2] for row in expected
    ]
    paged, after = [], 0
    while (page := api.get(f"/v1/jobs/{job.id}/metrics", params={"after": after, "limit": 2}).json())["rows"]:
        paged += [dict(zip(page["columns"], row, strict=True)) for row in page["rows"]]
        after = page["next_after"]
    assert [[row["phase"], row["scope"], row["step"], row["attempt"]] for row in paged] == expected


def test_a_results_artifacts_have_links(api: TestClient, finished: Callable[..., Job]) -> None:
    result = {"artifacts": [{"name": "deep/model.bin", "bytes": 3, "sha256": "0" * 64}]}
    job = finished({"deep/model.bin": b"abc"}, result=result)
    (artifact,) = api.get(f"/v1/jobs/{job.id}").json()["result"]["artifacts"]
    assert api.get(artifact["link"]).content == b"abc"


def test_a_long_specification_is_left_out_of_lists(api: TestClient, services: Services) -> None:
    long = {"gram": [0.123456] * 10_000}
    job, _ = services.store.create("search", long, queue="search")
    services.store.create("search", {"short": 1}, queue="search")
    assert [item["spec"] for item in api.get("/v1/jobs").json()["items"]] == [{"short": 1}, {}]
    assert api.get("/v1/jobs?full=true").json()["items"][1]["spec"] == long
    assert api.get(f"/v1/jobs/{job.id}").json()["spec"] == long


def test_full_pages_are_short(api: TestClient, services: Services) -> None:
    for _ in range(21):
        services.store.create("search", {}, queue="search")
    page = api.get("/v1/jobs?limit=200&full=true").json()
    assert len(page["items"]) == 20
    rest = api.get("/v1/jobs", params={"full": "true", "cursor": page["next_cursor"]}).json()
    assert len(rest["items"]) == 1
