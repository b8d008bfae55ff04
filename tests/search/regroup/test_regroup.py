"""Regrouped modules: counts of the answer, independent members, weights of the right size, training and export."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import collegium
from collegium.search.find import find_ensemble
from collegium.search.regroup.grouped import GroupedLayerNorm, GroupedLinear
from collegium.search.regroup.regroup import regroup


class Bottleneck(nn.Module):
    def __init__(self, channels=32, width=16):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x):
        return torch.relu(x + self.branch(x))


def resnet():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        Bottleneck(),
        Bottleneck(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 4))


def vgg():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    )  # fmt: skip


def video():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(2, 12, (3, 1, 1), padding=(1, 0, 0)), nn.ReLU(), nn.AvgPool3d((1, 2, 2)),
        nn.Conv3d(12, 12, 3, padding=1), nn.BatchNorm3d(12), nn.ReLU(), nn.Conv3d(12, 3, 1),
    )  # fmt: skip


@pytest.mark.parametrize(("make", "shape"), [(vgg, (2, 3, 8, 8)), (video, (2, 2, 3, 4, 4))])
def test_branches_with_pools_and_of_three_dimensions_have_the_answers_counts_and_train(make, shape):
    model, example = make(), torch.randn(shape)
    baseline = collegium.describe(model, example[:1])
    answer = find_ensemble(baseline, estimator={"method": "monte_carlo", "samples": 500})
    assert not [note for note in answer.notes if note.kind == "parts_unsearched"]
    made = regroup(model, answer.primal)
    assert parameters(made) == answer.primal.parameters
    assert (made[3].__class__, made[2].__class__) == (model[3].__class__, model[2].__class__)
    out = made(example)
    assert out.shape == model(example).shape
    before = copy.deepcopy(list(made.parameters()))
    out.square().mean().backward()
    torch.optim.SGD(made.parameters(), 0.1).step()
    # The bias has no gradient where a batch norm follows.
    assert not torch.equal(made[0].weight, before[0])


def answered(model, example):
    baseline = collegium.describe(model, example)
    return baseline, find_ensemble(baseline, estimator={"method": "exact"})


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("make", "shape"), [(mlp, (2, 12)), (resnet, (2, 3, 8, 8))])
def test_the_answers_counts_are_the_modules(make, shape):
    model, example = make(), torch.randn(shape)
    _, answer = answered(model, example[:1])
    before = copy.deepcopy(list(model.parameters()))
    for found in (answer.primal, answer.dual):
        made = regroup(model, found)
        assert parameters(made) == found.parameters
        assert made.regrouped.parameters == (parameters(model), found.parameters)
        assert made(example).shape == model(example).shape
    assert all(map(torch.equal, model.parameters(), before))


def test_names_and_classes_stay_where_a_convolution_has_groups():
    model = resnet()
    baseline, _ = answered(model, torch.randn(1, 3, 8, 8))
    (branch,) = [branch for branch in baseline.branches if branch.splittable]
    made = regroup(model, {branch.name: (4, 6)}, baseline=baseline)
    assert list(made.state_dict()) == list(model.state_dict())
    inner = made[1].branch
    assert [(layer.in_channels, layer.out_channels, layer.groups) for layer in (inner[0], inner[3], inner[6])] == [
        (32, 24, 1), (24, 24, 4), (24, 32, 1),
    ]  # fmt: skip
    assert inner[1].running_mean.shape == inner[4].weight.shape == (24,)
    assert branch.count == 2
    assert made[2].branch[3].groups == 4


def test_members_are_independent_and_their_sum_is_the_output():
    model = mlp()
    baseline, _ = answered(model, torch.randn(1, 12))
    (branch,) = [branch for branch in baseline.branches if branch.splittable]
    made = regroup(model, {branch.name: (3, [5, 7])}, baseline=baseline).double()
    x = torch.randn(2, 12, dtype=torch.float64)
    total = made[4].bias.expand(2, 4).clone()
    for j in range(3):
        first, last = made[0], made[4]
        h = torch.relu(x @ first.weight[5 * j : 5 * j + 5].T + first.bias[5 * j : 5 * j + 5])
        h = torch.relu(h @ made[2].weight[j].T + made[2].bias[7 * j : 7 * j + 7])
        total = total + h @ last.weight[:, 7 * j : 7 * j + 7].T
    assert torch.allclose(made(x), total)


def test_weights_have_the_size_that_their_fan_in_asks_for():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(200, 300), nn.ReLU(), nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 100))
    for layer in (model[0], model[2], model[4]):
        nn.init.normal_(layer.weight, std=(2 / layer.in_features) ** 0.5)
        nn.init.zeros_(layer.bias)
    baseline, _ = answered(model, torch.randn(1, 200))
    made = regroup(model, {"0": (8, 50)}, baseline=baseline)
    for weight, fan_in in ((made[0].weight, 200), (made[2].weight, 50), (made[4].weight, 8 * 50)):
        assert weight.square().mean().item() == pytest.approx(2 / fan_in, rel=0.05)
    assert made[2].bias.abs().max() == 0
    uniform = regroup(mlp(), {"0": (3, 8)}, baseline=answered(mlp(), torch.randn(1, 12))[0])
    assert uniform[2].weight.abs().max() <= 1.1 * 8**-0.5
    assert not torch.equal(made[0].weight, regroup(model, {"0": (8, 50)}, baseline=baseline, seed=1)[0].weight)
    assert torch.equal(made[0].weight, regroup(model, {"0": (8, 50)}, baseline=baseline)[0].weight)


def test_all_else_starts_anew_or_is_kept_as_asked():
    model = resnet()
    model.register_parameter("table", nn.Parameter(torch.arange(6.0)))
    with torch.no_grad():  # a norm behind a branch that was trained
        model[1].branch[7].bias.normal_()
        model[1].branch[7].running_mean.normal_()
    _, answer = answered(model, torch.randn(1, 3, 8, 8))
    fresh, again, other = (regroup(model, answer.primal, seed=seed) for seed in (0, 0, 1))
    assert not bool((fresh[0].weight == model[0].weight).any())
    assert not bool((fresh[5].bias == model[5].bias).any())
    assert fresh[0].weight.abs().max() <= 27**-0.5
    assert torch.equal(fresh[1].branch[7].bias, torch.zeros(32))
    assert torch.equal(fresh[1].branch[7].running_mean, torch.zeros(32))
    assert all(map(torch.equal, fresh.parameters(), again.parameters()))
    assert not torch.equal(fresh[0].weight, other[0].weight)
    assert torch.equal(fresh.table, model.table)
    assert fresh.regrouped.kept == ("table",)
    assert "numbers kept of 1 parameter (table)" in str(fresh.regrouped)
    kept = regroup(model, answer.primal, keep="rest")
    assert torch.equal(kept[0].weight, model[0].weight)
    assert torch.equal(kept[1].branch[7].bias, model[1].branch[7].bias)
    assert "0.weight" in kept.regrouped.kept
    assert "1.branch.7.bias" in kept.regrouped.kept
    assert not any(".branch.3" in name for name in kept.regrouped.kept)
    assert torch.equal(kept[1].branch[3].weight, fresh[1].branch[3].weight)
    with pytest.raises(ValueError, match="keep is one of 'nothing', 'rest', got 'all'"):
        regroup(model, answer.primal, keep="all")


def test_a_layer_norm_is_of_each_member_alone():
    model = nn.Sequential(
        nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)
    )
    baseline, _ = answered(model, torch.randn(1, 6))
    (branch,) = [branch for branch in baseline.branches if branch.splittable]
    made = regroup(model, {branch.name: (2, 4)}, baseline=baseline)
    x = torch.randn(5, 6)
    h = made[0](x)
    expected = torch.cat([nn.functional.layer_norm(h[:, :4], (4,)), nn.functional.layer_norm(h[:, 4:], (4,))], 1)
    assert torch.allclose(made[1](h), expected, atol=1e-6)
    assert isinstance(made[4], GroupedLayerNorm)


def test_it_trains_expands_and_exports():
    model = mlp()
    _, answer = answered(model, torch.randn(1, 12))
    made = regroup(model, answer.primal)
    x, y = torch.randn(64, 12), torch.randint(0, 4, (64,))
    optimizer = torch.optim.Adam(made.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(made(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    program = torch.export.export(made, (x,))
    assert torch.allclose(program.module()(x), made(x), atol=1e-6)
    before = parameters(made)
    expanded = collegium.expand(made, expansion=2)
    assert parameters(expanded) > 1.9 * before - 500
    assert any("2." in name for name, _ in expanded.named_parameters())
    collegium.collapse(expanded)
    assert parameters(expanded) == before


def test_devices_hooks_and_frozen_weights_are_kept():
    model = mlp()
    calls = []
    model[2].register_forward_hook(lambda *_: calls.append(1))
    model[4].weight.requires_grad_(False)
    _, answer = answered(model, torch.randn(1, 12))
    calls.clear()
    made = regroup(model, answer.primal)
    made(torch.randn(1, 12))
    assert calls == [1]
    assert not made[4].weight.requires_grad
    assert made[0].weight.requires_grad
    with torch.device("meta"):
        large = mlp()
    assert regroup(large, answer.primal)[2].weight.device.type == "meta"


def test_what_does_not_fit_is_refused_with_its_reason():
    model = mlp()
    baseline, answer = answered(model, torch.randn(1, 12))
    with pytest.raises(ValueError, match="no module '2'"):
        regroup(nn.Sequential(nn.Linear(12, 4)), answer.primal)
    other = nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 5))
    with pytest.raises(ValueError, match="not the module that was described"):
        regroup(other, answer.primal)
    with pytest.raises(ValueError, match="search what collegium"):
        regroup(model, find_ensemble("resnet50", estimator={"method": "exact"}).primal)
    with pytest.raises(ValueError, match="no branch is called 'x'"):
        regroup(model, {"x": (2, 3)}, baseline=baseline)
    with pytest.raises(ValueError, match="2 inner widths are expected, got 3"):
        regroup(model, {"0": (2, [3, 3, 3])}, baseline=baseline)
    with pytest.raises(ValueError, match="'baseline'"):
        regroup(model, {"0": (2, 3)})
    nn.utils.parametrizations.weight_norm(model[2])
    with pytest.raises(ValueError, match="2: its weight is computed from others"):
        regroup(model, answer.primal)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ((2, [8, 6]), "must divide a member's width: 6 is no multiple of 4"),
        ((0, 8), "at least 1, got 0"),
        ((2, [8, 0]), "at least 1"),
        ((2, [-4, 8]), "at least 1"),
    ],
)
def test_members_that_a_branch_cannot_have_are_refused_before_anything_is_made(members, message):
    layers = [nn.Conv1d(4, 8, 1), nn.ReLU(), nn.Conv1d(8, 8, 3, padding=1), nn.GroupNorm(4, 8), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv1d(8, 4, 1))
    baseline = collegium.describe(model, torch.randn(1, 4, 9))
    assert regroup(model, {"0": (2, [3, 8])}, baseline=baseline)(torch.randn(1, 4, 9)).shape == (1, 4, 9)
    with pytest.raises(ValueError, match=f"cannot be grouped so: .*{message}"):
        regroup(model, {"0": members}, baseline=baseline)


class Functional(nn.Module):
    """Weights that are no layer's."""

    def __init__(self):
        super().__init__()
        self.u, self.v, self.w = (nn.Parameter(torch.randn(6, 6)) for _ in range(3))

    def forward(self, x):
        return torch.relu(torch.relu(x @ self.u) @ self.v) @ self.w


def test_weights_of_no_layer_are_named_as_what_they_are():
    model = Functional()
    answer = find_ensemble(collegium.describe(model, torch.randn(1, 6)))
    assert answer.primal is not None
    with pytest.raises(ValueError, match="u is a parameter that code reads, and no layer's: it is not regrouped"):
        regroup(model, answer.primal)


def test_a_module_that_cannot_be_copied_is_refused_with_the_reason():
    model = mlp()
    _, answer = answered(model, torch.randn(1, 12))
    model.held = (each for each in ())  # a generator has no copy
    with pytest.raises(ValueError, match=r"copied: cannot pickle 'generator' object \(its attribute 'held'\)"):
        regroup(model, answer.primal)


def test_a_depthwise_layer_of_a_sequence_is_regrouped_with_what_it_reads():
    model = nn.Sequential(
        nn.Conv1d(4, 6, 1, bias=False), nn.ReLU(), nn.Conv1d(6, 6, 3, groups=6, bias=False), nn.ReLU(),
        nn.Conv1d(6, 5, 1, bias=False), nn.ReLU(), nn.Conv1d(5, 4, 1, bias=False),
    )  # fmt: skip
    baseline, answer = answered(model, torch.randn(1, 4, 9))
    assert answer.outcome.kind != "nothing_to_gain"
    made = regroup(model, {"0": (2, [3, 2])}, baseline=baseline)
    assert [layer.groups for layer in made if isinstance(layer, nn.Conv1d)] == [1, 6, 2, 1]
    assert made(torch.randn(1, 4, 9)).shape == (1, 4, 7)
    with pytest.raises(ValueError, match="2 inner widths are expected, got 3"):
        regroup(model, {"0": (2, [3, 3, 2])}, baseline=baseline)


def test_a_row_of_the_curve_is_an_ensemble_too():
    model = mlp()
    baseline, answer = answered(model, torch.randn(1, 12))
    row = answer.curve[3]
    assert parameters(regroup(model, row, baseline=baseline)) == row.primal_parameters


def test_a_grouped_linear_layer_is_a_block_diagonal_one():
    layer = GroupedLinear(6, 4, groups=2)
    dense = torch.block_diag(*layer.weight)
    x = torch.randn(3, 5, 6)
    assert torch.allclose(layer(x), x @ dense.T + layer.bias, atol=1e-6)
    with pytest.raises(ValueError, match="groups = 4 must divide"):
        GroupedLinear(6, 4, groups=4)


def test_new_weights_are_not_the_numbers_of_weights_that_were_made_under_the_same_seed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(80, 80), nn.ReLU(), nn.Linear(80, 40), nn.ReLU(), nn.Linear(40, 80))
    weight = model[0].weight.detach().clone().flatten()
    baseline = collegium.describe(model, torch.randn(1, 80))
    (branch,) = baseline.branches
    made = regroup(model, {branch.name: (1, [80, 40])}, baseline=baseline, seed=0)
    alike = [each for each in made.parameters() if each.numel() == weight.numel()]
    assert alike
    for each in alike:
        assert abs(torch.corrcoef(torch.stack([weight, each.detach().flatten()]))[0, 1]) < 0.06


def test_what_is_no_ensemble_is_refused_with_a_remedy():
    model = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3))
    baseline = collegium.describe(model, torch.zeros(1, 8))
    answer = find_ensemble(baseline)
    for member, words in [
        (None, "its outcome says why"),
        (answer, r"answer\.primal, \.dual or \.recommended"),
        (3, "not 3"),
        ({"0": (2,)}, r"0: a grouping is \(m, n\)"),
        ({"0": 2}, r"0: a grouping is \(m, n\)"),
        ({"0": (2, "3")}, r"0: a grouping is \(m, n\)"),
    ]:
        with pytest.raises(ValueError, match=words):
            regroup(model, member, baseline=baseline)
    with pytest.raises(ValueError, match=r"a torch\.nn\.Module, not NoneType"):
        regroup(None, answer.primal)
    with pytest.raises(ValueError, match="seed is a whole number"):
        regroup(model, answer.primal, seed="x")
