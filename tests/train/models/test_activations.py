"""Modules of other activations than rectifiers: what they compute, how they start, and that they load elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from collegium.search.networks.build import build_network
from collegium.search.networks.families.block import BlockBaseline
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.parse import parse_spec
from collegium.train.engine import run
from collegium.train.models.build import blueprint
from collegium.train.models.ensembles import MlpEnsemble
from collegium.train.models.grouping import GroupedNetwork

FUNCTIONS = {
    "relu": functional.relu,
    "leaky_relu": lambda z: functional.leaky_relu(z, 0.3),
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
    "elu": lambda z: functional.elu(z, 0.5),
    "softplus": functional.softplus,
    "relu6": functional.relu6,
    "gelu_tanh": lambda z: functional.gelu(z, approximate="tanh"),
    "mish": functional.mish,
    "hardswish": functional.hardswish,
    "sigmoid": torch.sigmoid,
    "selu": functional.selu,
    "celu": lambda z: functional.celu(z, 0.5),
    "identity": lambda z: z,
}
POSTED = {
    "leaky_relu": {"name": "leaky_relu", "negative_slope": 0.3},
    "elu": {"name": "elu", "alpha": 0.5},
    "celu": {"name": "celu", "alpha": 0.5},
}


def mlp(name: str, hidden=(9, 7, 5), bias=False):
    posted = POSTED.get(name, name)
    document = {"family": "mlp", "inputs": 12, "hidden": list(hidden), "outputs": 4, "bias": bias, "activation": posted}
    return build_network(parse_spec(MlpBaseline, document))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_an_ensemble_is_the_scaled_sum_of_its_members(name):
    grouped = GroupedNetwork.tied(mlp(name), (3, 4, 2), 5)
    model = blueprint(grouped).build(seed=1)
    assert sum(parameter.numel() for parameter in model.parameters()) == grouped.parameters
    x, phi = torch.randn(6, 12, generator=torch.Generator().manual_seed(0)), FUNCTIONS[name]
    first, second, third, last = (layer.weight for layer in model.layers)
    total = torch.zeros(6, 4)
    for j in range(5):
        h = phi(phi(phi(x @ first[3 * j : 3 * j + 3].T) @ second[j]) @ third[j])
        total += h @ last[:, 2 * j : 2 * j + 2].T
    torch.testing.assert_close(model(x), total / 5**0.5)
    one = blueprint(GroupedNetwork.tied(mlp(name), (9, 7, 5), 1)).build(seed=1)
    h = x
    for layer in one.layers[:-1]:
        h = phi(layer(h))
    torch.testing.assert_close(one(x), one.layers[-1](h))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_outputs_at_initialization_have_the_size_of_the_inputs(name):
    x = torch.randn(500, 12, generator=torch.Generator().manual_seed(0))
    x = x / x.square().mean(1, keepdim=True).sqrt()
    for widths, members in (((100, 100, 100), 1), ((50, 50, 50), 8)):
        plan = blueprint(GroupedNetwork.tied(mlp(name), widths, members))
        squares = [plan.build(seed=seed)(x).square().mean().item() for seed in range(12)]
        assert sum(squares) / 12 == pytest.approx(1.0, rel=0.35)


def test_rectified_networks_have_the_arguments_that_they_always_had():
    network = mlp("relu")
    assert network.arguments((3, 4, 2), 5) == {
        "inputs": 12,
        "hidden": [3, 4, 2],
        "outputs": 4,
        "members": 5,
        "bias": False,
    }


def test_a_block_activates_each_layer_in_its_own_way():
    layers = [
        {"type": "conv", "out": "a", "kernel": 3},
        {"type": "silu"},
        {"type": "conv", "out": "b"},
        {"type": "leaky_relu", "negative_slope": 0.3},
        {"type": "dense", "out": 3},
    ]
    block = {
        "family": "block",
        "input": {"channels": 4, "height": 5, "width": 5},
        "layers": layers,
        "widths": {"a": 6, "b": 8},
    }
    network = build_network(parse_spec(BlockBaseline, block))
    grouped = GroupedNetwork.tied(network, (6, 8), 1)
    model = blueprint(grouped).build(seed=2)
    assert sum(parameter.numel() for parameter in model.parameters()) == grouped.parameters
    x = torch.randn(7, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    one, two, three = model.layers
    h = functional.leaky_relu(two(functional.silu(one(x))), 0.3)
    torch.testing.assert_close(model(x), h.flatten(1) @ three.weight[0])
    wide = blueprint(GroupedNetwork.tied(network, (400, 300), 2)).build(seed=3)
    variances = [layer.weight.var().item() * fan for layer, fan in zip(wide.layers, (36, 400, 7500), strict=True)]
    assert variances == pytest.approx(network.chain.gains, rel=0.1)


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="no activation is called 'swish'"):
        MlpEnsemble(3, [4], 2, activation="swish")


@pytest.mark.slow
def test_a_trained_model_loads_in_plain_torch(digits_spec, tmp_path, load_and_evaluate):
    baseline = {"family": "mlp", "inputs": 64, "hidden": [24, 24], "outputs": 10, "activation": POSTED["elu"]}
    spec = digits_spec(architecture={"baseline": baseline, "width": 8, "multiplicity": 3})
    result = run(spec, artifact_dir=tmp_path)
    assert load_and_evaluate(tmp_path)["accuracy"] == pytest.approx(result["accuracy"]["test"], abs=1e-9)
