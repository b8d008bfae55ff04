"""A described network is trained by the service's own means: grouped as a search answers, by its classes, by field."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from collegium.search.describe.describe import describe
from collegium.search.errors import InvalidSpec
from collegium.search.find import find_ensemble
from collegium.search.networks.families.network import NetworkBaseline
from collegium.search.result import SearchResult
from collegium.train.data.format import Sample
from collegium.train.errors import Mismatch
from collegium.train.models.build import blueprint
from collegium.train.models.grouping import architecture_from_search, check_samples, group_network
from collegium.train.run import run_training
from collegium.train.spec.architecture import Architecture, BaselineArchitecture, SearchedArchitecture
from collegium.train.spec.training import TrainingSpec


class Net(nn.Module):
    """Two branches of different shapes, a sum around each, and a head."""

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.channels = channels
        self.stem = nn.Conv2d(channels, 12, 3, padding=1)
        self.first = self.branch([12, 8, 8, 12], 1)
        self.second = self.branch([12, 10, 6, 10, 12], 3)
        self.head = nn.Linear(12, classes)

    @staticmethod
    def branch(widths: list[int], kernel: int) -> nn.Module:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)]
            layers.append(nn.ReLU())
        return nn.Sequential(*layers[:-1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(x + self.first(x))
        x = torch.relu(x + self.second(x))
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def baseline() -> NetworkBaseline:
    torch.manual_seed(0)
    return describe(Net(), torch.zeros(1, 1, 8, 8), name="net")


@pytest.fixture(scope="module")
def search(baseline: NetworkBaseline) -> tuple[dict[str, Any], SearchResult]:
    spec = {"baseline": baseline.model_dump(mode="json"), "estimator": {"relative_error": 0.2}}
    return spec, find_ensemble(spec)


def refusal(architecture: Architecture | dict[str, Any]) -> str:
    with pytest.raises(InvalidSpec) as refused:
        group_network(BaselineArchitecture.model_validate(architecture))  # pyright: ignore[reportArgumentType]
    return str(refused.value)


def test_a_network_of_which_nothing_is_regrouped_has_no_m_and_n(baseline: NetworkBaseline):
    found = group_network(BaselineArchitecture(baseline=baseline))
    assert found.as_described
    assert (found.widths, found.multiplicity, found.own_stages) == (None, None, None)
    again = found.with_outputs(3)
    described = again.describe()
    assert (described["title"], described["outputs"]) == ("net", 3)
    assert (described["widths"], described["multiplicity"], described["stages"]) == (None, None, None)
    layers = [layer for _ in range(3) for layer in (nn.Linear(64, 64), nn.ReLU())]
    one = describe(nn.Sequential(*layers, nn.Linear(64, 10)), torch.zeros(1, 64))
    assert group_network(BaselineArchitecture(baseline=one)).as_described
    grouped = group_network(BaselineArchitecture(baseline=one, width=5, multiplicity=6))
    assert not grouped.as_described
    assert (grouped.widths, grouped.multiplicity) == ((5, 5, 5), 6)


def test_the_primal_of_a_search_is_the_network_that_is_trained(search: tuple[dict[str, Any], SearchResult]):
    spec, result = search
    assert result.primal is not None
    assert len(result.branches or ()) == 2
    found = architecture_from_search(SearchedArchitecture(search="x"), spec, result.model_dump(mode="json"))
    assert found.branches is not None
    assert [(each.branch, each.multiplicity) for each in found.branches] == [
        (branch.paths[0][0], branch.multiplicity) for branch in result.primal.branches
    ]
    grouped = group_network(found)
    assert (grouped.parameters, grouped.flops) == (result.primal.parameters, result.primal.flops)
    model = blueprint(grouped).build(seed=0)
    assert sum(value.numel() for value in model.parameters()) == result.primal.parameters
    again = blueprint(grouped).build(seed=0)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))
    assert not torch.equal(next(blueprint(grouped).build(seed=1).parameters()), next(model.parameters()))


def test_the_baseline_of_a_search_is_the_network_itself(
    baseline: NetworkBaseline, search: tuple[dict[str, Any], SearchResult]
):
    spec, result = search
    choice = SearchedArchitecture(search="x", choice="baseline")
    grouped = group_network(architecture_from_search(choice, spec, result.model_dump(mode="json")))
    assert (grouped.parameters, grouped.flops) == (baseline.parameters, baseline.flops)


def test_it_trains_resumes_and_loads_without_the_project(
    baseline: NetworkBaseline, tmp_path: Path, load_and_evaluate: Any
):
    branches = [{"branch": "first", "width": 3, "multiplicity": 4}]
    branches.append({"branch": "second.0", "widths": [2, 3, 4], "multiplicity": 3})
    spec = {
        "architecture": {"baseline": baseline.model_dump(mode="json"), "branches": branches},
        "method": "majority",
        "expansion": 2,
        "data": "digits",
        "recipe": {"epochs": 2},
    }
    result = run_training(spec, tmp_path / "out")
    assert result.architecture["title"] == "4×3 in first, 3×2·3·4 in second of net"
    assert [stage["multiplicity"] for stage in result.architecture["stages"]] == [4, 3]
    assert load_and_evaluate(tmp_path / "out")["accuracy"] == pytest.approx(result.accuracy.test, abs=1e-6)


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_weights_and_moments(baseline: NetworkBaseline, killed_and_whole: Any):
    branches = [{"branch": "first", "width": 3, "multiplicity": 4}]
    architecture = {"baseline": baseline.model_dump(mode="json"), "branches": branches}
    recipe = {"epochs": 3, "batch_size": 100, "metric_steps": 1}
    spec = TrainingSpec.model_validate(
        {"architecture": architecture, "method": "majority", "expansion": 2, "data": "digits", "recipe": recipe}
    )
    one, other = killed_and_whole(spec, 9)
    assert any("running_mean" in name for name in one)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("branches", "expected"),
    [
        ([{"branch": "third", "width": 3, "multiplicity": 2}], "architecture.branches[0].branch: no branch that can"),
        ([{"branch": "first", "widths": [3], "multiplicity": 2}], "branches[0].widths: this branch has 2 inner widths"),
        ([{"branch": "first", "width": 3, "multiplicity": 2}] * 2, "branches[1].branch: 'first' is grouped already"),
    ],
)
def test_branches_that_are_not_there_are_refused(baseline: NetworkBaseline, branches: Any, expected: str):
    assert expected in refusal({"baseline": baseline, "branches": branches})


def test_one_grouping_for_branches_of_several_kinds_is_refused(baseline: NetworkBaseline):
    assert "architecture.width: 2 parts of this network" in refusal(
        {"baseline": baseline, "width": 3, "multiplicity": 2}
    )


def test_networks_of_other_families_have_no_branches():
    given = {"baseline": {"preset": "mlp-digits-6x100"}, "branches": [{"branch": "a", "width": 1, "multiplicity": 1}]}
    assert "architecture.branches: networks of the family mlp" in refusal(given)


def test_what_cannot_be_built_is_refused_with_the_reason(baseline: NetworkBaseline):
    bare = baseline.model_copy(update={"graph": None, "no_graph": "'cumsum' in the model"})
    assert "architecture.baseline.family: this described network cannot be built here ('cumsum'" in refusal(
        {"baseline": bare}
    )
    old = baseline.model_copy(update={"graph": None})
    assert "has no graph" in refusal({"baseline": old})


def test_a_network_whose_output_is_a_map_is_no_classifier():
    maps = describe(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), torch.zeros(1, 1, 8, 8))
    assert maps.graph is not None
    assert "classifiers" in refusal({"baseline": maps})


@pytest.mark.parametrize(
    ("network", "sample", "taken"),
    [
        (Net(1), (1, 8, 8), True),
        (Net(3), (1, 8, 8), True),  # grey images are repeated
        (Net(3), (3, 8, 8), True),
        (Net(1), (3, 8, 8), False),
        (Net(1), (1, 28, 28), False),
        (nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)), (1, 8, 8), True),
        (nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10)), (1, 7, 8), False),
    ],
)
def test_samples_that_do_not_fit_are_refused(network: Net | nn.Sequential, sample: tuple[int, ...], taken: bool):
    shape = (64,) if isinstance(network, nn.Sequential) else (network.channels, 8, 8)
    architecture = BaselineArchitecture(baseline=describe(network, torch.zeros(1, *shape)))
    images = Sample("image", sample)
    if taken:
        check_samples(architecture, "data", images)
    else:
        with pytest.raises(Mismatch, match="the described network takes"):
            check_samples(architecture, "data", images)


def test_the_head_is_replaced_for_the_classes(baseline: NetworkBaseline):
    branches = ({"branch": "first", "width": 3, "multiplicity": 4},)
    grouped = group_network(BaselineArchitecture.model_validate({"baseline": baseline, "branches": branches}))
    other = grouped.with_outputs(4)
    assert other.outputs == 4
    assert other.parameters == grouped.parameters - 6 * 13
    assert blueprint(other).build(seed=0)(torch.zeros(2, 1, 8, 8)).shape == (2, 4)


def test_images_of_another_size_train_the_network_there_with_a_note(tmp_path: Path, load_and_evaluate: Any):
    torch.manual_seed(0)
    described = describe(Net(3), torch.zeros(1, 3, 20, 20), name="net", other_input=torch.zeros(1, 3, 9, 11))
    spec = {
        "architecture": {
            "baseline": described.model_dump(mode="json"),
            "branches": [{"branch": "first", "width": 3, "multiplicity": 4}],
        },
        "data": "digits",
        "recipe": {"epochs": 1},
    }
    result = run_training(spec, tmp_path / "out")
    assert [(note.kind, "3×8×8" in note.message) for note in result.notes] == [("other_extent", True)]
    assert load_and_evaluate(tmp_path / "out")["accuracy"] == pytest.approx(result.accuracy.test, abs=1e-6)


def test_a_head_at_the_end_of_a_branch_is_replaced_too():
    model = nn.Sequential(nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 10))
    architecture = BaselineArchitecture(baseline=describe(model, torch.zeros(1, 64)), width=5, multiplicity=6)
    grouped = group_network(architecture)
    other = grouped.with_outputs(3)
    built = blueprint(other).build(seed=0)
    assert built(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert sum(value.numel() for value in built.parameters()) == other.parameters == grouped.parameters - 7 * 31


@pytest.mark.usefixtures("one_thread")
def test_its_own_dropout_follows_from_the_seed_of_the_training(tmp_path: Path):
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Dropout(0.3), nn.Linear(20, 10)]
    described = describe(nn.Sequential(*layers), torch.zeros(2, 1, 8, 8))
    architecture = {"baseline": described.model_dump(mode="json")}
    weights = []
    for seed in (1, 2):  # of torch's own generator, on which nothing depends
        torch.manual_seed(seed)
        run_training({"architecture": architecture, "data": "digits", "recipe": {"epochs": 1}}, tmp_path / str(seed))
        weights.append(load_file(tmp_path / str(seed) / "model.safetensors"))
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.slow
def test_it_is_exported_for_other_runtimes(baseline: NetworkBaseline, tmp_path: Path):
    architecture = {"baseline": baseline.model_dump(mode="json")}
    spec = {"architecture": architecture, "data": "digits", "recipe": {"epochs": 1}, "formats": ["onnx"]}
    assert run_training(spec, tmp_path).notes == ()
    assert (tmp_path / "model.onnx").is_file()
