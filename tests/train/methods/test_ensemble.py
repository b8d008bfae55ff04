"""Averages of functions, averages of weights, and what a student learns from the former."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional

from collegium.train.methods import create
from collegium.train.methods.distilled import distillation_loss
from collegium.train.methods.soup import greedy_soup, uniform_soup


def test_an_ensemble_averages_outputs(task):
    models, x = [task.model(seed=seed) for seed in range(3)], task.batch()[0]
    combined = create("ensemble").combine(models, evaluate=None)
    assert combined.models == 3
    torch.testing.assert_close(combined(x), sum(model(x) for model in models) / 3)


def test_an_ensemble_of_models_that_return_logits_with_other_things():
    class Answer(nn.Module):
        config = SimpleNamespace(decoder_start_token_id=0)

        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, *, inputs):
            return SimpleNamespace(logits=inputs * self.value, loss=None)

    combined = create("ensemble", copies=2).combine([Answer(1.0), Answer(3.0)], evaluate=None)
    assert combined(inputs=torch.ones(2)).logits.tolist() == [2, 2]
    assert combined.config.decoder_start_token_id == 0


def test_a_uniform_soup_averages_weights_and_leaves_its_ingredients(task):
    models = [task.model(seed=seed, norm=True) for seed in range(3)]
    before = copy.deepcopy(models[0].state_dict())
    soup = create("soup", soup="uniform").combine(models, evaluate=None)
    torch.testing.assert_close(soup[0].weight, sum(model[0].weight for model in models).detach() / 3)
    assert soup[1].num_batches_tracked == models[0][1].num_batches_tracked
    torch.testing.assert_close(dict(models[0].state_dict()), dict(before))


def test_a_greedy_soup_takes_in_what_does_not_harm():
    def model(value):
        made = nn.Linear(1, 1, bias=False)
        nn.init.constant_(made.weight, value)
        return made

    def evaluate(model):  # best at 1
        return -abs(model.weight.item() - 1)

    models = [model(0.5), model(0.9), model(1.1), model(3.0)]
    assert greedy_soup(models, evaluate).weight.item() == pytest.approx(1.0)  # 0.9 and 1.1, not 0.5, not 3
    assert evaluate(greedy_soup(models, evaluate)) >= max(map(evaluate, models))
    assert evaluate(uniform_soup(models)) < evaluate(greedy_soup(models, evaluate))
    assert create("soup").combine(models, evaluate).weight.item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="'greedy' or 'uniform'"):
        create("soup", soup="best")


def test_soups_share_a_start_and_ensembles_do_not():
    assert create("soup").shared_start
    assert not create("ensemble").shared_start
    assert not create("distilled").shared_start


def test_distillation_loss_is_the_divergence_of_the_distributions():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    for temperature in (1.0, 3.0):
        target, guess = functional.softmax(teacher / temperature, -1), functional.softmax(student / temperature, -1)
        expected = temperature**2 * (target * (target / guess).log()).sum(-1).mean()
        torch.testing.assert_close(distillation_loss(student, teacher, temperature), expected)
    assert float(distillation_loss(teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-6)
    counted = torch.tensor([True, False, True, False, False, True])
    picked = distillation_loss(student[counted], teacher[counted], 1.0)
    torch.testing.assert_close(distillation_loss(student, teacher, 1.0, counted), picked)


@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 1.0), (0.3, 2.0)])
def test_a_student_follows_the_mean_of_its_teachers(task, alpha, temperature):
    method = create("distilled", alpha=alpha, temperature=temperature)
    teachers, student, (x, y) = [task.model(seed=seed) for seed in (1, 2, 3)], task.model(), task.batch()
    assert method.combine(teachers, evaluate=None) is None
    output = method.step(student, [(x[:4], y[:4]), (x[4:], y[4:])], task.compute_loss, step=0, weights=[4 / 12, 8 / 12])
    twin = task.model()
    logits, target = twin(x), sum(teacher(x) for teacher in teachers).detach() / 3
    labels, apart = functional.cross_entropy(logits, y), distillation_loss(logits, target, temperature)
    ((1 - alpha) * labels + alpha * apart).backward()
    torch.testing.assert_close(student[0].weight.grad, twin[0].weight.grad)
    torch.testing.assert_close(output.loss, labels.detach())
    torch.testing.assert_close(output.extra["distillation"], ((1 - alpha) * labels + alpha * apart).detach())
    assert all(parameter.grad is None for teacher in teachers for parameter in teacher.parameters())


def test_tokens_without_a_label_do_not_count(task):
    method = create("distilled", copies=1)

    def compute_loss(model, batch):
        logits = model(batch[0])
        return functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten()), logits

    torch.manual_seed(0)
    x, y = torch.randn(2, 3, 5), torch.tensor([[0, 1, -100], [2, -100, -100]])
    teacher, student = task.model(seed=1), task.model()
    method.combine([teacher], evaluate=None)
    output = method.step(student, [(x, y)], compute_loss, step=0)
    kept = y != -100
    expected = distillation_loss(task.model()(x[kept]), teacher(x[kept]), 1.0)
    torch.testing.assert_close(output.extra["distillation"], expected.detach())


def test_a_student_needs_teachers(task):
    with pytest.raises(RuntimeError, match="train the teachers"):
        create("distilled").step(task.model(), [task.batch()], task.compute_loss, step=0)
    with pytest.raises(ValueError, match="alpha"):
        create("distilled", alpha=2)


def test_a_student_comes_near_its_teachers(task):
    method = create("distilled")
    teachers, student, batch = [task.model(seed=seed) for seed in (1, 2, 3)], task.model(), task.batch(64)
    method.combine(teachers, evaluate=None)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    apart = []
    for step in range(100):
        optimizer.zero_grad()
        apart.append(float(method.step(student, [batch], task.compute_loss, step=step).extra["distillation"]))
        optimizer.step()
    assert apart[-1] < 0.1 * apart[0]
