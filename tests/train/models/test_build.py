import pytest
import torch

from collegium.search.networks.build import build_network
from collegium.search.networks.families.block import BlockBaseline
from collegium.search.networks.families.mlp import MlpBaseline
from collegium.search.networks.families.resnext import ResNextBaseline
from collegium.train.data.dataset import ArraySplit, Dataset
from collegium.train.errors import Mismatch
from collegium.train.models.build import blueprint, fitted
from collegium.train.models.grouping import GroupedNetwork

BLOCK = BlockBaseline.model_validate(
    {
        "family": "block",
        "input": {"channels": 4, "height": 6, "width": 6},
        "layers": [
            {"type": "conv", "out": 4, "kernel": 3, "groups": 2},
            {"type": "relu"},
            {"type": "conv", "out": "a"},
            {"type": "relu"},
            {"type": "conv", "out": "b", "kernel": 3, "stride": 2},
            {"type": "relu"},
            {"type": "dense", "out": "c"},
            {"type": "relu"},
            {"type": "dense", "out": 5},
        ],
        "widths": {"a": 4, "b": 6, "c": 8},
    }
)


def mlp(bias=False, hidden=(9, 7, 5)):
    return MlpBaseline(family="mlp", inputs=12, hidden=hidden, outputs=4, bias=bias)


def resnext(**more):
    return ResNextBaseline(family="resnext", layout="cifar", blocks=(1, 2, 1), **more)


@pytest.mark.parametrize(
    ("baseline", "widths", "members"),
    [
        (mlp(), (9, 7, 5), 1),
        (mlp(), (3, 4, 2), 5),
        (mlp(bias=True), (3, 4, 2), 5),
        (mlp(bias=True, hidden=(6,)), (3,), 4),
        (BLOCK, (4, 6, 8), 1),
        (BLOCK, (2, 3, 5), 3),
        (resnext(), (8, 8), 3),
        (resnext(), (8, 4), 3),
        (resnext(block="basic"), (6,), 2),
    ],
)
def test_a_network_has_exactly_the_parameters_that_the_search_counts(baseline, widths, members):
    grouped = GroupedNetwork.tied(build_network(baseline), widths, members)
    model = blueprint(grouped).build(seed=0)
    assert sum(parameter.numel() for parameter in model.parameters()) == grouped.parameters


def test_an_ensemble_is_the_scaled_sum_of_its_members():
    model = blueprint(GroupedNetwork.tied(build_network(mlp()), (3, 4, 2), 5)).build(seed=1)
    x = torch.randn(6, 12)
    first, second, third, last = (layer.weight for layer in model.layers)
    total = torch.zeros(6, 4)
    for j in range(5):
        h = (x @ first[3 * j : 3 * j + 3].T).relu()
        h = (h @ second[j]).relu()
        h = (h @ third[j]).relu()
        total += h @ last[:, 2 * j : 2 * j + 2].T
    torch.testing.assert_close(model(x), total / 5**0.5)


def test_members_of_a_chain_do_not_see_each_other():
    widths, members = (2, 4, 5), 3
    model = blueprint(GroupedNetwork.tied(build_network(BLOCK), widths, members)).build(seed=1)
    one = blueprint(GroupedNetwork.tied(build_network(BLOCK), widths, 1)).build(seed=1)
    x = torch.randn(2, 4, 6, 6)
    total = torch.zeros(2, 5)
    for j in range(members):
        for own, shared in zip(one.layers, model.layers, strict=True):
            rows = own.weight.shape[0]
            own.weight.data = shared.weight.data[j * rows : (j + 1) * rows]
        total += one(x)
    torch.testing.assert_close(model(x), total / members**0.5)


def test_outputs_at_initialization_keep_their_scale_whatever_the_grouping():
    x = torch.randn(2000, 12)
    x = x / x.pow(2).mean(1, keepdim=True).sqrt()
    for widths, members in (((64, 64, 64), 1), ((16, 16, 16), 40)):
        model = blueprint(GroupedNetwork.tied(build_network(mlp()), widths, members))
        squares = [model.build(seed=seed)(x).pow(2).mean().item() for seed in range(20)]
        assert sum(squares) / 20 == pytest.approx(1.0, rel=0.3)


def test_the_seed_alone_determines_the_weights():
    plan = blueprint(GroupedNetwork.tied(build_network(resnext()), (4, 4), 2))
    torch.manual_seed(5)
    one = plan.build(seed=3).state_dict()
    before = torch.get_rng_state()
    other = plan.build(seed=3).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not torch.equal(one["conv1.weight"], plan.build(seed=4).state_dict()["conv1.weight"])


def data(shape, classes=10, kind="image"):
    split = ArraySplit(torch.zeros(4, *shape), torch.zeros(4, dtype=torch.long))
    return Dataset("samples", kind, shape, classes, split, None, split)


def test_the_head_follows_the_data():
    grouped, channels = fitted(GroupedNetwork.tied(build_network(mlp()), (9, 7, 5), 2), data((1, 3, 4)))
    assert grouped.outputs == 10
    assert channels is None
    assert blueprint(grouped).build(seed=0)(torch.zeros(2, 1, 3, 4)).shape == (2, 10)


def test_grey_images_are_repeated_for_a_residual_network():
    _, channels = fitted(GroupedNetwork.tied(build_network(resnext()), (4, 4), 1), data((1, 8, 8)))
    assert channels == 3


@pytest.mark.parametrize(
    ("baseline", "shape", "kind", "words"),
    [
        (mlp(), (13,), "features", "13 inputs and the network takes 12"),
        (resnext(), (12,), "features", "images of 1 or 3 channels"),
        (BLOCK, (4, 8, 8), "image", "the block takes"),
        (mlp(), (12,), "tokens", "train a transformer"),
    ],
)
def test_data_of_another_shape_is_refused_with_what_would_be_right(baseline, shape, kind, words):
    network = build_network(baseline)
    with pytest.raises(Mismatch) as raised:
        fitted(GroupedNetwork.tied(network, network.baseline, 1), data(shape, kind=kind))
    assert words in f"{raised.value.message} {raised.value.remedy}"
