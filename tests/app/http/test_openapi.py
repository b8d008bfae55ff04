"""The published document, and what generated requests make of it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from collegium.app.services.services import Services

HERE = Path(__file__).parent


def references(node: object) -> set[str]:
    """Every schema that is referred to below ``node``."""
    if isinstance(node, dict):
        own = {node["$ref"]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(references(child) for child in node.values()))
    if isinstance(node, list):
        return set[str]().union(*(references(child) for child in node))
    return set()


def test_every_answer_of_every_route_is_documented(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    names = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            names.append(operation["operationId"])
            assert operation["summary"], (method, path)
            answers = operation["responses"]
            if method != "head" and path.startswith("/v1/"):
                assert {"401", "403", "422", "500", "503"} <= set(answers), (method, path)
            for status, answer in answers.items():
                if int(status) >= 400 and path != "/readyz" and method != "head":
                    assert list(answer["content"]) == ["application/problem+json"], (method, path, status)
    assert len(set(names)) == len(names)


def test_bodies_are_documented_with_their_schemas(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    for name in ("SearchSpec", "TrainingSpec", "StudySpec", "ProblemDocument", "JobView"):
        assert schemas[name]["additionalProperties"] is False
    assert {reference.rpartition("/")[2] for reference in references(document)} <= set(schemas)


def test_a_name_may_stand_for_an_object(api: TestClient) -> None:
    schemas = api.get("/openapi.json").json()["components"]["schemas"]
    assert {"type": "string"} in schemas["TrainingSpec"]["properties"]["data"]["anyOf"]
    assert "vanilla" in str(schemas["StudySpec"]["properties"]["methods"]["items"])


def test_no_parameter_is_null(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                assert "null" not in str(parameter["schema"])


@pytest.mark.slow
def test_generated_requests_find_no_5xx_and_no_undocumented_answer(
    live: Callable[..., tuple[str, Services]],
) -> None:
    url, _ = live(max_streams=64, max_body_bytes=1 << 22)
    hooks = {"SCHEMATHESIS_HOOKS": "distinct_cases", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    # Two checks are out: what JSON Schema cannot say (which presets there are) makes bodies invalid that look valid;
    # and an upload that was finished or refused is gone.
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--max-examples", "4", "--seed", "1",
        "--request-timeout", "20", "--exclude-checks", "positive_data_acceptance,ensure_resource_availability",
    ]  # fmt: skip
    done = subprocess.run(command, timeout=280, capture_output=True, text=True, check=False, env=os.environ | hooks)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    # Large specifications are most of what is sent.
    assert int(re.findall(r"(\d+) generated, ", done.stdout)[0]) > 3000, done.stdout[-2000:]
