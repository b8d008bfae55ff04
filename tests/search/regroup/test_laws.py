"""Parameters drawn anew: by the law that they show, by a module's own reset, or kept and named."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from collegium.search.regroup.laws import draw_anew, law


class Gain(nn.Module):
    """A class of its own, with a reset."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.empty(500))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.normal_(self.gain, mean=3.0, std=0.5)


class Position(nn.Module):
    """A class of its own, without one."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.sin(torch.arange(40.0)).reshape(4, 10))
        self.scale = nn.Parameter(torch.full((10,), 1e-6))


@pytest.mark.parametrize("fan_in", [3, 16, 400])
@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_pytorchs_own_law_is_found_exactly(fan_in, count):
    torch.manual_seed(count)
    for _ in range(20):
        values = (2 * torch.rand(count) - 1) * fan_in**-0.5
        found = law(values, growth=fan_in / 25, fan_in=fan_in)
        assert (found.kind, found.b) == ("uniform", pytest.approx(0.2))


def test_other_laws_are_told_by_their_numbers():
    torch.manual_seed(0)
    normal = law(torch.randn(10_000) * 0.02, fan_in=100)
    assert (normal.kind, normal.b) == ("normal", pytest.approx(0.02, rel=0.03))
    wide = law(torch.rand(10_000) - 0.5, growth=4.0, fan_in=100)
    assert (wide.kind, wide.b) == ("uniform", pytest.approx(1.0, rel=0.03))
    # narrower than PyTorch's own by a tenth: not taken for it
    narrow = law((2 * torch.rand(10_000) - 1) * 0.09, fan_in=100)
    assert narrow.b == pytest.approx(0.09, rel=0.03)
    assert law(torch.full((5,), 0.05), fan_in=100).kind == "constant"
    with pytest.raises(ValueError, match="not all finite"):
        law(torch.tensor([1.0, math.nan]))


def test_every_layer_is_drawn_by_its_law_and_by_the_seed():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3),
        nn.BatchNorm2d(64),
        nn.Flatten(),
        nn.Linear(64, 300),
        nn.LSTM(300, 40),
        nn.Embedding(50, 60),
    )
    nn.init.kaiming_normal_(model[0].weight)
    nn.init.normal_(model[5].weight, std=0.02)
    drawn = copy.deepcopy(model)
    assert draw_anew(drawn, seed=3) == []
    for (name, old), new in zip(model.named_parameters(), drawn.parameters(), strict=True):
        if name.startswith("1."):
            assert torch.equal(old, new)
            continue
        assert not bool((old == new).any()), name
        few = 4 / math.sqrt(old.numel())
        assert new.square().mean().item() == pytest.approx(old.square().mean().item(), rel=few), name
    again, other = copy.deepcopy(model), copy.deepcopy(model)
    draw_anew(again, seed=3)
    draw_anew(other, seed=4)
    assert all(map(torch.equal, drawn.parameters(), again.parameters()))
    assert not torch.equal(drawn[3].weight, other[3].weight)


def test_trained_norms_and_their_statistics_start_again():
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.Conv1d(4, 4, 1), nn.GroupNorm(2, 4))
    for norm in (model[1], model[3]):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    model.train()(torch.randn(8, 2, 9))
    assert draw_anew(model, seed=0) == []
    for norm in (model[1], model[3]):
        assert torch.equal(norm.weight, torch.ones(4))
        assert torch.equal(norm.bias, torch.zeros(4))
    assert torch.equal(model[1].running_var, torch.ones(4))
    assert model[1].num_batches_tracked == 0


def test_a_zero_gain_stays_zero():
    norm = nn.BatchNorm2d(4)
    nn.init.zeros_(norm.weight)
    draw_anew(nn.Sequential(norm), seed=0)
    assert torch.equal(norm.weight, torch.zeros(4))


def test_classes_of_ones_own_are_reset_or_kept_and_named():
    model = nn.ModuleDict({"gain": Gain(), "position": Position(), "head": nn.Linear(10, 2)})
    before = copy.deepcopy(model)
    state = torch.get_rng_state()
    assert draw_anew(model, seed=5) == ["position.table"]
    assert torch.equal(torch.get_rng_state(), state)
    assert model["gain"].gain.mean().item() == pytest.approx(3.0, abs=5 * 0.5 / math.sqrt(500))
    assert not torch.equal(model["gain"].gain, before["gain"].gain)
    assert torch.equal(model["position"].table, before["position"].table)
    assert torch.equal(model["position"].scale, before["position"].scale)
    again = copy.deepcopy(before)
    draw_anew(again, seed=5)
    assert torch.equal(again["gain"].gain, model["gain"].gain)


def test_a_reset_that_needs_arguments_is_not_called():
    class Asks(Position):
        def reset_parameters(self, how):
            raise AssertionError(how)

    assert draw_anew(nn.Sequential(Asks()), seed=0) == ["0.table"]


def test_frozen_and_computed_weights_are_kept():
    frozen, normed = nn.Linear(3, 4), parametrizations.weight_norm(nn.Linear(4, 5))
    frozen.weight.requires_grad_(False)
    model = nn.Sequential(frozen, normed)
    before = copy.deepcopy(model.state_dict())
    kept = draw_anew(model, seed=0)
    assert kept[0] == "0.weight"
    assert {name for name in kept if "original" in name} == {
        "1.parametrizations.weight.original0", "1.parametrizations.weight.original1",
    }  # fmt: skip
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert not torch.equal(before["0.bias"], after["0.bias"])


def test_shared_weights_stay_shared_and_left_out_modules_stay():
    model = nn.ModuleDict({"a": nn.Embedding(7, 5), "b": nn.Linear(5, 7, bias=False), "c": nn.Linear(5, 5)})
    model["b"].weight = model["a"].weight
    before = copy.deepcopy(model)
    draw_anew(model, seed=0, without={"c"})
    assert model["a"].weight is model["b"].weight
    assert not torch.equal(model["a"].weight, before["a"].weight)
    assert torch.equal(model["c"].weight, before["c"].weight)
    draw_anew(left := copy.deepcopy(before), seed=0, without={"b"})
    assert torch.equal(left["a"].weight, before["a"].weight)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_rows_of_padding_that_are_zero_stay_so_and_are_not_in_the_law(kind):
    torch.manual_seed(0)
    model = nn.Sequential(kind(40, 50, padding_idx=3), kind(7, 5, padding_idx=-1), kind(1, 5, padding_idx=0))
    nn.init.uniform_(model[1].weight, 2, 3)  # its row of padding has numbers
    nn.init.constant_(model[0].weight, 0.25)
    with torch.no_grad():
        model[0].weight[3] = 0
    draw_anew(model, seed=0)
    assert not model[0].weight[3].any()
    assert model[0].weight.sum().item() == 0.25 * 39 * 50
    assert model[1].weight.all()
    assert not model[2].weight.any()


def test_numbers_do_not_depend_on_dtype_and_numbers_that_are_not_finite_are_refused():
    single, half = nn.Linear(8, 8), nn.Linear(8, 8).to(torch.bfloat16)
    draw_anew(single, seed=2)
    draw_anew(half, seed=2)
    assert torch.equal(single.bias.to(torch.bfloat16), half.bias)
    nn.init.constant_(single.weight, math.nan)
    with pytest.raises(ValueError, match=r"0\.weight cannot be drawn anew: its numbers are not all finite"):
        draw_anew(nn.Sequential(single), seed=0)
