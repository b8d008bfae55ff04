"""A family, a method, a data format and an export format of another package, used together through the service."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from collegium import Client
from collegium.app.client.client import Refused

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

TOY = '''
"""A network with a linear connection, training by signs of gradients, labelled points, the parameter count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from collegium.search.errors import SampleMismatch
from collegium.search.fields import Width, Widths
from collegium.search.networks.chain import Chain, Free, WeightLayer
from collegium.search.networks.family import Family, FamilyBaseline
from collegium.search.networks.network import Measure, Network
from collegium.train.data.arrays import Arrays
from collegium.train.data.format import DataFormat, Sample
from collegium.train.export.format import ExportFormat
from collegium.train.methods.method import Method, MethodOptions


class SkipBaseline(FamilyBaseline):
    """A fully connected network with a linear connection from its inputs to its outputs."""

    family: Literal["skip"]
    inputs: Width
    hidden: Widths
    outputs: Width = 1


class SkipNetwork(Network):
    """The linear connection is fixed; the rest is grouped."""

    def affine(self, measure: Measure, widths: Sequence[int]) -> tuple[int, int]:
        per_member = self.chain.parameters(widths) if measure == "parameters" else self.chain.flops(widths)
        return self.chain.channels * self.outputs, per_member

    @property
    def counted_layers(self) -> range:
        return range(1, len(self.chain.layers))

    def repeated_channels(self, shape: tuple[int, ...]) -> None:
        if shape != (self.chain.channels,):
            raise SampleMismatch(f"has samples of shape {shape}", f"give {self.chain.channels} features")

    def arguments(self, widths: Sequence[int], multiplicity: int) -> dict[str, Any]:
        return {"sizes": [shape[0] for shape in self.chain.shapes(widths)], "members": multiplicity}


def lower(baseline: SkipBaseline) -> SkipNetwork:
    hidden = tuple(WeightLayer("dense", Free(index)) for index in range(len(baseline.hidden)))
    names = tuple(f"n{index}" for index in range(len(hidden)))
    chain = Chain(baseline.inputs, 1, 1, (*hidden, WeightLayer("dense", baseline.outputs, "linear")), names)
    return SkipNetwork("MLP with a skip", chain, baseline.hidden, 1)


SKIP = Family("MLPs with a linear connection", SkipBaseline, lower, "toy_module:SkipMlp")


class SignOptions(MethodOptions):
    """The size of every gradient."""

    size: Annotated[float, Field(gt=0, le=1)] = Field(0.01, description="absolute value of every gradient")


class Sign(Method):
    """Plain training with the signs of the gradients."""

    name = "sign"
    summary = "plain training with the signs of the gradients"
    Options = SignOptions

    def step(self, model, batches, compute_loss, **rest):
        output = super().step(model, batches, compute_loss, **rest)
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.sign_().mul_(self.options.size)
        return output


class Halves(DataFormat):
    """Points, labelled by the side of a line that they are on."""

    summary = "points, labelled by the side of a line that they are on"
    names = ("halves",)

    def sample(self, spec):
        return Sample("features", (8,))

    def recipe(self, name):
        return "digits"

    def load(self, spec, folders):
        x = np.random.default_rng(spec.seed).normal(size=(400, 8)).astype(np.float32)
        y = (x[:, 0] > 0).astype(np.int64)
        return Arrays(x[:200], y[:200], x[200:], y[200:], classes=2, kind="features")


class Count(ExportFormat):
    """The number of parameters, in a file."""

    summary = "the number of parameters"
    files = {"count.txt": "how many parameters there are"}

    def write(self, package, folder):
        (folder / "count.txt").write_text(str(sum(p.numel() for p in package.model.parameters())))
'''
MODULE = """
import torch
from torch import nn


class SkipMlp(nn.Module):
    def __init__(self, sizes, members):
        super().__init__()
        self.skip = nn.Linear(sizes[0], sizes[-1], bias=False)
        self.paths = nn.ModuleList(self.path(sizes) for _ in range(members))

    @staticmethod
    def path(sizes):
        layers = []
        for below, above in zip(sizes, sizes[1:]):
            layers += [nn.Linear(below, above, bias=False), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def forward(self, x):
        return self.skip(x) + sum(path(x) for path in self.paths) / len(self.paths) ** 0.5
"""
ENTRY_POINTS = """
[collegium.families]
skip = toy:SKIP
[collegium.methods]
sign = toy:Sign
[collegium.data_formats]
halves = toy:Halves
[collegium.export_formats]
count = toy:Count
"""
BASELINE = {"family": "skip", "inputs": 8, "hidden": [24, 24, 24], "outputs": 2}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service and its worker, in an environment that has the package installed."""
    home = tmp_path_factory.mktemp("extended")
    metadata = home / "site" / "toy-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    (home / "site" / "toy.py").write_text(TOY)
    (home / "site" / "toy_module.py").write_text(MODULE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COLLEGIUM_")}
    paths = [str(home / "site"), str(Path(__file__).parents[1])]
    environment |= {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "collegium", "serve", "--port", "0", "--home", str(home / "state")]
    with (
        (home / "serve.log").open("w") as log,
        subprocess.Popen(command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            address = next((line for line in process.stdout if line.startswith("collegium is at ")), None)
            assert address is not None, (home / "serve.log").read_text()
            threading.Thread(target=process.stdout.read, daemon=True).start()  # a full pipe would stop the service
            with Client(address.removeprefix("collegium is at ").strip()) as client:
                yield client
        finally:
            process.terminate()
            process.wait(40)


def test_they_are_listed_like_those_of_the_package(client: Client) -> None:
    assert "sign" in {method["name"] for method in client.get("/v1/methods")["items"]}
    assert "halves" in {row["name"] for format in client.get("/v1/data-formats")["items"] for row in format["data"]}
    document = str(client.get("/openapi.json"))
    assert "SkipBaseline" in document
    assert "SignOptions" in document


def test_a_baseline_is_searched_trained_and_downloaded(client: Client, tmp_path: Path) -> None:
    search = client.search(BASELINE).wait()
    assert search.status == "succeeded", search.failure
    primal = search.result.primal
    training = client.train(
        {
            "architecture": {"search": search.id, "choice": "primal"},
            "method": "sign",
            "expansion": {"size": 0.002},
            "data": "halves",
            "recipe": {"epochs": 30, "optimizer": "sgd", "learning_rate": 1.0},
            "formats": ["safetensors", "count"],
        }
    ).wait()
    assert training.status == "succeeded", training.failure
    assert training.result.method == "sign"
    assert training.result.accuracy.test > 0.8
    training.download(tmp_path)
    assert int((tmp_path / "count.txt").read_text()) == primal.parameters == training.result.parameters


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"method": "sing"}, "method"),
        ({"expansion": {"copies": 3}}, "expansion.copies"),
        ({"formats": ["counts"]}, "formats[0]"),
        ({"data": "quarters"}, "data.name"),
        ({"architecture": {"baseline": {"family": "skipp", "inputs": 8}}}, "architecture.baseline"),
    ],
)
def test_what_is_not_known_is_refused_by_its_field(client: Client, change: dict, field: str) -> None:
    training = {"architecture": {"baseline": BASELINE}, "method": "sign", "data": "halves"}
    with pytest.raises(Refused) as refused:
        client.train(training | change)
    assert [error["path"] for error in refused.value.errors] == [field]
