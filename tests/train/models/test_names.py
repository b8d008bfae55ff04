"""Names that are known without building a network are those of the network that is built."""

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from collegium.search.describe.describe import describe
from collegium.search.errors import InvalidSpec
from collegium.train.limits import check_study_cost, check_training_cost
from collegium.train.majority.targets.choice import choose_kernels
from collegium.train.majority.targets.names import Names, covers
from collegium.train.methods import create
from collegium.train.models.build import blueprint
from collegium.train.models.grouping import group_network
from collegium.train.models.names import module_names
from collegium.train.spec.architecture import BaselineArchitecture
from collegium.train.spec.study import StudySpec
from collegium.train.spec.training import TrainingSpec

MLP = {"family": "mlp", "inputs": 64, "hidden": [20, 20], "outputs": 10}
BLOCK = {
    "family": "block",
    "input": {"channels": 3, "height": 6, "width": 6},
    "layers": [
        {"type": "conv", "out": "a", "kernel": 3},
        {"type": "relu"},
        {"type": "dense", "out": "b"},
        {"type": "relu"},
        {"type": "dense", "out": 5},
    ],
    "widths": {"a": 4, "b": 6},
}
SMALL = {"family": "resnext", "layout": "cifar", "blocks": [1, 2, 1]}
BUILT = {
    "mlp": {"baseline": MLP},
    "members": {"baseline": {**MLP, "bias": True}, "width": 4, "multiplicity": 3},
    "one hidden layer": {"baseline": {**MLP, "hidden": [9]}},
    "block": {"baseline": BLOCK},
    "cifar": {"baseline": SMALL},
    "basic": {"baseline": {**SMALL, "block": "basic"}},
    "imagenet": {"baseline": {"preset": "resnet50"}},
}


class Attentive(nn.Module):
    """A token, an attention, two branches and a head."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.blocks = nn.ModuleList([nn.MultiheadAttention(8, 2, batch_first=True)])
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Sequential(
            nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 12, bias=False), nn.GELU(), nn.Linear(12, 8)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)
        x = x + self.blocks[0](x, x, x, need_weights=False)[0]
        x = x + self.mlp(self.norm(x))
        return self.head(x[:, 0])


@pytest.fixture(scope="module")
def described():
    """A described network, whole and with its branch in three members."""
    torch.manual_seed(0)
    baseline = describe(Attentive(), torch.zeros(2, 4, 8), name="net").model_dump(mode="json")
    branches = [{"branch": "mlp.0", "width": 5, "multiplicity": 3}]
    return [{"baseline": baseline}, {"baseline": baseline, "branches": branches}]


def grouped(architecture):
    return group_network(BaselineArchitecture.model_validate(architecture))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", BUILT)
def test_they_are_those_of_the_network_that_is_built(name, dropout):
    check_names(grouped(BUILT[name]), dropout)


@pytest.mark.parametrize("index", [0, 1])
def test_they_are_those_of_a_described_network(described, index):
    ensemble = grouped(described[index])
    assert {"blocks", "blocks.0.in_proj_weight", "token"} <= check_names(ensemble, 0.0)


class Rows(nn.Module):
    """A recurrent layer over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(8, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, x):
        return self.head(self.lstm(x[:, 0])[0][:, -1])


@pytest.mark.parametrize("pattern", ["lstm", "lstm.weight_hh_l0", "head"])
def test_recurrent_weights_may_be_named(pattern):
    baseline = describe(Rows(), torch.zeros(2, 1, 8, 8), name="rows").model_dump(mode="json")
    expansion = {"patterns": [pattern]}
    asked = {"architecture": {"baseline": baseline}, "data": "digits", "method": "majority", "expansion": expansion}
    check_training_cost(TrainingSpec.model_validate(asked))
    ensemble = grouped({"baseline": baseline})
    with torch.device("meta"):
        model = blueprint(ensemble).build(seed=0)
    expected = choose_kernels(model, [pattern]).expanded
    assert [kernel for kernel in module_names(ensemble).kernels if covers(pattern, kernel)] == expected


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("lstm.weight_hh_l1", "no module or parameter is named 'lstm.weight_hh_l1'; there are lstm.weight_hh_l0"),
        ("gru", "no module or parameter is named 'gru'"),
        ("lstm.bias_*", "what they match has no kernel to expand"),
    ],
)
def test_patterns_beside_recurrent_layers_are_refused_when_they_are_posted(pattern, words):
    baseline = describe(Rows(), torch.zeros(2, 1, 8, 8), name="rows").model_dump(mode="json")
    expansion = {"patterns": [pattern]}
    asked = {"architecture": {"baseline": baseline}, "data": "digits", "method": "majority", "expansion": expansion}
    with pytest.raises(InvalidSpec, match=re.escape(words)):
        check_training_cost(TrainingSpec.model_validate(asked))


def check_names(ensemble, dropout):
    with torch.device("meta"):
        model = blueprint(ensemble, dropout=dropout).build(seed=0)
    names, choice = module_names(ensemble, dropout=dropout), choose_kernels(model)
    assert sorted(names.modules) == sorted(name for name, _ in model.named_modules())
    assert sorted(names.parameters) == sorted([*choice.expanded, *choice.left])
    assert sorted(names.kernels) == sorted(choice.expanded)
    return {*names.modules, *names.parameters}


@pytest.mark.parametrize("pattern", ["layer1", "layer?.0.conv1", "*", "fc.weight", "layer1.0", "*.bias", "conv*"])
def test_a_pattern_covers_what_expand_includes_by_it(pattern):
    ensemble = grouped(BUILT["cifar"])
    with torch.device("meta"):
        model = blueprint(ensemble).build(seed=0)
    expected = choose_kernels(model, [pattern]).expanded
    assert [kernel for kernel in module_names(ensemble).kernels if covers(pattern, kernel)] == expected


@pytest.mark.parametrize(
    ("method", "patterns", "path", "message"),
    [
        ("majority", ["layers.0", "encoder.*"], ("expansion", "patterns", 1),
         r"no module or parameter is named 'encoder\.\*'; kernels are layers\.0\.weight, layers\.1\.weight"),
        ("majority", ["layer.0"], ("expansion", "patterns", 0), r"there are layers\.0"),
        ("adversarial", ["head"], ("expansion", "patterns", 0), "no module or parameter is named 'head'"),
        ("subset", ["head"], ("expansion", "patterns", 0), "no module or parameter is named 'head'"),
        ("subset", ["layers.2"], ("expansion", "patterns"), r"no hidden layer .*; there are layers\.0\.weight"),
        ("majority", ["dropout"], ("expansion", "patterns"), r"no kernel to expand; kernels are layers\.0\.weight"),
    ],
)  # fmt: skip
def test_patterns_that_match_nothing_are_refused_before_training(method, patterns, path, message):
    asked = {"architecture": {"baseline": MLP}, "data": "digits", "method": method, "expansion": {"patterns": patterns}}
    with pytest.raises(InvalidSpec, match=message) as caught:
        check_training_cost(TrainingSpec.model_validate(asked))
    assert caught.value.path == path


def test_in_a_study_the_path_is_that_of_the_study():
    study = {
        "architectures": [{"name": "A", "architecture": {"baseline": MLP}}],
        "methods": ["vanilla", {"method": "majority", "expansion": {"patterns": ["head"]}}],
        "data": "digits",
    }
    with pytest.raises(InvalidSpec) as caught:
        check_study_cost(StudySpec.model_validate(study))
    assert caught.value.path == ("methods", 1, "expansion", "patterns", 0)


def test_names_load_no_torch():
    code = "import sys, collegium.train.models.names; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_subset_selection_is_refused_where_no_layer_is_hidden():
    names = module_names(grouped(BUILT["mlp"]))
    single = Names(names.modules, names.parameters, names.kernels[:1])
    with pytest.raises(InvalidSpec, match="no hidden layer") as caught:
        create("subset").check_names(lambda: single)
    assert caught.value.path == ("method",)
    create("subset").check_names(lambda: names)
