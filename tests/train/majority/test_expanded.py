"""What an expanded model keeps: p of a step for all its passes, its draws by seed, its state in copies and on disk."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn

from collegium import collapse, expand, set_step
from collegium.train.majority.draw import probabilities
from collegium.train.majority.kernel import majority_kernels


def mlp(*widths):
    torch.manual_seed(0)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def p_of(model, index):
    """p of the kernel number ``index``, as of now."""
    kernel = list(majority_kernels(model).values())[index]
    originals = [parameter for name, parameter in model.named_parameters() if name.endswith(".original")]
    return probabilities(kernel.draw, kernel.expansion, originals[index].shape[1:])


def test_microbatches_of_one_step_share_p_and_the_next_step_has_another():
    model, x = expand(mlp(4, 8, 3), 3, seed=0), torch.randn(6, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    whole = copy.deepcopy(model)
    (whole(x).sum() / 6).backward()
    for part in x.chunk(2):
        (model(part).sum() / 6).backward()
    for accumulated, at_once in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(accumulated.grad, at_once.grad)
    first = model[0].weight.detach().clone()
    assert torch.equal(model[0].weight, first)
    optimizer.step()
    assert not torch.isclose(model[0].weight, first).all()


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_every_optimizer_s_step_is_noticed(options):
    model, x = expand(mlp(4, 8, 3), 3, seed=0), torch.randn(6, 4)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, **options)
    steps, means = [], []
    for _ in range(3):
        model.train()(x).sum().backward()
        steps.append(next(iter(majority_kernels(model).values())).clock.step)
        optimizer.step()
        with torch.no_grad():
            means.append(model.eval()[0].weight)
    assert steps == [0, 1, 2]
    assert not torch.equal(means[0], means[1])


def test_updates_that_leave_no_trace_are_seen_all_the_same():
    model, x = expand(nn.Linear(4, 3), 3, seed=0), torch.randn(6, 4)
    copies = model.parametrizations.weight.original
    for _ in range(2):
        model(x).square().sum().backward()
        copies.data.sub_(0.1 * copies.grad)
        torch.testing.assert_close(model.weight, (p_of(model, 0) * copies).sum(0))
        torch.testing.assert_close(model.eval().weight, copies.mean(0))
        model.train()


def test_a_loop_may_set_the_step_itself():
    model = expand(nn.Linear(4, 3), 3, seed=0)
    seen = []
    for step in (5, 6, 5):
        set_step(model, step)
        seen.append(model.weight.detach().clone())
    assert torch.equal(seen[0], seen[2])
    assert not torch.isclose(seen[0], seen[1]).any()


def test_seed_determines_copies_and_draws():
    def weight(seed):
        torch.manual_seed(0)
        return expand(nn.Linear(4, 3), 3, seed=seed).weight

    assert torch.equal(weight(1), weight(1))
    assert not torch.equal(weight(1), weight(2))
    torch.manual_seed(4)
    first = expand(nn.Linear(4, 3), 3)
    torch.manual_seed(4)
    assert torch.equal(first.weight, expand(nn.Linear(4, 3), 3).weight)


def test_kernels_of_one_shape_have_their_own_p():
    model = expand(mlp(4, 4, 4), 3, seed=0)
    assert not torch.isclose(p_of(model, 0), p_of(model, 1)).any()


def test_state_dict_round_trip_continues_the_draws():
    model = expand(mlp(4, 8, 3), 3, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(5, 4)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()
    other = expand(mlp(4, 8, 3), 3, seed=99)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))


def test_deepcopy_goes_its_own_way():
    model, x = expand(mlp(4, 8, 3), 3, seed=0), torch.randn(5, 4)
    before = model(x)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(x), before)
    set_step(twin, 7)
    assert torch.equal(model(x), before)
    assert not torch.equal(twin(x), before)
    collapse(twin)
    assert torch.equal(model(x), before)  # torch's own removal would take the weight from both
    assert len(majority_kernels(model)) == 2
    collapse(model)
    assert {type(layer) for each in (model, twin) for layer in each} == {nn.Linear, nn.ReLU}
    first = expand(mlp(4, 8, 3), 3, seed=0)
    second = copy.deepcopy(first)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (first, second)]
    for _ in range(3):  # each moves on with its own optimizer alone
        for each, optimizer in zip((first, second), optimizers, strict=True):
            each(x).square().sum().backward()
            optimizer.step()
    assert torch.equal(first(x), second(x))
