"""The whole product over HTTP, on both set-ups: processes as a user starts them, and what he does with them.

Each set-up is one service, started once for all its tests. The fast tests take a baseline to its checkpoint on the
embedded one; the rest is slow.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import redis

from collegium.app.client.client import Client
from collegium.app.client.transfer import download, upload

pytestmark = pytest.mark.timeout(280)
MLP_PRIMAL = (20, 17)
WORKER = ("celery", "-A", "collegium.worker", "worker", "-Q", "search,train", "--pool", "threads", "-c", "4")


@pytest.fixture(scope="module")
def full(
    start_service: Callable[..., Any],
    start_process: Callable[..., Any],
    postgres_pool: Any,
    redis_server: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """PostgreSQL, Redis, the API alone and a Celery worker."""
    home = tmp_path_factory.mktemp("full")
    with redis.Redis.from_url(redis_server) as broker:
        broker.flushdb()
    with ExitStack() as stack:
        database = stack.enter_context(postgres_pool.database())
        shared = {"COLLEGIUM_DATABASE_URL": database, "COLLEGIUM_BROKER_URL": redis_server}
        _, url = stack.enter_context(start_service(home, "--no-worker", **shared))
        stack.enter_context(start_process(*WORKER, home=home, **shared))
        yield url


@pytest.fixture(params=["embedded", pytest.param("full", marks=pytest.mark.slow)])
def client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of a running service: the one that other tests use too, or the full one."""
    with Client(request.getfixturevalue({"embedded": "service_url", "full": "full"}[request.param])) as client:
        yield client


def finished(client: Client, kind: str, spec: dict) -> dict:
    job = client.wait(client.submit(kind, spec)["id"])
    assert job["status"] == "succeeded", job["failure"]
    return job


def test_a_baseline_goes_in_and_a_trained_checkpoint_comes_out(client, tmp_path):
    mlp = finished(client, "search", {"baseline": {"preset": "mlp-digits-6x100"}})
    assert (mlp["result"]["primal"]["multiplicity"], mlp["result"]["primal"]["width"]) == MLP_PRIMAL
    assert client.submit("search", {"baseline": {"preset": "mlp-digits-6x100"}})["id"] == mlp["id"]

    training = finished(
        client,
        "training",
        {
            "architecture": {"search": mlp["id"], "choice": "primal"},
            "method": "majority",
            "data": "digits",
            "recipe": {"epochs": 5, "learning_rate": 0.005},
        },
    )
    result = training["result"]
    assert result["parameters"] == mlp["result"]["primal"]["parameters"]
    assert result["accuracy"]["test"] > 0.5
    folder = tmp_path / "checkpoint"
    for artifact in client.artifacts(training["id"]):
        download(client, artifact, folder)
    loaded = subprocess.run([sys.executable, "-I", "load.py"], cwd=folder, capture_output=True, text=True, check=True)
    assert json.loads(loaded.stdout)["accuracy"] == result["accuracy"]["test"]
    metrics = client.metrics(training["id"])
    epochs = [row[metrics["columns"].index("epoch")] for row in metrics["rows"]]
    assert epochs[-1] == 5


@pytest.mark.slow
def test_a_study_on_uploaded_data_fans_out(client, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 8)).astype(np.float32)
    y = (x[:, 0] + x[:, 1] > 0).astype(np.int64)
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=x[:200], y_train=y[:200], x_test=x[200:], y_test=y[200:])
    data = upload(client, path, "mine", "npz")
    baseline = {"family": "mlp", "inputs": 8, "hidden": [16, 16], "outputs": 2}
    study = finished(
        client,
        "study",
        {
            "architectures": [{"name": "small", "architecture": {"baseline": baseline}}],
            "methods": ["vanilla", "majority"],
            "recipes": [{"name": "quick", "recipe": {"epochs": 5, "batch_size": 32, "learning_rate": 0.01}}],
            "data": data["id"],
            "seeds": 2,
        },
    )
    cells = {cell["method"]: cell for cell in study["result"]["cells"]}
    assert cells["vanilla"]["test_accuracy"] > 0.8
    assert {artifact["name"].rpartition(".")[2] for artifact in client.artifacts(study["id"])} >= {"json", "md", "csv"}


@pytest.mark.slow
def test_cancelling_ends_a_training_and_leaves_its_checkpoint(client):
    architecture = {"baseline": {"family": "mlp", "inputs": 64, "hidden": [64, 64], "outputs": 10}}
    spec = {"architecture": architecture, "data": "digits", "recipe": {"epochs": 10_000}}
    job = client.submit("training", spec)
    for event in client.events(job["id"]):
        if event.type == "metric":
            client.cancel(job["id"])
            break
    ended = client.wait(job["id"])
    assert ended["status"] == "cancelled"
    assert "model.safetensors" in {artifact["name"] for artifact in client.artifacts(job["id"])}


@pytest.mark.slow
def test_a_killed_service_loses_nothing(start_service, tmp_path):
    architecture = {"baseline": {"family": "mlp", "inputs": 64, "hidden": [32], "outputs": 10}}
    spec = {"architecture": architecture, "data": "digits", "recipe": {"epochs": 100}}
    short = {"COLLEGIUM_LEASE_S": "4", "COLLEGIUM_REAP_S": "1"}
    with start_service(tmp_path, **short) as (first, url), Client(url) as client:
        job = client.submit("training", spec)
        next(event for event in client.events(job["id"]) if event.type == "metric")
        first.kill()
        first.wait()
    with start_service(tmp_path, **short) as (_, url), Client(url) as client:
        ended = client.wait(job["id"])
    assert ended["status"] == "succeeded", ended["failure"]
    assert ended["attempt"] >= 2
    assert ended["result"]["accuracy"]["test"] > 0.8
