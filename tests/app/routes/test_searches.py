"""Posting a search: what is stored, what is answered from the store, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient

from collegium.app.services.services import Services
from collegium.app.services.views import JobView
from collegium.jobs.record import Job


def post(api: TestClient, spec: Any, **headers: str) -> Any:
    return api.post("/v1/searches", json=spec, headers=headers)


def test_a_search_is_stored_and_announced(api: TestClient, services: Services, mlp: dict[str, Any]) -> None:
    answer = post(api, mlp)
    assert answer.status_code == 202
    body = answer.json()
    JobView.model_validate_json(answer.content)
    assert answer.headers["location"] == f"/v1/jobs/{body['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert api.get(answer.headers["location"]).headers["etag"] == answer.headers["etag"]
    job = services.store.get(body["id"])
    assert (job.kind, job.status, job.queue) == ("search", "queued", "search")
    assert job.spec["estimator"]["method"] == "auto"


def test_presets_are_listed_with_counts_and_have_their_specs(api: TestClient) -> None:
    items = {item["name"]: item for item in api.get("/v1/presets").json()["items"]}
    assert items["resnet50"]["parameters"] == 25_557_032
    assert items["resnext29-1x128d"]["parameters"] == 13_775_178
    for name in ("resnet50", "mlp-mnist-6x500"):
        assert post(api, {"baseline": {"preset": name}}).status_code == 202
        whole = api.get(f"/v1/presets/{name}").json()
        assert {key: whole[key] for key in items[name]} == items[name]
        assert post(api, {"baseline": whole["baseline"]}).status_code == 202


def test_the_list_of_presets_is_small_and_has_no_bodies(api: TestClient) -> None:
    answer = api.get("/v1/presets")
    assert {key for item in answer.json()["items"] for key in item} == {
        "name", "about", "source", "family", "parameters", "flops"
    }  # fmt: skip
    assert len(answer.content) < 200 * len(answer.json()["items"])


def test_a_preset_that_is_not_there_is_not_found(api: TestClient) -> None:
    answer = api.get("/v1/presets/torchvision:nothing")
    assert (answer.status_code, "'torchvision:nothing'" in answer.json()["detail"]) == (404, True)


def test_an_idempotency_key_makes_repetition_harmless(api: TestClient, mlp: dict[str, Any]) -> None:
    first = post(api, mlp, **{"Idempotency-Key": "once"})
    second = post(api, mlp, **{"Idempotency-Key": "once"})
    assert first.json()["id"] == second.json()["id"]
    other = post(api, mlp | {"budget": 1000}, **{"Idempotency-Key": "once"})
    assert other.status_code == 422
    assert other.json()["type"] == "urn:collegium:problem:idempotency-key-reused"
    assert post(api, mlp).json()["id"] != first.json()["id"]


@pytest.mark.parametrize("key", ["", "a b", "ü", "x" * 256])
def test_an_odd_idempotency_key_is_refused(api: TestClient, mlp: dict[str, Any], key: str) -> None:
    answer = api.post("/v1/searches", json=mlp, headers=[(b"Idempotency-Key", key.encode())])
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == "header.Idempotency-Key"


def test_an_answered_request_is_answered_from_the_store(
    api: TestClient, services: Services, mlp: dict[str, Any]
) -> None:
    posted = post(api, mlp).json()
    claimed = services.store.claim(posted["id"], "worker", 60)
    assert claimed is not None
    services.store.succeed(claimed.id, claimed.attempt, {"answer": 1})
    again = post(api, mlp)
    assert (again.status_code, again.json()["id"]) == (200, posted["id"])
    assert again.json()["result"] == {"answer": 1}
    assert "retry-after" not in again.headers
    spelled_out = mlp | {"efficiency": "parameters", "estimator": {"seed": 0}}
    assert post(api, spelled_out).json()["id"] == posted["id"]
    assert post(api, mlp | {"estimator": {"seed": 1}}).status_code == 202
    fresh = api.post("/v1/searches?fresh=true", json=mlp)
    assert (fresh.status_code, fresh.json()["status"]) == (202, "queued")


def test_an_answered_request_with_a_new_key_is_answered_too(
    api: TestClient, services: Services, mlp: dict[str, Any], finished: Callable[..., Job]
) -> None:
    posted = post(api, mlp).json()
    claimed = services.store.claim(posted["id"], "worker", 60)
    assert claimed is not None
    services.store.succeed(claimed.id, claimed.attempt, {"answer": 1})
    keyed = post(api, mlp, **{"Idempotency-Key": "later"})
    assert (keyed.status_code, keyed.json()["id"]) == (200, posted["id"])
    assert post(api, mlp, **{"Idempotency-Key": "later"}).json()["id"] == posted["id"]
    assert post(api, mlp | {"budget": 7}, **{"Idempotency-Key": "later"}).status_code == 422


def hidden(*widths: Any) -> dict[str, Any]:
    return {"baseline": {"family": "mlp", "inputs": 8, "hidden": list(widths), "outputs": 1}}


def block(*layers: Any, **more: Any) -> dict[str, Any]:
    shape = {"channels": 4, "height": 8, "width": 8}
    return {"baseline": {"family": "block", "input": shape, "layers": list(layers), "widths": {"n": 4}, **more}}


CONV = {"type": "conv", "out": "n", "kernel": 3}
END = {"type": "conv", "out": 4}

WRONG = [
    (hidden(0), "baseline.hidden[0]"),
    (hidden(4, -1), "baseline.hidden[1]"),
    (hidden(10**9), "baseline.hidden[0]"),
    (hidden(True), "baseline.hidden[0]"),
    (hidden("64"), "baseline.hidden[0]"),
    (hidden(1.5), "baseline.hidden[0]"),
    (hidden(None), "baseline.hidden[0]"),
    (hidden(10**400), "baseline.hidden[0]"),
    (hidden(), "baseline.hidden"),
    (hidden(*[4] * 65), "baseline.hidden"),
    (hidden(1_000_000, 1_000_000), "baseline"),
    ({}, "baseline"),
    ([], "$"),
    ("resnet50", "$"),
    ({"baseline": "resnet50"}, "baseline"),
    ({"baseline": {"family": "rnn"}}, "baseline"),
    ({"baseline": {"preset": "resnet51"}}, "baseline.preset"),
    ({"baseline": {"preset": "resnet50", "depth": 3}}, "baseline.depth"),
    ({"baseline": {"family": "mlp", "hidden": [3]}}, "baseline.inputs"),
    ({"baseline": {"family": "resnext", "layout": "mnist"}}, "baseline.layout"),
    ({"baseline": {"preset": "resnet50"}, "colour": 1}, "colour"),
    ({"baseline": {"preset": "resnet50"}, "weird key!": 1}, "['weird key!']"),
    ({"baseline": {"preset": "resnet50"}, "estimator": {"method": "given"}}, "estimator.alpha"),
    ({"baseline": {"preset": "resnet50"}, "estimator": {"relative_error": 0}}, "estimator.relative_error"),
    ({"baseline": {"preset": "resnet50"}, "inputs": {"gram": [["x"]]}}, "inputs.gram[0][0]"),
    ({"baseline": {"preset": "resnet50"}, "space": {"widths": [4, 0]}}, "space.widths[1]"),
    ({"baseline": {"preset": "resnet50"}, "inputs": {"data": "no-such-data"}}, "inputs.data"),
    ({"baseline": {"preset": "resnet50"}, "inputs": {"data": "0" * 64}}, "inputs.data"),
    ({"baseline": {"preset": "resnet50"}, "inputs": {"data": ".."}}, "inputs.data"),
    (block(CONV, {"type": "pool"}, END), "baseline.layers[1]"),
    (block({**CONV, "kernel": 0}, END), "baseline.layers[0].kernel"),
    (block({**CONV, "out": True}, END), "baseline.layers[0].out"),
    (block(CONV, END, widths={"n": "4"}), "baseline.widths.n"),
    (block(CONV, END, widths={"no good": 4}), "baseline.widths['no good']"),
]


def test_an_attention_block_is_taken_and_refused_by_field(api: TestClient) -> None:
    block = {"family": "attention", "heads": 4, "width": 32, "min_width": 8}
    assert post(api, {"baseline": block}).status_code == 202
    answer = post(api, {"baseline": block, "inputs": {"correlation": 0.5}})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["path"] == "inputs.correlation"
    training = {"architecture": {"baseline": block}, "data": {"name": "digits"}}
    refused = api.post("/v1/trainings", json=training)
    assert refused.status_code == 422
    assert "train the transformer" in refused.json()["errors"][0]["message"]


def test_what_needs_the_module_is_refused_with_what_to_do(api: TestClient, mlp: dict[str, Any]) -> None:
    answer = post(api, mlp | {"estimator": {"method": "plain"}})
    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert error["path"] == "estimator.method"
    assert "collegium.find_ensemble(baseline, model=model)" in error["message"]


def test_a_wrong_field_is_named_and_nothing_is_stored(api: TestClient, services: Services) -> None:
    services.settings.data_dir.mkdir()
    for spec, path in WRONG:
        answer = api.post("/v1/searches", content=json.dumps(spec), headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, spec
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["type"] == "urn:collegium:problem:invalid-spec"
        assert path in [error["path"] for error in problem["errors"]], spec
        assert all(error["message"] for error in problem["errors"])
    assert services.store.list().items == ()


HOSTILE = [
    ('{"baseline": {"family": "mlp", "inputs": NaN, "hidden": [4]}}', 422, "baseline.inputs"),
    ('{"baseline": {"preset": "resnet50"}, "tolerance": Infinity}', 422, "tolerance"),
    ('{"baseline": {"preset": "resnet50"}, "tolerance": 1e999}', 422, "tolerance"),
    ('{"baseline": {"preset": "resnet50"}, "estimator": {"alpha": -Infinity}}', 422, "estimator.alpha"),
    ('{"baseline": {"preset": "a", "preset": "resnet50"}}', 422, "baseline.preset"),
    ('{"baseline": {"preset": "resnet50"}, "baseline": {"preset": "resnet50"}}', 422, "baseline"),
    ("[" * 20_000 + "]" * 20_000, 422, "$"),
    ('{"baseline": {"family": "mlp", "hidden": ' + "[" * 20_000 + "]" * 20_000 + "}}", 422, "baseline.hidden"),
    ('{"a":' * 20_000 + "1" + "}" * 20_000, 413, None),
    ('{"a":' * 5_000 + "1" + "}" * 5_000, 422, "a.a.a.a"),
    ('{"baseline": {"preset": "\\ud800"}}', 422, "baseline.preset"),
    ("", 400, None),
    ("{", 400, None),
    ('{"baseline": {"preset": "resnet50"}} x', 400, None),
    ("\ufeff{}", 400, None),
    ("nul", 400, None),
    ('"' + '\\"' * 30_000, 400, None),
]


def test_hostile_json_is_refused(api: TestClient, services: Services) -> None:
    for text, status, path in HOSTILE:
        answer = api.post("/v1/searches", content=text.encode(), headers={"Content-Type": "application/json"})
        assert answer.status_code == status, text[:40]
        assert answer.headers["content-type"] == "application/problem+json"
        if path is not None:
            assert path in [error["path"] for error in answer.json()["errors"]], text[:40]
    assert services.store.list().items == ()


def test_a_whole_number_may_be_written_with_a_point(api: TestClient) -> None:
    text = '{"baseline": {"family": "mlp", "inputs": 16.0, "hidden": [8.0, 1e1]}}'
    answer = api.post("/v1/searches", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 202
    assert answer.json()["spec"]["baseline"]["hidden"] == [8, 10]


def test_media_types_encodings_and_sizes(api: TestClient) -> None:
    body = b'{"baseline": {"preset": "resnet50"}}'
    for media_type in ("text/plain", "application/xml", ""):
        answer = api.post("/v1/searches", content=body, headers={"Content-Type": media_type})
        assert answer.status_code == 415
        assert answer.headers["accept"] == "application/json"
    assert api.post("/v1/searches", content=body).status_code == 415
    packed = api.post(
        "/v1/searches", content=body, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}
    )
    assert packed.status_code == 415
    fine = api.post("/v1/searches", content=body, headers={"Content-Type": "Application/JSON; charset=utf-8"})
    assert fine.status_code == 202
    headers = {"Content-Type": "application/json"}
    assert api.post("/v1/searches", content=b" " * 70_000, headers=headers).status_code == 413
    chunks = (b" " * 10_000 for _ in range(10))
    assert api.post("/v1/searches", content=chunks, headers=headers).status_code == 413
    assert api.post("/v1/searches", content=b"\xff\xfe{}", headers=headers).status_code == 400
