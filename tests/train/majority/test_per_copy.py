"""Optimizers for matrices take the steps that they take over separate matrices."""

import copy
import pickle

import pytest
import torch
from torch import nn

from collegium import PerCopy, collapse, expand, fuse

MUON = getattr(torch.optim, "Muon", None)
KINDS = {
    "adam": lambda p, **options: torch.optim.Adam(p, **options),
    "adafactor": lambda p, **options: torch.optim.Adafactor(p, **options),  # its factors depend on the axes
} | ({"muon": MUON} if MUON else {})


def network():
    torch.manual_seed(0)
    return expand(nn.Sequential(nn.Linear(4, 6, bias=False), nn.Tanh(), nn.Linear(6, 3, bias=False)), 3, seed=0)


def backward(model, step):
    model(torch.randn(5, 4, generator=torch.Generator().manual_seed(step))).square().mean().backward()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_each_copy_takes_the_step_of_a_matrix_of_its_own(kind, fused):
    model, twin = network(), network()
    optimizer = PerCopy(model.parameters(), KINDS[kind], lr=0.05)
    if fused:
        assert fuse(optimizer, model) is optimizer
    matrices = [nn.Parameter(row.clone()) for copies in twin.parameters() for row in copies.detach()]
    separate = KINDS[kind](matrices, lr=0.05)
    for step in range(3):
        for group in (*optimizer.param_groups, *separate.param_groups):
            group["lr"] = 0.05 / (step + 1)
        for each in (model, twin):
            each.zero_grad()
            backward(each, step)
        optimizer.step()
        gradients = [row for copies in twin.parameters() for row in copies.grad]
        for matrix, gradient in zip(matrices, gradients, strict=True):
            matrix.grad = gradient
        separate.step()
        with torch.no_grad():
            for copies, rows in zip(twin.parameters(), (matrices[:3], matrices[3:]), strict=True):
                copies.copy_(torch.stack(list(rows)))
        twin[0].parametrizations.weight[0].clock.set_step(step + 1)
        for one, other in zip(model.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_ends_in_the_same_weights(kind):
    def run(steps, first=0, states=None):
        model = network()
        optimizer = PerCopy(model.parameters(), KINDS[kind], lr=0.05)
        if states:
            model.load_state_dict(states[0])
            optimizer.load_state_dict(states[1])
        for step in range(first, first + steps):
            optimizer.zero_grad()
            backward(model, step)
            optimizer.step()
        return model, optimizer

    whole, _ = run(4)
    half = run(2)
    rest, _ = run(2, 2, copy.deepcopy([part.state_dict() for part in half]))
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), rest.parameters(), strict=True))


def test_collapse_is_noticed():
    model = network()
    optimizer = PerCopy(model.parameters(), torch.optim.SGD, lr=0.1)
    collapse(model)
    backward(model, 0)
    with pytest.raises(RuntimeError, match="expanded or collapsed: make the optimizer after that"):
        optimizer.step()
    with pytest.raises(RuntimeError, match="all its groups when it is made"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2))]})


@pytest.mark.parametrize("how", ["deepcopy", "assign", "pickle"])
def test_copies_are_known_as_such_in_models_that_were_copied_or_loaded(how):
    model, twin = network(), network()
    if how == "deepcopy":
        twin = copy.deepcopy(model)
    elif how == "assign":
        twin.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    else:
        twin = pickle.loads(pickle.dumps(model))
    for each in (model, twin):
        optimizer = PerCopy(each.parameters(), KINDS["adafactor"], lr=0.05)
        for step in range(2):
            optimizer.zero_grad()
            backward(each, step)
            optimizer.step()
    assert all(torch.equal(one, other) for one, other in zip(model.parameters(), twin.parameters(), strict=True))


def test_a_copy_trains_its_own_model():
    model = expand(nn.Linear(4, 2), 3, seed=0)
    optimizer = PerCopy(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    for _ in range(2):
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    pairs = [(model, optimizer), copy.deepcopy((model, optimizer))]
    for network, own in pairs:
        network(torch.ones(1, 4)).sum().backward()
        own.step()
    for one, other in zip(model.parameters(), pairs[1][0].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_optimizers_that_need_a_closure_are_refused():
    with pytest.raises(ValueError, match="LBFGS"):
        PerCopy(expand(nn.Linear(4, 2)).parameters(), torch.optim.LBFGS)


class Counting(torch.optim.Optimizer):
    """Steps of size lr over the number of the step, which its groups hold."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr, "number": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["number"] += 1
            for parameter in group["params"]:
                parameter.sub_(parameter.grad, alpha=group["lr"] / group["number"])


def test_what_an_optimizer_counts_in_its_groups_goes_on():
    def run(steps, states=None):
        model = network()
        optimizer = PerCopy(model.parameters(), Counting, lr=0.5)
        if states is not None:
            model.load_state_dict(states[0])
            optimizer.load_state_dict(states[1])
        for step in steps:
            backward(model, step)
            optimizer.step()
            optimizer.zero_grad()
        return model, optimizer

    model, optimizer = run(range(4))
    plain = network()
    rates = Counting(plain.parameters(), lr=0.5)
    for step in range(4):
        backward(plain, step)
        rates.step()
        rates.zero_grad()
    torch.testing.assert_close(list(model.parameters()), list(plain.parameters()))
    assert optimizer.param_groups[0]["number"] == 4
    half, halfway = run(range(2))
    resumed, _ = run(range(2, 4), copy.deepcopy((half.state_dict(), halfway.state_dict())))
    torch.testing.assert_close(list(resumed.parameters()), list(model.parameters()))
