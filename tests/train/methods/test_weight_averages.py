"""EMA and SWA: which weights enter with which share, at which learning rates, and what is left in the end."""

import copy
import doctest

import pytest
import torch
from torch import nn

from collegium.search.errors import InvalidSpec
from collegium.train.loop.optimization import rate_at
from collegium.train.methods import create, ema, swa
from collegium.train.models import running_average
from collegium.train.spec.recipes import Recipe


def walk(method, task, steps, *, norm=False):
    """Random weights in place of an optimizer's; the prepared model and all that it was, the start first."""
    generator = torch.Generator().manual_seed(7)
    model = method.prepare(task.model(norm=norm), seed=0)
    visited = [copy.deepcopy(model.trained)]
    for step in range(steps):
        with torch.no_grad():
            for tensor in (*model.trained.parameters(), *model.trained.buffers()):
                if tensor.is_floating_point():
                    tensor.copy_(torch.rand(tensor.shape, generator=generator))
                else:
                    tensor.add_(1)
        method.after_step(model, step=step)
        visited.append(copy.deepcopy(model.trained))
    return model, visited


def weighted(visited, shares):
    """Σ shares_i θ_i / Σ shares_i in double precision, real buffers included."""
    states = [model.state_dict() for model in visited]
    return {
        name: sum(share * state[name].double() for share, state in zip(shares, states, strict=True)) / sum(shares)
        for name, value in states[0].items()
        if value.is_floating_point()
    }


def assert_average(model, expected):
    found = {name: value.double() for name, value in model.state_dict().items() if value.is_floating_point()}
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("decay", "steps"), [(0.0, 4), (0.5, 6), (0.9, 12), (0.999, 12)])
def test_a_corrected_ema_is_the_mean_weighted_by_age(task, decay, steps):
    """Σ d^age θ / Σ d^age, which no first model dominates."""
    method = create("ema", decay=decay, warmup=False)
    model, visited = walk(method, task, steps, norm=True)
    shares = [decay**age for age in reversed(range(steps))]
    assert_average(method.finish(model), weighted(visited[1:], shares))


@pytest.mark.parametrize("decay", [0.2, 0.9])
def test_the_decay_of_an_ema_rises_with_its_age(task, decay):
    method = create("ema", decay=decay)
    model, visited = walk(method, task, 40)
    decays = [0.0, *(min(decay, (1 + t) / (10 + t)) for t in range(1, 40))]
    shares = []
    for kept in decays:
        shares = [share * kept for share in shares] + [1 - kept]
    assert sum(shares) == pytest.approx(1)
    assert_average(method.finish(model), weighted(visited[1:], shares))


@pytest.mark.parametrize(
    ("start", "every", "taken"), [(0.0, 1, range(8)), (0.75, 1, (6, 7)), (0.4, 2, (3, 5, 7)), (0.76, 1, (6, 7))]
)
def test_swa_is_the_plain_mean_of_the_steps_from_its_start_on(task, start, every, taken):
    method = create("swa", start=start, every=every)
    method.rates(lambda step: 0.1, steps=8)
    model, visited = walk(method, task, 8, norm=True)
    shares = [float(step in taken) for step in range(8)]
    assert_average(method.finish(model), weighted(visited[1:], shares))


def test_before_it_begins_swa_is_the_model_of_the_last_step(task):
    method = create("swa", start=0.8)
    method.rates(lambda step: 0.1, steps=10)
    model, visited = walk(method, task, 5)
    x = task.batch()[0]
    torch.testing.assert_close(model.eval()(x), visited[-1](x))
    assert_average(method.finish(model), weighted(visited[-1:], [1.0]))


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_counts_of_batches_are_the_newest_and_training_sees_no_average(task, name):
    method = create(name)
    method.rates(lambda step: 0.1, steps=4)
    model, visited = walk(method, task, 4, norm=True)
    x = task.batch()[0]
    torch.testing.assert_close(model.train()(x), visited[-1].train()(x))
    model.eval()
    assert not torch.allclose(model(x), visited[-1].eval()(x))
    assert method.finish(model)[1].num_batches_tracked == 4


@pytest.mark.parametrize("name", ["ema", "swa"])
def test_the_averages_of_frozen_weights_are_frozen_and_of_tied_ones_tied(task, name):
    plain = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    plain[1].weight = plain[0].weight
    plain[2].requires_grad_(False)
    before = plain[2].weight.clone()
    method = create(name)
    method.rates(lambda step: 0.1, steps=3)
    model = method.prepare(plain, seed=0)
    assert sum(parameter.requires_grad for parameter in model.parameters()) == 3
    for step in range(3):
        with torch.no_grad():
            plain[0].weight.add_(1)
        method.after_step(model, step=step)
    left = method.finish(model)
    assert left[1].weight is left[0].weight
    assert torch.equal(left[2].weight, before)
    assert [parameter.requires_grad for parameter in left.parameters()] == [True, True, True, False, False]


@pytest.mark.parametrize(("given", "constant"), [(0.5, 0.5), (None, 1 / 7)])
def test_the_rate_of_swa_is_constant_from_its_start_on(given, constant):
    rates = create("swa", start=0.6, learning_rate=given).rates(lambda step: 1 / (1 + step), steps=10)
    expected = [1 / (1 + step) for step in range(6)] + [constant] * 4
    assert [rates(step) for step in range(10)] == pytest.approx(expected)


@pytest.mark.parametrize(("percent", "epochs", "steps"), [(70, 30, 3), (58, 50, 1), (58, 50, 469), (82, 50, 391)])
def test_an_average_begins_with_the_epoch_that_its_share_names(percent, epochs, steps):
    """As decimal fractions say, whose products are rounded: 0.7 · 90 to less than 63. Where the schedule's milestone is
    there, the rate of the step before is another one.
    """
    milestone = percent * epochs // 100
    recipe = Recipe(epochs=epochs, schedule="multistep", milestones=(milestone,), factor=0.1, learning_rate=1.0)
    rates = create("swa", start=percent / 100).rates(rate_at(recipe, steps), steps=epochs * steps)
    first = milestone * steps
    assert [rates(step) for step in (first - 1, first, epochs * steps - 1)] == pytest.approx([1.0, 0.1, 0.1])


def test_other_methods_keep_the_recipes_rates():
    def rate(step):
        return 0.1

    assert all(create(name).rates(rate, steps=10) is rate for name in ("vanilla", "majority", "ema", "sam"))


def test_swa_does_not_take_a_rate_of_the_warm_up_for_its_own():
    recipe = Recipe(epochs=10, warmup_epochs=5)
    for options in ({"start": 0.5}, {"start": 0.1, "learning_rate": 0.01}):
        create("swa", **options).check(recipe)
    with pytest.raises(InvalidSpec, match=r"still rises there, until 0\.5 of the training") as raised:
        create("swa", start=0.49).check(recipe)
    assert raised.value.path == ("expansion", "start")


@pytest.mark.parametrize(
    ("start", "every", "steps", "path"),
    [
        (0.5, 10, 20, ("expansion", "every")),
        (0.5, 9, 20, None),
        (0.5, 99, 20, ("expansion", "every")),
        (0.5, 5, 2, None),
        (0.99, 1, 90, ("expansion", "start")),
        (0.97, 1, 90, None),
        (0.75, 1, 4, None),
    ],
)
def test_swa_that_would_average_one_model_of_several_is_refused(start, every, steps, path):
    method = create("swa", start=start, every=every)
    if path is None:
        method.rates(lambda step: 1.0, steps=steps)
        return
    with pytest.raises(InvalidSpec, match=r"has 10 steps|the last one alone") as raised:
        method.rates(lambda step: 1.0, steps=steps)
    assert raised.value.path == path


def test_swa_needs_the_number_of_steps(task):
    method = create("swa")
    with pytest.raises(RuntimeError, match="ask for the learning rates first"):
        method.after_step(method.prepare(task.model(), seed=0), step=0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ema", {"decay": 1.0}), ("ema", {"decay": -0.1}), ("ema", {"decay": float("nan")}), ("swa", {"start": 1.0}),
        ("swa", {"learning_rate": 0}), ("swa", {"every": 0}), ("sam", {"rho": 0}), ("sam", {"rho": float("inf")}),
    ],
)  # fmt: skip
def test_options_out_of_range_are_refused_by_name(name, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        create(name, **options)


@pytest.mark.parametrize("module", [ema, swa, running_average], ids=lambda module: module.__name__)
def test_examples_run(module):
    failed, run = doctest.testmod(module)
    assert (failed, run > 0) == (0, True)
