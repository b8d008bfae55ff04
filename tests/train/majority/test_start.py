"""How copies begin: their mean, their spread and the variance of the weight, as ``start.py`` says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from collegium import collapse, expand, kernel_spread, run_training


def copies_of(layer):
    return layer.parametrizations.weight.original


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("make", [lambda: nn.Linear(30, 20), lambda: nn.Conv2d(4, 6, 3, groups=2)])
def test_the_mean_of_perturbed_copies_is_the_weight(make, dtype):
    layer = make().to(dtype)
    weight = layer.weight.detach().clone()
    expand(layer, 3, seed=0)
    assert (copies_of(layer)[0] != weight).float().mean() > 0.9
    tolerance = {"rtol": 0, "atol": 4 * torch.finfo(dtype).eps * float(weight.abs().max())}
    torch.testing.assert_close(layer.eval().weight.detach(), weight, **tolerance)
    torch.testing.assert_close(collapse(layer).weight.detach(), weight, **tolerance)


@pytest.mark.parametrize("e", [2, 3, 5])
@pytest.mark.parametrize("spread", [0.25, 1.0, 3.0])
def test_perturbed_copies_have_the_spread_and_the_variance_that_is_documented(e, spread):
    torch.manual_seed(0)
    layer = nn.Linear(400, 300)
    before = variance(layer.weight)
    expand(layer, e, spread=spread, seed=0)
    assert kernel_spread(layer)["weight"] == pytest.approx(spread, rel=0.01)
    assert variance(layer.weight) / before == pytest.approx(1 + spread**2 / (e + 1), rel=0.02)
    for copy in copies_of(layer):  # none is closer to the weight than the others
        assert variance(copy) / before == pytest.approx(1 + spread**2, rel=0.02)


def test_the_spread_is_a_tenth_unless_told_otherwise():
    layers = [expand(nn.Linear(300, 300), 3, seed=0, **options) for options in ({}, {"init": "perturbed"})]
    assert [kernel_spread(layer)["weight"] for layer in layers] == [pytest.approx(0.1, rel=0.01)] * 2


def test_a_seed_repeats_the_perturbation_and_another_gives_another():
    def start(seed):
        torch.manual_seed(1)
        return copies_of(expand(nn.Linear(4, 3), 3, seed=seed)).detach()

    assert torch.equal(start(0), start(0))
    assert not torch.isclose(start(0), start(1)).any()


def test_the_noise_is_not_the_numbers_that_the_weight_was_drawn_from():
    """The model and its copies are often seeded alike."""
    torch.manual_seed(3)
    layer = nn.Linear(400, 300)
    nn.init.normal_(layer.weight)
    weight = layer.weight.detach().clone()
    deviation = copies_of(expand(layer, 3, seed=3)).detach() - weight
    for each in deviation:
        assert abs(torch.corrcoef(torch.stack([weight.flatten(), each.flatten()]))[0, 1]) < 0.02


def test_nothing_is_perturbed_where_there_is_nothing_to_perturb():
    zeros = nn.Linear(3, 2)
    nn.init.zeros_(zeros.weight)
    assert not copies_of(expand(zeros, 3)).any()
    for options in ({"expansion": 1}, {"spread": 0}, {"spread": 0.0}):
        layer = nn.Linear(3, 2)
        weight = layer.weight.detach().clone()
        assert all(torch.equal(copy, weight) for copy in copies_of(expand(layer, **options)))
    single = nn.Linear(3, 2)
    weight = single.weight.detach().clone()
    assert torch.equal(copies_of(expand(single, 1, correct_scale=True))[0], weight)


@pytest.mark.parametrize("spread", [-0.1, math.inf, math.nan, True, "wide"])
def test_a_spread_that_is_none_is_refused(spread):
    with pytest.raises(ValueError, match="spread must be a number of at least 0"):
        expand(nn.Linear(2, 2), spread=spread)


def test_options_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="spread belongs to init='perturbed'"):
        expand(nn.Linear(2, 2), init="replicated", spread=0.5)
    with pytest.raises(ValueError, match="no scale to correct"):
        expand(nn.Linear(2, 2), init="replicated", correct_scale=True)
    with pytest.raises(ValueError, match="no scale to correct"):
        expand(nn.Linear(2, 2), spread=0, correct_scale=True)
    with pytest.raises(ValueError, match="correct_scale must be"):
        expand(nn.Linear(2, 2), correct_scale="both")


def test_independent_copies_have_the_weight_s_entries_and_the_variance_that_is_documented():
    torch.manual_seed(0)
    model, e = nn.Linear(400, 300), 3
    weight = model.weight.detach().clone()
    expand(model, e, init="independent", seed=0)
    copies = copies_of(model).detach()
    assert torch.equal(copies[0], weight)
    for k in range(1, e):
        assert torch.equal(copies[k].flatten().sort().values, weight.flatten().sort().values)
        assert abs(torch.corrcoef(torch.stack([copies[0].flatten(), copies[k].flatten()]))[0, 1]) < 0.02
    assert variance(model.weight) / variance(weight) == pytest.approx(2 / (e + 1), rel=0.02)
    assert variance(model.eval().weight) / variance(weight) == pytest.approx(1 / e, rel=0.02)


def variance(weight):
    return float(weight.detach().var())


@pytest.mark.parametrize("init", ["independent", "perturbed"])
@pytest.mark.parametrize(("correct", "training"), [(True, True), ("training", True), ("evaluation", False)])
def test_scale_is_corrected_where_asked(init, correct, training):
    torch.manual_seed(0)
    model = nn.Linear(400, 300)
    before = variance(model.weight)
    spread = {"spread": 2.0} if init == "perturbed" else {}
    expand(model, 3, **spread, init=init, seed=0, correct_scale=correct).train(training)
    assert variance(model.weight) / before == pytest.approx(1, rel=0.02)


def test_own_initialization():
    layer = expand(nn.Linear(3, 2), 3, init=lambda weight, k, generator: torch.full_like(weight, k))
    assert copies_of(layer).detach().mean((1, 2))[1:].tolist() == [1.0, 2.0]


WIDE = {"baseline": {"preset": "mlp-digits-6x100"}, "width": 17, "multiplicity": 20}


@pytest.mark.parametrize("architecture", [WIDE, [40, 20], [100] * 5], ids=["20x17", "40-20", "5x100"])
def test_majority_kernels_train_at_the_pace_of_the_plain_network(architecture):
    """Fifteen epochs on the digits, everything else as it is by default."""
    if isinstance(architecture, list):
        architecture = {"baseline": {"family": "mlp", "inputs": 64, "hidden": architecture, "outputs": 10}}

    def accuracy(method):
        asked = {"architecture": architecture, "method": method, "data": "digits", "recipe": {"epochs": 15}}
        trained = [run_training(asked | {"seed": seed}).accuracy.test for seed in (0, 1)]
        return sum(trained) / len(trained)

    plain = accuracy("vanilla")
    found = accuracy("majority")
    assert found >= plain - 0.015
    assert found >= 0.96 or plain < 0.96
