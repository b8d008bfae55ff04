"""A family in a package of its own, found through its entry point: searched, costed, built, trained and exported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

#: An MLP with a linear connection from its inputs to its outputs, which all members share.
FAMILY = '''
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from collegium.search.errors import SampleMismatch
from collegium.search.fields import Width, Widths
from collegium.search.networks.chain import Chain, Free, WeightLayer
from collegium.search.networks.family import Family, FamilyBaseline
from collegium.search.networks.network import Measure, Network


class SkipBaseline(FamilyBaseline):
    """A fully connected network with a linear connection from its inputs to its outputs."""

    family: Literal["skip_mlp"]
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
        if len(shape) != 3 or shape[0] * shape[1] * shape[2] != self.chain.channels:
            raise SampleMismatch(f"has samples of shape {shape}", f"give images of {self.chain.channels} pixels")

    def arguments(self, widths: Sequence[int], multiplicity: int) -> dict[str, Any]:
        sizes = [shape[0] for shape in self.chain.shapes(widths)]
        return {"sizes": sizes, "members": multiplicity}


def lower(baseline: SkipBaseline) -> SkipNetwork:
    hidden = tuple(WeightLayer("dense", Free(index)) for index in range(len(baseline.hidden)))
    names = tuple(f"n{index}" for index in range(len(hidden)))
    chain = Chain(baseline.inputs, 1, 1, (*hidden, WeightLayer("dense", baseline.outputs, "linear")), names)
    return SkipNetwork("MLP with a skip", chain, baseline.hidden, 1)


FAMILY = Family("MLPs with a linear connection", SkipBaseline, lower, "skip_mlp_module:SkipMlp")
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
        x = x.flatten(1)
        return self.skip(x) + sum(path(x) for path in self.paths) / len(self.paths) ** 0.5
"""
ENTRY_POINTS = """
[collegium.families]
skip_mlp = skip_mlp:FAMILY
"""


@pytest.fixture
def run(tmp_path):
    """``run(script)`` in a new interpreter that finds the package: its last line of output, as JSON.

    ``heavy`` adds a family whose file loads torch.
    """
    site = tmp_path / "site"
    metadata = site / "skip_mlp-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: skip-mlp\nVersion: 1.0\n")
    (site / "skip_mlp.py").write_text(FAMILY)
    (site / "skip_mlp_module.py").write_text(MODULE)
    (site / "heavy_family.py").write_text("import torch\n\nFAMILY = None\n")
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(root)]), "OMP_NUM_THREADS": "1"}

    def execute(script: str, heavy: bool = False):
        further = "heavy = heavy_family:FAMILY\n" if heavy else ""
        (metadata / "entry_points.txt").write_text(ENTRY_POINTS + further)
        found = subprocess.run(
            [sys.executable, "-c", script], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout.splitlines()[-1])

    return execute


SEARCH = """
import json, sys
from collegium.search.engine import run
from collegium.search.networks.build import validate_search
from collegium.search.parse import parse_spec
from collegium.search.spec import SearchSpec

baseline = {"family": "skip_mlp", "inputs": 64, "hidden": [40, 40, 40], "outputs": 10}
spec = parse_spec(SearchSpec, {"baseline": baseline, "estimator": {"method": "exact"}})
network = validate_search(spec)
result = run(spec)
assert "torch" not in sys.modules
primal = result.primal
"""


def test_it_is_searched_without_torch_and_costed(run):
    found = run(
        SEARCH + "print(json.dumps([network.family, result.baseline.parameters, primal.widths, primal.parameters, "
        "result.outcome.kind]))"
    )
    family, parameters, widths, count, outcome = found
    assert (family, outcome) == ("skip_mlp", "found")
    assert parameters == 64 * 10 + 64 * 40 + 2 * 40 * 40 + 40 * 10
    assert len(set(widths)) == 1
    assert widths[0] < 40
    assert count == pytest.approx(parameters, rel=0.025)


@pytest.mark.slow
def test_it_is_built_trained_and_exported_with_the_parameters_that_the_search_counted(run):
    found = run(
        SEARCH
        + """
from collegium import build_model, run_training
from collegium.train.limits import check_training_cost
from collegium.train.spec.training import TrainingSpec

architecture = {"baseline": baseline, "widths": primal.widths, "multiplicity": primal.multiplicity}
training = {"architecture": architecture, "data": "digits", "recipe": {"epochs": 1}}
cost = check_training_cost(parse_spec(TrainingSpec, training))
built = sum(parameter.numel() for parameter in build_model(architecture).parameters())
trained = run_training(training, "left")

sys.path.insert(0, "left")
import load
model, prepare = load.load()
left = sum(parameter.numel() for parameter in model.parameters())
counts = [primal.parameters, cost.parameters, built, trained.parameters, left]
print(json.dumps([counts, trained.architecture["family"], type(model).__name__, type(model).__module__]))
"""
    )
    counts, family, name, module = found
    assert len(set(counts)) == 1
    assert (family, name) == ("skip_mlp", "SkipMlp")
    assert module.startswith("_network_")  # of its own folder


REFUSAL = """
import json
from collegium.search.errors import InvalidSpec
from collegium.search.parse import parse_spec
from collegium.search.spec import SearchSpec

try:
    parse_spec(SearchSpec, {"baseline": BASELINE})
except InvalidSpec as error:
    print(json.dumps([error.path, error.message]))
"""


def test_its_fields_are_validated_as_those_of_any_family(run):
    path, message = run(REFUSAL.replace("BASELINE", '{"family": "skip_mlp", "inputs": 64, "hidden": []}'))
    assert path == ["baseline", "hidden"]
    assert "at least 1 item" in message


def test_a_family_that_cannot_be_used_is_refused_with_the_reason_and_those_that_can(run):
    path, message = run(REFUSAL.replace("BASELINE", '{"family": "heavy"}'), heavy=True)
    assert path == ["baseline"]
    assert "'mlp', 'resnext', 'block', 'network', 'attention', 'skip_mlp'" in message
    assert "the family 'heavy' of skip-mlp loads torch when heavy_family is imported" in message
