"""Sharpness and spread of an expanded model, and norms that are estimated again."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from collegium import collapse, expand, kernel_spread, reestimate_norms, stochastic_sharpness
from collegium.train.majority.draw import probabilities
from collegium.train.majority.kernel import mixing


def quadratic(model, batch):
    """|w x|² / samples: its mean over p is that of the mean weight plus the variance of the mixture."""
    output = model(batch)
    return output.square().sum(1).mean(), output


def test_sharpness_of_a_quadratic_loss_is_the_variance_of_the_mixture():
    """E|⟨w⟩_p x|² − |w̄ x|² = Σ x_i² Var(⟨w⟩_p)_i, with Var_p = Σ_k w_k² Var(p) + cross terms of the flat Dirichlet."""
    torch.manual_seed(0)
    e, model = 3, nn.Linear(40, 30, bias=False)
    expand(model, e, init="independent", seed=0)
    copies = model.parametrizations.weight.original.detach()
    x = torch.randn(1, 40)
    variance = (copies - copies.mean(0)).square().mean(0) / (e + 1)
    expected = float((variance * x.square()).sum())
    found = stochastic_sharpness(model, [x], quadratic, draws=200)
    assert abs(found.delta - expected) < 4 * found.standard_error
    assert found.standard_error < 0.1 * expected
    with torch.no_grad():
        assert found.mean == pytest.approx(float(quadratic(model.eval(), x)[0]))


def token_loss(model, batch):
    x, y = (batch["x"], batch["labels"]) if isinstance(batch, dict) else batch
    logits = model(x)
    return functional.cross_entropy(logits.flatten(0, -2), y.flatten()), logits


@pytest.mark.parametrize("as_dict", [False, True])
def test_the_loss_is_the_mean_over_labels_however_they_are_batched(as_dict):
    """Samples, and tokens of sequences of one to nine that count."""
    torch.manual_seed(0)
    model = expand(nn.Linear(4, 3), 3, init="independent", seed=0)
    x, y = torch.randn(9, 9, 4), torch.randint(3, (9, 9))
    y[torch.arange(9) > torch.arange(9)[:, None]] = -100
    made = (lambda *pair: {"x": pair[0], "labels": pair[1]}) if as_dict else (lambda *pair: pair)
    whole = stochastic_sharpness(model, [made(x, y)], token_loss, draws=3)
    parts = stochastic_sharpness(model, [made(x[:2], y[:2]), made(x[2:], y[2:])], token_loss, draws=3)
    assert (parts.mean, parts.sampled) == pytest.approx((whole.mean, whole.sampled), rel=1e-6)
    samples = torch.randn(7, 4)
    whole = stochastic_sharpness(model, [samples], quadratic, draws=3)
    parts = stochastic_sharpness(model, [samples[:6], samples[6:]], quadratic, draws=3)
    assert (parts.mean, parts.sampled) == pytest.approx((whole.mean, whole.sampled), rel=1e-6)


def test_replicated_copies_have_no_sharpness_and_no_spread():
    model = expand(nn.Linear(4, 3), 3, init="replicated", seed=0)
    found = stochastic_sharpness(model, [torch.randn(2, 4), torch.randn(2, 4)], quadratic, draws=2)
    assert found.delta == pytest.approx(0, abs=1e-6)
    assert kernel_spread(model) == {"weight": pytest.approx(0, abs=1e-6)}


def test_sharpness_changes_nothing_and_repeats():
    model = expand(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)), 3, seed=0)
    x = torch.randn(6, 4)
    weight = model[0].weight.detach().clone()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    first = stochastic_sharpness(model, [x], quadratic)
    assert stochastic_sharpness(model, [x], quadratic) == first
    assert model.training
    assert torch.equal(model[0].weight, weight)
    torch.testing.assert_close(dict(model.state_dict()), state)
    assert math.isnan(stochastic_sharpness(model, [x], quadratic, draws=1).standard_error)


def test_sharpness_is_asked_of_expanded_models_with_data():
    with pytest.raises(ValueError, match="no majority kernels"):
        stochastic_sharpness(nn.Linear(2, 2), [torch.ones(1, 2)], quadratic)
    model = expand(nn.Linear(2, 2), 2)
    with pytest.raises(ValueError, match="no batch"):
        stochastic_sharpness(model, [], quadratic)
    with pytest.raises(ValueError, match="draws must be at least 1"):
        stochastic_sharpness(model, [torch.ones(1, 2)], quadratic, draws=0)


def test_spread_of_independent_copies_is_the_root_of_e_minus_one():
    torch.manual_seed(0)
    for e in (2, 3, 5):
        model = expand(nn.Sequential(nn.Linear(200, 200), nn.Linear(200, 100)), e, init="independent", seed=0)
        spreads = kernel_spread(model)
        assert list(spreads) == ["0.weight", "1.weight"]
        for spread in spreads.values():
            assert spread == pytest.approx(math.sqrt(e - 1), rel=0.05)


def test_spread_where_the_mean_vanishes():
    model = expand(nn.Linear(3, 3), 2, init=lambda weight, k, generator: -weight)
    assert kernel_spread(model)["weight"] == math.inf
    with torch.no_grad():
        model.parametrizations.weight.original.zero_()
    assert kernel_spread(model)["weight"] == 0.0


def test_norms_are_estimated_under_the_collapsed_weights():
    torch.manual_seed(0)
    model = expand(nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.9), nn.Linear(6, 2)), 3, seed=0)
    batches = [torch.randn(32, 4) for _ in range(5)]
    for x in batches:
        model(x)
    collapse(model).eval()
    reestimate_norms(model, ((x, torch.zeros(32)) for x in batches))
    with torch.no_grad():
        hidden = [functional.linear(x, model[0].weight, model[0].bias) for x in batches]
    torch.testing.assert_close(model[1].running_mean, torch.stack([h.mean(0) for h in hidden]).mean(0))
    torch.testing.assert_close(model[1].running_var, torch.stack([h.var(0) for h in hidden]).mean(0))
    assert model[1].momentum == 0.1
    assert model[2].p == 0.9
    assert not model.training


def test_estimating_needs_batches_only_where_there_are_norms():
    reestimate_norms(nn.Linear(2, 2), [])
    with pytest.raises(ValueError, match="at least one batch"):
        reestimate_norms(nn.BatchNorm1d(2), [])


def test_the_law_of_the_variance_used_above():
    """Var Σ p_k w_k = Σ (w_k − w̄)² / (e (e + 1)), elementwise, for the flat Dirichlet."""
    w = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    model = expand(nn.Linear(1, 1), 3, seed=0)
    with mixing(model, "sample"):
        draw = model.parametrizations.weight[0].draw
    p = probabilities(draw, 3, (200_000,)).double()
    assert float((p * w[:, None]).sum(0).var()) == pytest.approx(float((w - w.mean()).square().sum() / 12), rel=0.02)


def test_measuring_leaves_frozen_norms_frozen():
    model = expand(nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)), seed=0)
    model[1].eval()
    stochastic_sharpness(model, [torch.ones(8, 4)], lambda model, x: (model(x).sum(), None), draws=2)
    assert [module.training for module in model] == [True, False]


def test_spread_is_listed_by_the_names_of_the_plain_model():
    model = nn.ModuleDict({"my_parametrizations": nn.ModuleList([nn.Linear(2, 2)]), "original": nn.Linear(2, 2)})
    names = [name for name, _ in model.named_parameters() if name.endswith("weight")]
    assert list(kernel_spread(expand(model, 3, seed=0))) == names
    assert list(kernel_spread(expand(nn.Linear(2, 2), 3, seed=0))) == ["weight"]
