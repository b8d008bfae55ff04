"""Bodies that are wrong at length: refused early, at the right place, for little time, memory and answer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from fastapi.testclient import TestClient

from collegium.app.http.bounds import Bounds, bounds_of
from collegium.app.http.document import MAX_STRAY, parse_json, parse_model
from collegium.app.http.problems import MAX_ERRORS, Problem
from collegium.app.local.embedded import Server
from collegium.app.settings import Settings
from collegium.search.spec import SearchSpec
from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec

PROGRAM = Path(__file__).with_name("measure_bodies.py")
#: Processor time, in what the machine takes to write and read 100,000 small objects.
UNITS, ACCEPTED_UNITS = 10, 8
#: Memory beyond what the process had: of any body, and for each byte of its own ("1.5," is 32 bytes in a list).
BYTES, TIMES = 20e6, 22
ANSWER = 10_000


def measured(sqlite_url: str, home: Path, *arguments: str) -> list[dict[str, Any]]:
    """What each body cost the API, in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(home), *arguments],
        env={**os.environ, "COLLEGIUM_DATABASE_URL": sqlite_url, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_cheap(rows: list[dict[str, Any]]) -> None:
    assert {row["status"] for row in rows} == {422}
    assert [row for row in rows if row["units"] > UNITS] == []
    assert [row for row in rows if row["answer"] > ANSWER] == []
    assert [row for row in rows if row["bytes"] > BYTES + TIMES * row["size"]] == []
    assert max(row["bytes"] for row in rows) > 0
    named = [row for row in rows if row["path"]]
    assert [row for row in named if not any(path.startswith(row["path"]) for path in row["paths"])] == []


def test_a_megabyte_that_is_wrong_at_any_place_of_a_search_is_refused_cheaply(sqlite_url: str, tmp_path: Path) -> None:
    rows = measured(sqlite_url, tmp_path, "--route", "/v1/searches", "--in-turn")
    assert len({row["path"] for row in rows}) > 15
    assert_cheap(rows)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "arguments",
    [("--megabytes", "1"), ("--megabytes", "8.38", "--in-turn")],
    ids=["1 MB", "the largest that is read"],
)
def test_a_body_that_is_wrong_at_any_place_of_any_specification_is_refused_cheaply(
    sqlite_url: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    rows = measured(sqlite_url, tmp_path, *arguments)
    assert len({(row["route"], row["path"]) for row in rows}) > 60
    assert_cheap(rows)


@pytest.mark.slow
def test_the_largest_specifications_are_accepted_as_cheaply(sqlite_url: str, tmp_path: Path) -> None:
    rows = measured(sqlite_url, tmp_path, "--accepted")
    assert [row["status"] for row in rows] == [202, 202, 202]
    assert [row for row in rows if row["units"] > ACCEPTED_UNITS] == []
    assert [row for row in rows if row["bytes"] > BYTES + TIMES * row["size"]] == []


def refusal(text: str, bounds: Bounds | None = None) -> tuple[str, str]:
    with pytest.raises(Problem) as caught:
        parse_json(text.encode(), bounds)
    error = caught.value.document("id")["errors"][0]
    return error["path"], error["message"]


SMALL = Bounds(
    [
        {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "sizes": {"anyOf": [{"type": "array", "maxItems": 3, "items": {"$ref": "#/$defs/Size"}}]},
                "named": {"type": "object", "maxProperties": 2, "additionalProperties": {"type": "integer"}},
            },
        }
    ],
    {"Size": {"oneOf": [{"type": "integer"}, {"type": "array", "maxItems": 2, "items": {"type": "integer"}}]}},
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ('{"sizes": [1, 2, 3, 4]}', "sizes"),
        ('{"sizes": ["a", "b", "c", "d"]}', "sizes"),
        ('{"sizes": [1, [1, 2, 3]]}', "sizes[1]"),
        ('{"sizes": [1, ["a", "b", "c"]]}', "sizes[1]"),
        ('{"named": {"a": 1, "b": 2, "c": 3}}', "named"),
        ('{"sizes": [], "named": {}, "other": 1}', "other"),
        ('{"named": {"a": [' + "1," * MAX_STRAY + "1]}}", "named.a"),
        ('{"other": [' + '"a",' * MAX_STRAY + '"a"]}', "other"),
        ('{"other": {"deep": [' + "{}," * MAX_STRAY + "{}]}}", "other"),
        ("[" + "1," * MAX_STRAY + "1]", "$"),
    ],
)
def test_what_is_longer_than_its_schema_allows_is_refused_at_its_place(text: str, path: str) -> None:
    assert refusal(text, SMALL)[0] == path


@pytest.mark.parametrize(
    "text",
    [
        '{"sizes": [1, [1, 2], 3], "named": {"a": 1, "b": 2}}',
        '{"sizes": ["a,b,c,d", "[[[[", "\\"]"], "named": {"a": "{,,,"}}',
        '{"other": [1, 2, 3]}',
        '{"sizes": []}',
        '{"sizes": [ ]}',
        "{}",
    ],
)
def test_what_is_as_long_as_its_schema_allows_is_left_to_the_model(text: str) -> None:
    assert parse_json(text.encode(), SMALL) == json.loads(text)


@pytest.mark.parametrize("model", [SearchSpec, TrainingSpec, StudySpec])
def test_bounds_are_those_of_the_published_schema(model: Any) -> None:
    bounds = bounds_of(model)
    assert bounds.names == set(model.model_fields)
    assert bounds.items is None
    assert bounds.member("nothing of this name") is None


def test_bounds_of_a_union_are_those_of_its_widest_branch() -> None:
    widths = bounds_of(SearchSpec).member("space").member("widths")  # type: ignore[union-attr]
    assert widths is not None
    assert (widths.items, widths.item.items, widths.members) == (4096, 64, None)
    layers = bounds_of(SearchSpec).member("baseline").member("layers")  # type: ignore[union-attr]
    assert layers is not None
    assert layers.items == 128
    assert {"type", "out", "kernel"} <= layers.item.names


def test_bounds_follow_a_schema_that_contains_itself() -> None:
    tree = {"type": "object", "properties": {"below": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/T"}}}}
    bounds = Bounds([{"$ref": "#/$defs/T"}], {"T": tree})
    assert refusal('{"below": [{"below": [1, 2, 3]}]}', bounds)[0] == "below[0].below"


def test_an_array_is_validated_up_to_its_first_wrong_item() -> None:
    spec = {"baseline": {"family": "mlp", "inputs": "a", "hidden": [4, "b", "c"], "outputs": 1}}
    with pytest.raises(Problem) as caught:
        parse_model(json.dumps(spec).encode(), SearchSpec)
    errors = caught.value.document("id")["errors"]
    assert [error["path"] for error in errors] == ["baseline.inputs", "baseline.hidden[1]"]


def test_a_wrong_only_item_does_not_make_its_array_too_short() -> None:
    with pytest.raises(Problem) as caught:
        parse_model(b'{"baseline": {"preset": "resnet50"}, "space": {"widths": ["a"]}}', SearchSpec)
    assert [error["path"] for error in caught.value.document("id")["errors"]] == ["space.widths[0]"]


def test_an_answer_lists_a_bounded_number_of_fields_and_counts_all() -> None:
    errors = [((f"field{index}",), "m" * 10_000) for index in range(1000)]
    document = Problem("invalid-spec", "d" * 10_000, errors=errors).document("id")
    assert len(document["errors"]) == MAX_ERRORS
    assert len(json.dumps(document)) < 20_000


def test_unknown_parameters_and_headers_are_refused_in_a_short_answer(api: TestClient) -> None:
    query = "&".join(f"{index:x}=1" for index in range(8000))
    answer = api.get(f"/v1/jobs?{query}")
    assert answer.status_code == 422
    assert len(answer.content) < ANSWER
    assert answer.json()["errors"][0]["path"] == "query['0']"
    for parameter in ("cursor", "kind", "parent_id", "limit"):
        assert len(api.get("/v1/jobs", params={parameter: "9" * 30_000}).content) < ANSWER
    headers = {"Content-Type": "application/json", "Idempotency-Key": "k" * 30_000}
    answer = api.post("/v1/searches", content=b'{"baseline": {"preset": "resnet50"}}', headers=headers)
    assert (answer.status_code, answer.json()["errors"][0]["path"]) == (422, "header.Idempotency-Key")
    assert len(answer.content) < ANSWER
    assert len(api.post("/v1/uploads", params={"name": "n" * 30_000, "kind": "k" * 30_000}).content) < ANSWER
    for header in ("Content-Type", "Content-Encoding", "Content-Length", "If-None-Match", "Range", "Last-Event-ID"):
        assert len(api.post("/v1/searches", content=b"{}", headers={header: "9" * 30_000}).content) < ANSWER


def test_a_request_line_or_header_that_does_not_end_is_refused(live: Callable[..., Any], settings: Settings) -> None:
    url, _ = live()
    address = urlsplit(url)
    for begin in (b"GET /v1/jobs?cursor=", b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: "):
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            with suppress(ConnectionError):
                connection.sendall(begin + b"x" * 10_000_000)
            with suppress(ConnectionResetError):
                assert b" 400 " in connection.recv(100)
    assert httpx.get(f"{url}/livez").status_code == 200
    assert Server(settings, lambda: None).config.http == "h11"
