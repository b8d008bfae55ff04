"""The whole product over HTTP, on both set-ups: processes as a user starts them, and what he does with them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from collegium.app.client.client import Client
from collegium.app.client.transfer import download, upload

pytestmark = pytest.mark.timeout(280)
ADDRESS = "collegium is at "


@contextmanager
def process(*command: str, log: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A process of the product in its own group; killed with all its children if it does not end when told."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COLLEGIUM_")}
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", *command],
            env=inherited | environment | {"PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=True,
        ) as started,
    ):
        try:
            yield started
        finally:
            started.send_signal(signal.SIGTERM)
            try:
                started.communicate(timeout=40)
            except subprocess.TimeoutExpired:
                os.killpg(started.pid, signal.SIGKILL)
                raise


@contextmanager
def service(home: Path, *options: str, **environment: str) -> Iterator[Client]:
    """`collegium serve` on a free port."""
    command = ("collegium", "serve", "--port", "0", *options)
    with process(*command, log=home / "serve.log", COLLEGIUM_HOME=str(home), **environment) as started:
        assert started.stdout is not None
        address = next((line for line in started.stdout if line.startswith(ADDRESS)), None)
        assert address is not None, (home / "serve.log").read_text()
        # Somebody must go on reading, or the service would block once the pipe is full.
        threading.Thread(target=started.stdout.read, daemon=True).start()
        with Client(address.removeprefix(ADDRESS).strip()) as client:
            yield client


@pytest.fixture(params=["embedded", "full"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Client]:
    """A running service: SQLite and a folder as broker, or PostgreSQL, Redis and a Celery worker of its own."""
    if request.param == "embedded":
        with service(tmp_path) as found:
            yield found
        return
    shared = {
        "COLLEGIUM_DATABASE_URL": request.getfixturevalue("postgresql_url"),
        "COLLEGIUM_BROKER_URL": request.getfixturevalue("redis_url"),
    }
    with ExitStack() as stack:
        found = stack.enter_context(service(tmp_path, "--no-worker", **shared))
        stack.enter_context(
            process(
                "celery",
                "-A",
                "worker",
                "worker",
                "-Q",
                "search,train",
                "--pool",
                "threads",
                "-c",
                "4",
                log=tmp_path / "worker.log",
                COLLEGIUM_HOME=str(tmp_path),
                **shared,
            )
        )
        yield found


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
    rows = client.metrics(training["id"])
    assert rows


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


def test_a_killed_service_loses_nothing(tmp_path):
    architecture = {"baseline": {"family": "mlp", "inputs": 64, "hidden": [32], "outputs": 10}}
    spec = {"architecture": architecture, "data": "digits", "recipe": {"epochs": 200}}
    short = {"COLLEGIUM_LEASE_S": "4", "COLLEGIUM_REAP_S": "1"}
    command = ("collegium", "serve", "--port", "0")
    log = tmp_path / "first.log"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("COLLEGIUM_")}
    with log.open("w") as stderr:
        first = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=inherited | short | {"COLLEGIUM_HOME": str(tmp_path), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE, stderr=stderr, text=True, start_new_session=True,
        )  # fmt: skip
    try:
        assert first.stdout is not None
        address = next(line for line in first.stdout if line.startswith(ADDRESS))
        with Client(address.removeprefix(ADDRESS).strip()) as client:
            job = client.submit("training", spec)
            next(event for event in client.events(job["id"]) if event.type == "metric")
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        assert first.stdout is not None
        first.stdout.close()
    time.sleep(1)
    with service(tmp_path, **short) as client:
        ended = client.wait(job["id"])
        assert ended["status"] == "succeeded", ended["failure"]
        assert ended["attempt"] >= 2
        assert ended["result"]["accuracy"]["test"] > 0.8
