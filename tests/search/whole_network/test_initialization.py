"""A module's own initialization, drawn without building it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from collegium.search.whole_network.candidate import Candidate
from collegium.search.whole_network.initialization import Initialization


def initialization(build, by_fan_in=False):
    return Initialization(build, by_fan_in=by_fan_in, device="cpu")


def test_a_residual_network_is_drawn_from_the_distribution_that_it_is_built_with(residual_network):
    candidate = Candidate("baseline", residual_network, (64, 64), 2)
    drawn = initialization(candidate.build).draw(0)
    built = {name: value.detach() for name, value in candidate.build().named_parameters()}
    assert list(drawn) == list(built)
    for name, value in built.items():
        size = value.numel()
        assert drawn[name].shape == value.shape
        if "bn" in name or ".1." in name:
            assert torch.equal(drawn[name], value)
        else:
            assert float(drawn[name].std()) == pytest.approx(float(value.std()), rel=8 / math.sqrt(size))
    assert float(drawn["fc.weight"].abs().max()) <= 1 / math.sqrt(built["fc.weight"].shape[1])


def test_rates_are_exact_variances_and_1_for_constants(residual_network):
    candidate = Candidate("baseline", residual_network, (4, 4), 2)
    rates = initialization(candidate.build).rates()
    assert rates["conv1.weight"] == pytest.approx(2 / (64 * 9))  # fan-out
    assert rates["fc.weight"] == pytest.approx(1 / (3 * 512))  # uniform
    assert rates["bn1.weight"] == rates["bn1.bias"] == 1.0


def test_fan_in_draws_are_those_of_the_ntk_parameterization(residual_network):
    candidate = Candidate("baseline", residual_network, (4, 4), 2)
    made = initialization(candidate.build, by_fan_in=True)
    rates = made.rates()
    assert rates["conv1.weight"] == pytest.approx(2 / 27)
    assert rates["layer1.0.conv2.weight"] == pytest.approx(2 / (4 * 9))  # a group's own inputs
    assert rates["fc.weight"] == pytest.approx(1 / 512)
    assert float(made.draw(0)["conv1.weight"].std()) == pytest.approx(math.sqrt(2 / 27), rel=0.1)


def test_layers_of_other_classes_keep_their_own(mlp_network):
    candidate = Candidate("primal", mlp_network, (5, 5), 4)
    own, fan_in = (initialization(candidate.build, by_fan_in=flag).rates() for flag in (False, True))
    assert own == fan_in
    assert own["layers.2.weight"] == pytest.approx(1 / 5)  # one member's fan-in


def test_draws_follow_from_their_seed_and_leave_torchs_generator_alone(residual_network):
    candidate = Candidate("baseline", residual_network, (4, 4), 1)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    made = initialization(candidate.build)
    one, again, other = made.draw(1), made.draw(1), made.draw(2)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["conv1.weight"], other["conv1.weight"])


class Unusual(nn.Module):
    """A parameter that no initializer fills, at a place where another's numbers were."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(100, 50)
        self.first.weight = nn.Parameter(torch.randn(50, 100) * 3)
        self.gain = nn.Parameter(torch.ones(50))
        self.shift = nn.Parameter(torch.zeros(50))
        self.truncated = nn.Parameter(torch.empty(40, 50))
        nn.init.trunc_normal_(self.truncated, std=0.1)


def test_what_is_not_known_is_taken_from_modules_built_anew():
    made = initialization(Unusual)
    drawn, rates = made.draw(4), made.rates()
    assert float(drawn["first.weight"].std()) == pytest.approx(3, rel=0.05)
    assert float(drawn["truncated"].std()) == pytest.approx(0.1, rel=0.1)
    assert torch.equal(drawn["gain"], torch.ones(50))
    assert rates["first.weight"] == pytest.approx(9, rel=0.05)
    assert rates["truncated"] == pytest.approx(0.01, rel=0.1)
    assert rates["first.bias"] == pytest.approx(1 / 300)
    assert rates["gain"] == rates["shift"] == 1.0
    assert torch.equal(drawn["first.weight"], made.draw(4)["first.weight"])
    assert not torch.equal(drawn["first.weight"], made.draw(5)["first.weight"])


class InParts(nn.Module):
    """Parameters of which parts start otherwise than the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 20, padding_idx=4)
        self.cell = nn.Linear(50, 80)
        self.again = nn.Parameter(torch.zeros(6, 2))
        with torch.no_grad():
            self.cell.bias[20:40].fill_(1.0)
            self.cell.weight[:, 10].uniform_(2, 3)
            self.again[1].fill_(3.0)
            self.again.normal_(std=0.5)


def test_parts_that_start_otherwise_are_drawn_so():
    made = initialization(InParts)
    assert None not in made._fills.values()  # nothing is built anew for it
    drawn, rates = made.draw(2), made.rates()
    assert not drawn["table.weight"][4].any()
    rest = torch.cat([drawn["table.weight"][:4], drawn["table.weight"][5:]])
    assert float(rest.std()) == pytest.approx(1, rel=0.15)
    assert torch.equal(drawn["cell.bias"][20:40], torch.ones(20))
    assert float(drawn["cell.bias"][:20].abs().max()) <= 50**-0.5
    column = drawn["cell.weight"][:, 10]
    assert 2 <= float(column.min()) < float(column.max()) <= 3
    assert float(drawn["cell.weight"][:, 11:].abs().max()) <= 50**-0.5
    assert drawn["again"].unique().numel() == 12
    assert rates["table.weight"] == 1.0
    assert rates["again"] == pytest.approx(0.25)
    again = {name: torch.empty_like(value) for name, value in drawn.items()}
    made.draw(2, again)
    assert all(torch.equal(value, again[name]) for name, value in drawn.items())


class CopiedInPart(nn.Module):
    """A part with numbers of no initializer, and one with more parts than are drawn one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.many = nn.Linear(4, 3), nn.Linear(3, 100)
        with torch.no_grad():
            self.first.weight[1] = torch.arange(4.0)
            for row in range(100):
                self.many.weight[row].fill_(float(row))


def test_parts_that_are_not_known_are_taken_from_modules_built_anew():
    drawn = initialization(CopiedInPart).draw(0)
    assert torch.equal(drawn["first.weight"][1], torch.arange(4.0))
    assert torch.equal(drawn["many.weight"], torch.arange(100.0)[:, None].expand(100, 3))
    assert float(drawn["first.weight"][[0, 2]].abs().max()) <= 0.5
