"""p as a parameter of its own: uniform at first, trained with the weights, kept when they collapse."""

import torch
from torch import nn

from collegium.train.methods import create


def test_it_starts_as_the_mean(task):
    method = create("learned")
    model = method.prepare(task.model(), seed=0)
    copies = model[0].parametrizations.weight.original
    torch.testing.assert_close(model[0].weight, copies.mean(0))


def test_gradients_of_copies_and_of_p(task):
    """∂L/∂w_k = p_k ∘ g, and ∂L/∂logit_k = p_k ∘ (w_k − w̄) ∘ g, both from g = ∂L/∂w."""
    method = create("learned")
    model = method.prepare(task.model(), seed=0)
    method.step(model, [task.batch()], task.compute_loss, step=0)
    kernel, copies = model[0].parametrizations.weight[0], model[0].parametrizations.weight.original
    gradient = copies.grad.sum(0)
    torch.testing.assert_close(copies.grad, (gradient / 3).expand(3, -1, -1))
    torch.testing.assert_close(kernel.logits.grad, (copies - copies.mean(0)).detach() * gradient / 3)


def test_p_is_trained_and_the_mixture_is_what_is_left(task):
    method = create("learned", step_size=3.0)
    model = method.prepare(task.model(), seed=0)
    optimizer = method.optimizer(model, torch.optim.Adam(model.parameters(), lr=0.05))
    losses = task.train(method, model, optimizer, steps=3)
    assert len(losses) == 3
    logits = model[0].parametrizations.weight[0].logits
    assert logits.abs().max() > 0
    x = task.batch()[0]
    training, evaluation = model(x), model.eval()(x)
    assert torch.equal(training, evaluation)
    assert method.sampled(model) is None
    finished = method.finish(model)
    assert type(finished[0]) is nn.Linear
    torch.testing.assert_close(finished(x), evaluation)


def test_a_checkpoint_holds_p(task):
    method = create("learned")
    model = method.prepare(task.model(), seed=0)
    task.train(method, model, torch.optim.SGD(model.parameters(), lr=0.5), steps=2)
    other = create("learned").prepare(task.model(seed=1), seed=1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(task.batch()[0]), model(task.batch()[0]))
