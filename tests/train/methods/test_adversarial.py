"""Algorithms D.1 and D.2: p goes where the loss is larger, and is mixed with noise by how far it went."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from collegium.train.majority.draw import probabilities
from collegium.train.majority.kernel import majority_kernels, mixing
from collegium.train.methods import create
from collegium.train.methods.parametrizations.adversarial import adversarial_probabilities, divergence_from_uniform


def copies_of(model):
    return [parameter for parameter in model.parameters() if parameter.dim() == 3]


def mean_gradients(model, batch, compute_loss):
    """∂L/∂w at the mean of the copies, by the plain network."""
    plain = create("majority").finish(copy.deepcopy(model))
    compute_loss(plain, batch)[0].backward()
    return [parameter.grad for parameter in plain.parameters() if parameter.dim() == 2]


@pytest.mark.parametrize("relative", [True, False])
def test_d1_is_the_gradient_at_the_ascended_p(task, relative):
    """p ← normalise(1/e + ε w_k ∘ ∂L/∂w), then the gradient of the copies is p_k ∘ ∂L/∂w at that p."""
    method = create("adversarial", step_size=0.05 if relative else 5.0, relative=relative)
    model, batch = method.prepare(task.model(), seed=0), task.batch()
    slopes = mean_gradients(model, batch, task.compute_loss)
    method.step(model, [batch], task.compute_loss, step=0)
    weights, expected = [], []
    for copies, slope in zip(copies_of(model), slopes, strict=True):
        ascent = copies.detach() * slope
        if relative:
            ascent = ascent / ascent.square().mean().sqrt()
        p = (1 / 3 + method.options.step_size * ascent).clamp(min=0)
        p = p / p.sum(0)
        torch.testing.assert_close(
            adversarial_probabilities(copies.detach(), slope, method.options.step_size, relative=relative), p
        )
        weights.append((p * copies.detach()).sum(0).requires_grad_())
        expected.append(p)
    x = functional.relu(functional.linear(batch[0], weights[0], model[0].bias.detach()))
    functional.cross_entropy(functional.linear(x, weights[1], model[2].bias.detach()), batch[1]).backward()
    for copies, weight, p in zip(copies_of(model), weights, expected, strict=True):
        torch.testing.assert_close(copies.grad, p * weight.grad, rtol=1e-4, atol=1e-7)


def test_the_ascent_raises_the_loss(task):
    """A small step along ∂L/∂p is uphill from the mean of the copies."""
    method = create("adversarial", step_size=0.05)
    model, batch = method.prepare(task.model(), seed=0), task.batch()
    with mixing(model, "mean"), torch.no_grad():
        at_mean = task.compute_loss(model, batch)[0]
    assert method.step(model, [batch], task.compute_loss, step=0).loss > at_mean


def test_d2_with_u_zero_is_majority_majority_kernels(task):
    """Where the ascent does not move p, what is left is Algorithm 2.1 with the same draws."""
    batch = task.batch()
    tilted, random = create("adversarial_majority", step_size=1e-30), create("majority")
    one, two = tilted.prepare(task.model(), seed=5), random.prepare(task.model(), seed=5)
    first = tilted.step(one, [batch], task.compute_loss, step=4)
    second = random.step(two, [batch], task.compute_loss, step=4)
    torch.testing.assert_close(first.loss, second.loss)
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)


def test_d2_mixes_by_u(task):
    method = create("adversarial_majority", step_size=0.3)
    model, batch = method.prepare(task.model(), seed=0), task.batch()
    slopes = mean_gradients(model, batch, task.compute_loss)
    method.step(model, [batch], task.compute_loss, step=7)
    for kernel, copies, slope in zip(majority_kernels(model).values(), copies_of(model), slopes, strict=True):
        worst = adversarial_probabilities(copies.detach(), slope, 0.3)
        u = divergence_from_uniform(worst)
        p = u * worst + (1 - u) * probabilities(kernel.draw, 3, slope.shape)
        torch.testing.assert_close(copies.grad, p * copies.grad.sum(0), rtol=1e-4, atol=1e-6)
        assert 0 < float(u.mean()) < 1


def test_u_is_the_divergence_in_units_of_its_largest_value():
    uniform, vertex = torch.full((3, 1), 1 / 3), torch.tensor([[1.0], [0.0], [0.0]])
    half = torch.tensor([[0.5], [0.5], [0.0]])
    u = divergence_from_uniform(torch.cat([uniform, vertex, half], 1))
    torch.testing.assert_close(u, torch.tensor([0.0, 1.0, 1 - math.log(2) / math.log(3)]), rtol=0, atol=1e-6)
    assert divergence_from_uniform(torch.ones(1, 2)).tolist() == [0, 0]


def test_p_stays_on_the_simplex_whatever_the_step():
    torch.manual_seed(0)
    copies, slope = torch.randn(3, 50), torch.randn(50)
    for step_size in (0.0, 0.1, 10.0, 1e6):
        p = adversarial_probabilities(copies, slope, step_size)
        assert p.min() >= 0
        torch.testing.assert_close(p.sum(0), torch.ones(50))
    sunk = adversarial_probabilities(-torch.ones(3, 2), torch.ones(2), 10.0, relative=False)
    torch.testing.assert_close(sunk, torch.full((3, 2), 1 / 3))
    torch.testing.assert_close(adversarial_probabilities(copies, torch.zeros(50), 1.0), torch.full((3, 50), 1 / 3))


@pytest.mark.parametrize("name", ["adversarial", "adversarial_majority"])
def test_accumulated_microbatches_share_p(task, name):
    batch, gradients = task.batch(), []
    for parts in (1, 3):
        method = create(name)
        model = method.prepare(task.model(), seed=0)
        method.step(model, list(zip(*(part.chunk(parts) for part in batch), strict=True)), task.compute_loss, step=0)
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, three in zip(*gradients, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-3, atol=1e-6)


def test_the_first_pass_leaves_no_trace(task):
    """Norms see one pass, both passes see the same dropout, and gradients that were there stay."""
    method = create("adversarial", step_size=1e-30)
    model = method.prepare(task.model(norm=True, dropout=0.5), seed=0)
    twin = copy.deepcopy(model)
    model[0].bias.grad = torch.ones(8)
    torch.manual_seed(1)
    output = method.step(model, [task.batch()], task.compute_loss, step=0)
    torch.manual_seed(1)
    with mixing(twin, "mean"):
        loss = task.compute_loss(twin, task.batch())[0]
    torch.testing.assert_close(output.loss, loss.detach())
    assert int(model[1].num_batches_tracked) == 1
    torch.testing.assert_close(model[1].running_mean, twin[1].running_mean)
    loss.backward()
    torch.testing.assert_close(model[0].bias.grad, twin[0].bias.grad + 1)
    assert model[1].track_running_stats


@pytest.mark.parametrize("name", ["adversarial", "adversarial_majority"])
def test_it_learns_and_collapses(task, name):
    method = create(name)
    model = method.prepare(task.model(), seed=0)
    optimizer = method.optimizer(model, torch.optim.Adam(model.parameters(), lr=0.02))
    fixed, losses = [task.batch()], []
    for step in range(60):
        optimizer.zero_grad()
        losses.append(float(method.step(model, fixed, task.compute_loss, step=step).loss))
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert method.sampled(model) is None
    assert type(method.finish(model)[0]) is nn.Linear
