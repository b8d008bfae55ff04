"""The whole product over HTTP, on both set-ups: processes as a user starts them, and what he does with them.

Each set-up is one service, started once for all its tests: the embedded one with every run, the full one among the
slow tests.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from collegium.app.client.client import Client
from collegium.app.client.transfer import download, upload

pytestmark = pytest.mark.timeout(280)
SERVE = ("collegium", "serve", "--port", "0")
WORKER = ("celery", "-A", "collegium.worker", "worker", "-Q", "search,train", "--pool", "threads", "-c", "4")


@contextmanager
def process(*command: str, home: Path, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process of the product in its own group, and its output; killed with its children unless it ends in time."""
    log = home / f"{command[0]}-{len(list(home.glob('*.log')))}.log"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COLLEGIUM_")}
    variables = {"COLLEGIUM_HOME": str(home), "PYTHONUNBUFFERED": "1"}
    with log.open("w") as sink:
        started = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=inherited | variables | environment,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield started, log
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(40)
        except subprocess.TimeoutExpired:
            os.killpg(started.pid, signal.SIGKILL)
            raise


@pytest.fixture(scope="module")
def start(wait_until: Callable[..., Any]) -> Callable[..., Any]:
    """Start `collegium serve` on a free port: a context of its process and a client."""

    @contextmanager
    def serve(home: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], Client]]:
        with process(*SERVE, *options, home=home, **environment) as (started, log):
            found = wait_until(
                lambda: re.search(r"collegium is at (\S+)\n", log.read_text()) or started.poll() is not None,
                "the service is up",
                60,
            )
            assert isinstance(found, re.Match), log.read_text()
            with Client(found[1]) as client:
                yield started, client

    return serve


@pytest.fixture(scope="module")
def embedded(start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """SQLite, a folder as broker, and the worker that `collegium serve` starts."""
    with start(tmp_path_factory.mktemp("embedded")) as (_, client):
        yield client


@pytest.fixture(scope="module")
def full(
    start: Callable[..., Any], postgres_pool: Any, redis_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """PostgreSQL, Redis, the API alone and a Celery worker."""
    home = tmp_path_factory.mktemp("full")
    with redis.Redis.from_url(redis_server) as broker:
        broker.flushdb()
    with ExitStack() as stack:
        database = stack.enter_context(postgres_pool.database())
        shared = {"COLLEGIUM_DATABASE_URL": database, "COLLEGIUM_BROKER_URL": redis_server}
        _, client = stack.enter_context(start(home, "--no-worker", **shared))
        stack.enter_context(process(*WORKER, home=home, **shared))
        yield client


@pytest.fixture(params=["embedded", pytest.param("full", marks=pytest.mark.slow)])
def client(request: pytest.FixtureRequest) -> Client:
    """A running service of either set-up."""
    return request.getfixturevalue(request.param)


def finished(client: Client, kind: str, spec: dict) -> dict:
    job = client.wait(client.submit(kind, spec)["id"])
    assert job["status"] == "succeeded", job["failure"]
    return job


def test_a_baseline_goes_in_and_a_trained_checkpoint_comes_out(client, tmp_path):
    searched = finished(client, "search", {"baseline": {"preset": "resnet50"}})
    assert (searched["result"]["primal"]["multiplicity"], searched["result"]["primal"]["width"]) == (12, 10)
    assert client.submit("search", {"baseline": {"preset": "resnet50"}})["id"] == searched["id"]

    mlp = finished(client, "search", {"baseline": {"preset": "mlp-digits-6x100"}})
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
def test_a_killed_service_loses_nothing(start, tmp_path):
    architecture = {"baseline": {"family": "mlp", "inputs": 64, "hidden": [32], "outputs": 10}}
    spec = {"architecture": architecture, "data": "digits", "recipe": {"epochs": 200}}
    short = {"COLLEGIUM_LEASE_S": "4", "COLLEGIUM_REAP_S": "1"}
    with start(tmp_path, **short) as (first, client):
        job = client.submit("training", spec)
        next(event for event in client.events(job["id"]) if event.type == "metric")
        first.kill()
        first.wait()
    with start(tmp_path, **short) as (_, client):
        ended = client.wait(job["id"])
    assert ended["status"] == "succeeded", ended["failure"]
    assert ended["attempt"] >= 2
    assert ended["result"]["accuracy"]["test"] > 0.8
