"""Sharpness-aware minimization: the gradient at θ + ρ ∇L/‖∇L‖, and θ as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from collegium.train.methods import create


def worst_gradient(model, batch, compute_loss, rho):
    """By torch.func, without a method: ∇L(θ + ρ ∇L(θ) / ‖∇L(θ)‖) and L there, in double precision."""
    model = copy.deepcopy(model).double()
    x, y = batch[0].double(), batch[1]
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(weights):
        return functional.cross_entropy(torch.func.functional_call(model, weights, (x,)), y)

    slope = torch.func.grad(loss)(weights)
    norm = sum(part.square().sum() for part in slope.values()).sqrt()
    worst = {name: weights[name] + rho * slope[name] / norm for name in weights}
    return torch.func.grad(loss)(worst), loss(worst)


@pytest.mark.parametrize("rho", [0.05, 1.0])
@pytest.mark.parametrize("parts", [1, 3])
def test_the_gradient_is_that_at_the_worst_point(task, rho, parts):
    model, (x, y) = task.model(), task.batch()
    before = copy.deepcopy(model.state_dict())
    pieces = list(zip(x.tensor_split([2, 7]), y.tensor_split([2, 7]), strict=True)) if parts == 3 else [(x, y)]
    shares = [len(labels) / len(y) for _, labels in pieces]
    expected, loss = worst_gradient(model, (x, y), task.compute_loss, rho)
    output = create("sam", rho=rho).step(model, pieces, task.compute_loss, step=0, weights=shares)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad.double(), expected[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(output.loss.double(), loss, rtol=1e-5, atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())  # bit for bit


def test_the_loss_there_is_larger(task):
    model, batch = task.model(), task.batch()
    at = task.compute_loss(model, batch)[0]
    assert create("sam").step(model, [batch], task.compute_loss, step=0).loss > at


def test_a_step_gathers_the_statistics_of_norms_once(task):
    model, batch = task.model(norm=True), task.batch()
    twin = copy.deepcopy(model)
    create("sam", rho=1.0).step(model, [batch], task.compute_loss, step=0)
    create("vanilla").step(twin, [batch], task.compute_loss, step=0)
    torch.testing.assert_close(dict(model.named_buffers()), dict(twin.named_buffers()), rtol=0, atol=0)
    assert model[1].track_running_stats
    assert not torch.allclose(model[0].weight.grad, twin[0].weight.grad)


def test_frozen_norms_keep_normalizing_by_their_statistics(task):
    model, batch = task.model(norm=True), task.batch()
    model[1].eval().requires_grad_(False)
    nn.init.constant_(model[1].running_var, 4.0)
    seen = []
    model[1].register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].detach(), output.detach())))
    create("sam").step(model, [batch], task.compute_loss, step=0)
    for entered, left in seen:
        torch.testing.assert_close(left, entered / (4 + model[1].eps) ** 0.5)
    assert len(seen) == 2


def test_both_passes_drop_the_same_units(task):
    model, masks = task.model(dropout=0.5), []
    model[1].register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    x, y = task.batch()
    create("sam").step(model, [(x[:6], y[:6]), (x[6:], y[6:])], task.compute_loss, step=0)
    assert torch.equal(torch.cat(masks[:2]), torch.cat(masks[2:]))
    assert not torch.equal(masks[0], masks[1])
    create("sam").step(model, [(x, y)], task.compute_loss, step=1)
    assert not torch.equal(masks[4], torch.cat(masks[:2]))  # the next step draws anew


def test_weights_without_a_gradient_stay_where_they_are(task):
    model, batch = task.model(), task.batch()
    model[0].requires_grad_(False)
    moved = []
    model[2].register_forward_hook(
        lambda module, inputs, output: moved.append([p.detach().clone() for p in model.parameters()])
    )
    create("sam", rho=0.5).step(model, [batch], task.compute_loss, step=0)
    first, second = moved
    assert torch.equal(first[0], second[0])
    distance = sum(float((a - b).square().sum()) for a, b in zip(first, second, strict=True)) ** 0.5
    assert distance == pytest.approx(0.5, rel=1e-5)
    assert model[0].weight.grad is None


def test_where_the_loss_is_flat_the_weights_stay_finite(task):
    def flat(model, batch):
        logits = model(batch[0])
        return logits.sum() * 0, logits

    model = task.model()
    output = create("sam").step(model, [task.batch()], flat, step=0)
    assert output.loss == 0
    assert all(torch.equal(p.grad, torch.zeros_like(p)) and p.isfinite().all() for p in model.parameters())


def test_a_batch_that_raises_leaves_the_weights(task):
    model, calls = task.model(norm=True), []
    before = copy.deepcopy(dict(model.named_parameters()))

    def failing(model, batch):
        calls.append(batch)
        if len(calls) == 2:
            raise OSError("no data")
        return task.compute_loss(model, batch)

    with pytest.raises(OSError, match="no data"):
        create("sam").step(model, [task.batch()], failing, step=0)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert model[1].track_running_stats
