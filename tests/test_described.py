"""A module of one's own over HTTP: described here, searched, trained and measured there, and loaded back into it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from collegium.app.client.client import Client, Refused
from collegium.app.client.transfer import download
from collegium.search.describe.describe import describe

pytestmark = [pytest.mark.timeout(280), pytest.mark.slow]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
        layers += [nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


def module() -> nn.Module:
    torch.manual_seed(0)
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10)]
    return nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), Block(), Block(), *pool)


@pytest.fixture
def client(service_url: str) -> Iterator[Client]:
    with Client(service_url) as client:
        yield client


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    return describe(module(), torch.zeros(1, 1, 8, 8), name="mine").model_dump(mode="json")


def finished(client: Client, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    job = client.wait(client.submit(kind, spec)["id"])
    assert job["status"] == "succeeded", job["failure"]
    return job


def test_a_described_network_is_searched_measured_trained_and_loaded(
    client: Client, described: dict[str, Any], tmp_path: Any
):
    measured = {"verify": "network", "network": {"relative_error": 0.4, "max_seconds": 20}}
    search = finished(client, "search", {"baseline": described, "estimator": {"relative_error": 0.2}, **measured})
    primal = search["result"]["primal"]
    networks = {row["name"]: row for row in search["result"]["network"]["networks"]}
    assert networks["primal"]["parameters"] == primal["parameters"]
    training = finished(
        client,
        "training",
        {
            "architecture": {"search": search["id"], "choice": "primal"},
            "method": "majority",
            "expansion": 2,
            "data": "digits",
            "recipe": {"epochs": 2},
        },
    )
    assert training["result"]["architecture"]["parameters"] == primal["parameters"]
    assert {branch["branch"] for branch in training["spec"]["architecture"]["branches"]} == {"2.body.0"}
    for artifact in client.artifacts(training["id"]):
        download(client, artifact, tmp_path)
    printed = subprocess.run(
        [sys.executable, "-I", "load.py"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert json.loads(printed.stdout)["accuracy"] == pytest.approx(training["result"]["accuracy"]["test"], abs=1e-6)


def test_weights_of_the_baseline_load_into_the_module_itself(client: Client, described: dict[str, Any], tmp_path: Any):
    spec = {"architecture": {"baseline": described}, "data": "digits", "recipe": {"epochs": 1}}
    training = finished(client, "training", spec)
    for artifact in client.artifacts(training["id"]):
        download(client, artifact, tmp_path)
    model = module()
    model.load_state_dict(load_file(tmp_path / "model.safetensors"))
    test = load_file(tmp_path / "test.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())["collegium"]["preprocessing"]
    x = test["x_test"].float()
    if config["mean"] is not None:
        x = (x - torch.tensor(config["mean"])) / torch.tensor(config["std"])
    with torch.no_grad():
        right = model.eval()(x).argmax(1) == test["y_test"]
    assert right.float().mean().item() == pytest.approx(training["result"]["accuracy"]["test"], abs=2e-3)


def test_lies_and_networks_that_cannot_be_built_are_refused_by_field(client: Client, described: dict[str, Any]):
    wide = json.loads(json.dumps(described))
    wide["graph"]["layers"][0]["outputs"] = 10**6
    bare = {**described, "graph": None, "no_graph": "'cumsum' in head"}
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("search", {"baseline": wide}, "baseline.graph.nodes[2]"),
        ("search", {"baseline": {**described, "parameters": described["parameters"] + 1}}, "baseline.parameters"),
        ("search", {"baseline": bare, "verify": "network"}, "verify"),
        ("training", {"architecture": {"baseline": bare}, "data": "digits"}, "architecture.baseline.family"),
    ]
    for kind, spec, path in wrong:
        with pytest.raises(Refused) as refused:
            client.submit(kind, spec)
        assert path in str(refused.value), refused.value
    finished(client, "search", {"baseline": bare, "estimator": {"relative_error": 0.2}})
