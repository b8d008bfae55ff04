"""Plain searches: the closed form on MLPs, plain gradients on a residual net, and what else no sampler knows."""

from __future__ import annotations

import copy
import threading
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import collegium
from collegium.search.errors import InvalidSpec
from collegium.search.find import find_ensemble
from collegium.search.result import SearchResult


def mlp(widths=(16, 24, 24, 24, 1), phi=nn.ReLU):
    """In the NTK's own law: N(0, 2 / fan-in), and N(0, 1 / fan-in) in the last layer."""
    layers = []
    for index, (a, b) in enumerate(pairwise(widths)):
        last = index == len(widths) - 2
        linear = nn.Linear(a, b, bias=False)
        nn.init.normal_(linear.weight, std=((1 if last else 2) / a) ** 0.5)
        layers += [linear] if last else [linear, phi()]
    return nn.Sequential(*layers)


class Residual(nn.Module):
    """A stem, a bottleneck with a pool inside and no norms, and a head."""

    def __init__(self, channels=6, width=6, phi=nn.Softsign):
        super().__init__()
        self.stem = nn.Conv2d(2, channels, 3, padding=1)
        self.branch = nn.Sequential(
            nn.Conv2d(channels, width, 1), phi(), nn.Conv2d(width, width, 3, padding=1), phi(),
            nn.MaxPool2d(3, 1, 1), nn.Conv2d(width, channels, 1),
        )  # fmt: skip
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(channels, 2)

    def forward(self, x):
        h = self.stem(x)
        return self.head(self.drop((h + self.branch(h)).mean((2, 3))))


class Tokens(nn.Module):
    """Embeddings with a class token and three linear layers on each; outputs in a dictionary."""

    def __init__(self):
        super().__init__()
        self.embedding, self.token = nn.Embedding(11, 6), nn.Parameter(torch.randn(1, 1, 6))
        self.layers = nn.Sequential(
            nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.1), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 3)
        )

    def forward(self, ids):
        x = torch.cat([self.token.expand(len(ids), -1, -1), self.embedding(ids)], 1)
        return {"logits": self.layers(x).mean(1)}


def measured(model, baseline, **fields):
    network = {"relative_error": 0.2, "images": 2, "inputs": 1} | fields.pop("network", {})
    return find_ensemble(baseline, model=model, network=network, **fields)


def counted(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.fixture(scope="module")
def searched():
    """An MLP, its answer by the closed form, and its plain one."""
    torch.manual_seed(0)
    model = mlp()
    baseline = collegium.describe(model, torch.randn(1, 16))
    exact = find_ensemble(baseline, estimator={"method": "exact"})
    asked = {"space": {"widths": [6, 12]}, "network": {"parameterization": "ntk", "relative_error": 0.13}}
    return model, baseline, exact, measured(model, baseline, **asked)


def test_an_mlps_ratios_are_those_of_the_closed_form(searched):
    _, _, exact, plain = searched
    rows = {row.widths: row for row in exact.curve}
    assert len(plain.curve) == 2
    for row in plain.curve:
        assert row.primal_multiplicity == rows[row.widths].primal_multiplicity
        away = abs(row.primal_relative_variance - rows[row.widths].primal_relative_variance)
        assert away < 4.5 * row.primal_standard_error
        assert row.primal_standard_error < 0.4 * row.primal_relative_variance
    first = plain.network.network("baseline")
    assert abs(first.relative_variance - exact.baseline.variance) < 4.5 * first.standard_error
    assert first.standard_error < 0.3 * first.relative_variance


def test_its_answers_hold_by_draws_that_did_not_choose_them(searched):
    model, _, exact, plain = searched
    rows = {row.widths: row for row in exact.curve}
    assert plain.method == "plain"
    assert plain.outcome.kind == "found"
    assert plain.primal.parameters <= 1.025 * counted(model)
    for name in ("primal", "dual"):
        answer, row = getattr(plain, name), plain.network.network(name)
        assert (answer.relative_variance, answer.variance) == (row.ratio, row.relative_variance)
        # an MLP is one branch: its variance is that of a member over m
        single = rows[answer.widths].variance / answer.multiplicity / exact.baseline.variance
        assert abs(row.ratio - single) < 4.5 * row.ratio_standard_error
    assert plain.dual.efficiency > 1.1
    assert plain.dual.relative_variance < 1.025 + 3 * plain.network.network("dual").ratio_standard_error
    made = collegium.regroup(model, plain.primal)
    assert counted(made) == plain.primal.parameters
    assert SearchResult.model_validate_json(plain.model_dump_json()) == plain


def test_the_answer_follows_from_the_seed(searched):
    model, baseline, *_ = searched
    asked = {"space": {"widths": [6]}, "network": {"relative_error": 0.3}}
    one, again, other = (measured(model, baseline, estimator={"seed": seed}, **asked) for seed in (1, 1, 2))
    without = {"seconds", "network"}
    assert one.model_dump(exclude=without) == again.model_dump(exclude=without)
    assert one.curve[0].primal_relative_variance != other.curve[0].primal_relative_variance


def kernel_by_hand(make, x):
    """K(x, x) of the first logit, by autograd."""
    model = make().eval()
    gradients = torch.autograd.grad(model(x)[0, 0], list(model.parameters()))
    return sum(gradient.square().sum().item() for gradient in gradients)


def test_a_residual_net_with_a_pool_inside_is_measured_as_plain_gradients_are():
    torch.manual_seed(0)
    model, x = Residual(), torch.randn(1, 2, 5, 5)
    baseline = collegium.describe(model, x)
    # the widths stand in front of, and behind, layers that no sampler knows
    assert find_ensemble(baseline).outcome.kind == "nothing_to_gain"
    asked = {"space": {"widths": [2]}, "network": {"relative_error": 0.12, "images": 1}}
    plain = measured(model, baseline, example_input=x, **asked)
    first = plain.network.network("baseline")
    draws = np.array([kernel_by_hand(Residual, x) for _ in range(300)])
    by_hand = draws.var(ddof=1) / draws.mean() ** 2
    influence = (draws - draws.mean()) ** 2 / draws.mean() ** 2 - 2 * by_hand * draws / draws.mean()
    error = np.hypot(influence.std() / len(draws) ** 0.5, first.standard_error)
    assert abs(first.relative_variance - by_hand) < 4.5 * error
    assert abs(first.mean - draws.mean()) < 4.5 * draws.mean() * (2 * by_hand / len(draws)) ** 0.5
    assert plain.curve[0].primal_multiplicity >= 3
    made = collegium.regroup(model, {"branch.0": (3, 2)}, baseline=baseline)
    assert counted(made) < counted(model)


def test_a_depthwise_layer_inside_has_the_width_of_what_it_reads():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(3, 8, 1), nn.ReLU(), nn.Conv1d(8, 8, 3, padding=1, groups=8), nn.Softsign(), nn.Conv1d(8, 6, 1),
        nn.ReLU(), nn.Conv1d(6, 2, 1), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
    )  # fmt: skip
    x = torch.randn(1, 3, 5)
    baseline = collegium.describe(model, x)
    asked = {"space": {"widths": [[4, 3]]}, "network": {"relative_error": 0.3, "images": 1}}
    plain = measured(model, baseline, example_input=x, **asked)
    assert not [note for note in plain.notes if note.kind == "parts_unsearched"]
    (row,) = plain.curve
    m = row.primal_multiplicity
    assert row.primal_parameters == m * (3 * 4 + 4 + 3 * 4 + 4 + 4 * 3 + 3 + 3 * 2) + 2
    assert counted(collegium.regroup(model, {"0": (m, [4, 3])}, baseline=baseline)) == row.primal_parameters


def test_tokens_kept_parameters_and_named_arguments():
    torch.manual_seed(1)
    model, ids = Tokens(), torch.randint(0, 11, (3, 4))
    baseline = collegium.describe(model, {"ids": ids[:1]})
    asked = {"space": {"widths": [2, 3]}, "network": {"images": 3, "inputs": 2, "relative_error": 0.4}}
    plain = measured(model, baseline, example_input={"ids": ids}, **asked)
    assert plain.primal is not None
    assert [row.primal_multiplicity > 1 for row in plain.curve] == [True, True]
    unknown = baseline.model_copy(update={"graph": None})  # nothing says that it reads integers
    with pytest.raises(InvalidSpec, match=r"example_input: the module does not take it .*'example_input'"):
        measured(model, unknown)


def test_groups_are_searched_within_their_shares_and_measured_together():
    torch.manual_seed(2)
    first = nn.Sequential(nn.Linear(8, 16), nn.Softsign(), nn.Linear(16, 16), nn.Softsign(), nn.Linear(16, 8))
    second = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 8))

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = first, second, nn.Linear(8, 2)

        def forward(self, x):
            x = x + self.first(x)
            return self.head(x + self.second(x))

    model = Two()
    baseline = collegium.describe(model, torch.randn(1, 8))
    plain = measured(model, baseline, space={"min_width": 3, "max_width": 8, "multiple_of": 2})
    assert len(plain.branches) == 2
    assert plain.primal.parameters <= 1.025 * counted(model)
    assert counted(collegium.regroup(model, plain.primal)) == plain.primal.parameters
    assert plain.network.network("primal").parameters == plain.primal.parameters


def test_a_compiled_module_is_measured_as_its_code_says():
    def compiled(*_):
        raise AssertionError("compiled")

    torch.manual_seed(0)
    module, x = torch.compile(mlp((4, 12, 12, 2), nn.Tanh), backend=compiled), torch.zeros(1, 4)
    found = measured(module, collegium.describe(module, x), network={"relative_error": 0.5})
    assert found.primal.multiplicity > 1
    with pytest.raises(RuntimeError, match="AssertionError: compiled"):
        module(x)


def test_what_cannot_be_split_ends_as_nothing_to_gain():
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3))
    baseline = collegium.describe(model, torch.randn(1, 4))
    plain = measured(model, baseline)
    assert (plain.outcome.kind, plain.primal, plain.samples) == ("nothing_to_gain", None, 0)
    assert "a single hidden layer has nothing to gain" in plain.outcome.message


def test_a_budget_that_buys_no_two_members_is_an_outcome(searched):
    model, baseline, *_ = searched
    plain = measured(model, baseline, budget=30)
    assert plain.outcome.kind == "infeasible_budget"
    assert plain.primal is None


def test_a_small_budget_buys_what_is_best_there(searched):
    model, baseline, *_ = searched
    plain = measured(model, baseline, budget=300, space={"widths": [3]}, network={"parameterization": "ntk"})
    assert plain.primal.parameters <= 300
    assert plain.primal.relative_variance > 1
    assert "of the budget" in plain.outcome.message


def test_a_report_receives_the_cost_first_and_ends_the_search(searched):
    model, baseline, *_ = searched
    said = []

    class Stop(Exception):
        pass

    def report(fraction, message):
        said.append((fraction, message))
        if "initializations" in message:
            raise Stop

    before = threading.active_count()
    with pytest.raises(Stop):
        measured(model, baseline, report=report, network={"relative_error": 0.01})
    assert threading.active_count() == before
    assert "one draw of the baseline takes" in said[1][1]
    assert "all end after 600 s" in said[1][1]
    fractions = [fraction for fraction, _ in said]
    assert fractions == sorted(fractions)


def test_time_that_runs_out_is_said(searched):
    model, baseline, *_ = searched
    plain = measured(model, baseline, network={"relative_error": 0.005, "max_seconds": 1.0})
    assert plain.seconds < 30
    assert plain.network.outcome == "not_converged"
    assert {"not_converged", "network_uncertain"} & {plain.outcome.kind, *(note.kind for note in plain.notes)}


def refused(path, searched, model=None, **fields):
    given, baseline, *_ = searched
    with pytest.raises(InvalidSpec) as caught:
        find_ensemble(fields.pop("baseline", baseline), model=model or given, **fields)
    assert caught.value.path == path
    return str(caught.value)


def test_what_makes_no_sense_is_refused_by_field(searched):
    given, baseline, *_ = searched
    other = mlp((16, 24, 24, 24, 2))
    assert "describe this model" in refused(("baseline", "parameters"), searched, model=other)
    assert "collegium.describe" in refused(("baseline",), searched, baseline="resnet50")
    assert "'plain'" in refused(("estimator", "method"), searched, estimator={"method": "exact"})
    refused(("efficiency",), searched, efficiency="latency")
    refused(("space", "mode"), searched, space={"mode": "vector"})
    refused(("inputs", "pair"), searched, inputs={"pair": {"cosine": 0.5}})
    refused(("network", "pixels"), searched, network={"pixels": 8})
    refused(("network", "inputs"), searched, network={"inputs": 4}, example_input=torch.randn(3, 16))
    refused(("network", "images"), searched, network={"images": 4}, example_input=torch.randn(3, 16))
    refused(("estimator", "relative_error"), searched, estimator={"relative_error": 0.001})
    assert "(16,) was described" in refused(("example_input",), searched, example_input=torch.randn(3, 15))
    refused(("example_input",), searched, example_input=(torch.randn(3, 16), torch.randn(3, 16)))
    refused(("example_input",), searched, example_input=torch.full((2, 16), torch.nan))
    with torch.device("meta"):
        empty = mlp()
    assert "'meta'" in refused(("model",), searched, model=empty)
    constant = mlp()
    nn.init.zeros_(constant[0].weight)
    assert "not a positive number" in refused(("model",), searched, model=constant)
    held = copy.deepcopy(searched[0])
    held.held = (each for each in ())  # a generator has no copy
    assert "cannot be copied: cannot pickle 'generator' object (its attribute 'held')" in refused(
        ("model",), searched, model=held
    )
    with pytest.raises(InvalidSpec, match="find_ensemble\\(baseline, model=model\\)"):
        find_ensemble(baseline, estimator={"method": "plain"})
    with pytest.raises(InvalidSpec, match="it goes with 'model'"):
        find_ensemble(baseline, example_input=torch.randn(1, 16))
    assert all(parameter.grad is None for parameter in given.parameters())
