"""When p is drawn anew: once for each step of an optimizer, whatever happens within it."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from collegium import collapse, expand, fuse, set_step
from collegium.train.majority.draw import probabilities
from collegium.train.majority.kernel import majority_clocks, majority_kernels, mixing


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def step_of(model):
    return majority_clocks(model)[0].step


def copies_of(layer):
    return layer.parametrizations.weight.original


class Noting(nn.Module):
    """Notes the first layer's weight and the step of every forward pass."""

    def __init__(self, model):
        super().__init__()
        self.model, self.steps, self.weights = model, [], []
        model[0].register_forward_hook(self._note)

    def _note(self, layer, *_):
        self.steps.append(step_of(self.model))
        self.weights.append(layer.weight.detach().clone())

    def forward(self, x):
        return self.model(x).square().mean()


class SharpnessAware(torch.optim.Optimizer):
    """Foret et al. 2021: the gradient at the point that a step uphill leads to."""

    def __init__(self, parameters, lr):
        super().__init__(parameters, {"lr": lr})
        self.base = torch.optim.SGD(self.param_groups, lr=lr)

    def step(self, closure):
        closure = torch.enable_grad()(closure)
        closure()
        uphill = [(p, 0.05 * p.grad) for group in self.param_groups for p in group["params"]]
        with torch.no_grad():
            for p, move in uphill:
                p.add_(move)
        closure()
        with torch.no_grad():
            for p, move in uphill:
                p.sub_(move)
        self.base.step()


@pytest.mark.parametrize("kind", ["lbfgs", "sharpness-aware"])
def test_all_passes_of_one_step_have_one_p(kind):
    noting, x = Noting(expand(network(), 3, seed=0)), torch.randn(16, 4)
    parameters = noting.model.parameters()
    optimizer = torch.optim.LBFGS(parameters, max_iter=5) if kind == "lbfgs" else SharpnessAware(parameters, 0.1)

    def closure():
        optimizer.zero_grad()
        loss = noting(x)
        loss.backward()
        return loss

    for _ in range(2):
        optimizer.step(closure)
    first = noting.steps.count(0)
    assert first > 1
    assert noting.steps == [0] * first + [1] * (len(noting.steps) - first)
    p = probabilities(next(iter(majority_kernels(noting.model).values())).draw, 3, (8, 4))
    assert step_of(noting.model) == 2
    assert not torch.equal(p, torch.full_like(p, 1 / 3))


def test_a_step_that_is_set_is_held_until_the_optimizer_has_taken_it():
    noting, x = Noting(expand(network(), 3, seed=0)), torch.randn(16, 4)
    optimizer = torch.optim.LBFGS(noting.model.parameters(), max_iter=4)

    def closure():
        optimizer.zero_grad()
        loss = noting(x)
        loss.backward()
        return loss

    for step in (5, 9):
        set_step(noting.model, step)
        optimizer.step(closure)
    assert set(noting.steps) == {5, 9}


def test_a_line_search_without_gradients_sees_the_p_of_its_step():
    model, x = expand(network(), 3, seed=0), torch.randn(16, 4)
    model[1].momentum = 0.0
    loss = model(x).square().mean()
    loss.backward()
    with torch.no_grad():
        assert torch.equal(model(x).square().mean(), loss)


def test_passes_in_training_mode_that_are_not_differentiated_take_the_mean():
    model, x = expand(network(), 3, seed=0), torch.randn(32, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model(x).sum().backward()
        optimizer.step()
    mean = copies_of(model[0]).detach().mean(0)
    update_bn([x], model)
    expected = (x @ mean.T + model[0].bias.detach()).mean(0)
    torch.testing.assert_close(model[1].running_mean, expected)


@pytest.mark.parametrize("fused", [False, True])
def test_other_optimizers_and_other_models_do_not_end_the_step(fused):
    model, x = expand(network(), 3, seed=0), torch.randn(8, 4)
    other, twin = nn.Linear(4, 3), copy.deepcopy(model)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (model, other, twin)]
    if fused:
        fuse(optimizers[0], model)
    for each in (model, other, twin):
        each(x).sum().backward()
    for optimizer in optimizers[1:]:
        optimizer.step()
    assert (step_of(model), step_of(twin)) == (0, 1)
    optimizers[0].step()
    optimizers[0].step()  # without a pass between
    assert step_of(model) == 1


def test_parts_of_a_model_go_their_own_way():
    model, x = expand(network(), 3, seed=0), torch.randn(8, 4)
    part = copy.deepcopy(model[0])
    for each, step in ((part, 1), (model[3], 1)):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        each(x if each is part else torch.randn(2, 8)).sum().backward()
        optimizer.step()
        assert step_of(each) == step
    assert step_of(part) == 1


def test_frozen_copies_with_trained_adapters_have_a_p_for_each_step():
    model, x = expand(network(), 3, seed=0), torch.randn(8, 4)
    for layer in (model[0], model[3]):
        copies_of(layer).requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    noting = Noting(model)
    for _ in range(3):
        noting(x).backward()
        optimizer.step()
    assert noting.steps == [0, 1, 2]
    assert not torch.equal(noting.weights[0], noting.weights[1])


def by_hand(model, x, set_step=None):
    for step in range(80):
        if set_step:
            set_step(model, step)
        model(x).square().mean().backward()
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(0.01 * p.grad)


def test_loops_that_never_end_a_step_are_told():
    model, x = expand(network(), 3, seed=0), torch.randn(8, 4)
    with pytest.warns(UserWarning, match="still use the p of step 0.*set_step"):
        by_hand(model, x)
    model = expand(network(), 3, seed=0)
    by_hand(model, x, set_step)


def test_long_evaluations_are_no_reason_to_warn():
    model, x = expand(nn.Linear(4, 3), 3, seed=0), torch.randn(2, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        model.train()(x).sum().backward()
        optimizer.step()
        with torch.no_grad():
            for _ in range(1100):
                model.eval()(x)


def test_a_checkpointed_block_is_recomputed_with_the_same_p():
    from torch.utils.checkpoint import checkpoint

    model, x = expand(network(), 3, seed=0), torch.randn(8, 4)
    model(x).square().mean().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    for reentrant in (True, False):
        model.zero_grad()
        checkpoint(model, x.clone().requires_grad_(), use_reentrant=reentrant).square().mean().backward()
        torch.testing.assert_close([p.grad for p in model.parameters()], expected)


def test_a_pass_that_raises_keeps_nothing():
    class Failing(nn.Linear):
        fails = True

        def forward(self, x):
            out = super().forward(x)
            if self.fails:
                raise RuntimeError("an input that is wrong")
            return out

    model, x = expand(Failing(4, 3), 3, seed=0), torch.randn(2, 4)
    with pytest.raises(RuntimeError, match="an input that is wrong"):
        model(x)
    model.parametrizations.weight.original.data.zero_()
    assert model.weight.abs().max() == 0
    model.fails = False
    torch.testing.assert_close(model(x), model.bias.expand(2, 3))


def test_forced_sampling_counts_as_a_draw_of_the_step_alone():
    model, x = expand(network(), 3, seed=0).eval(), torch.randn(4, 4)
    with torch.no_grad(), mixing(model, "sample", step=-3):
        sampled = model(x)
    assert not torch.equal(sampled, model(x))
    assert not majority_clocks(model)[0].drawn


@pytest.mark.parametrize("reentrant", [True, False])
def test_optimizers_that_step_within_the_backward_pass_do_not_end_its_p(reentrant):
    """An optimizer for each parameter, called as its gradient is there: blocks are computed again after the first."""
    from torch.utils.checkpoint import checkpoint

    def trained(within):
        torch.manual_seed(0)
        model = expand(nn.Sequential(*[nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(3)]), 3, seed=0)
        optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in model.parameters()}

        def update(parameter):
            optimizers[parameter].step()
            optimizers[parameter].zero_grad()

        if within:
            for parameter in model.parameters():
                parameter.register_post_accumulate_grad_hook(update)
        for step in range(3):
            assert step_of(model) == step
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step)).requires_grad_()
            for block in model:
                x = checkpoint(block, x, use_reentrant=reentrant)
            x.square().mean().backward()
            if not within:
                for parameter in model.parameters():
                    update(parameter)
        assert copy.deepcopy(model).state_dict()["0.0.parametrizations.weight.0._extra_state"][1] == 3
        return model

    for one, other in zip(trained(within=True).parameters(), trained(within=False).parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("step", [1.5, None, "3"])
def test_a_step_that_is_no_number_is_refused(step):
    with pytest.raises(ValueError, match="step must be a whole number, not"):
        set_step(expand(network(), 3, seed=0), step)


class Waiting(nn.Linear):
    """Stays in the pass of a thread of its own until that is released."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.entered, self.released, self.thread = threading.Event(), threading.Event(), None

    def forward(self, x):
        out = super().forward(x)
        if threading.current_thread() is self.thread:
            self.entered.set()
            assert self.released.wait(30)
        return super().forward(x) + 0 * out


def test_a_pass_without_gradients_in_another_thread_changes_nothing():
    torch.manual_seed(0)
    model, x = expand(Waiting(4, 3), 3, init="independent", seed=0), torch.randn(5, 4)
    expected = model(x).detach()
    set_step(model, 0)
    found = []

    def evaluate():
        with torch.no_grad():
            found.append(model(x))

    model.thread = threading.Thread(target=evaluate)
    model.thread.start()
    assert model.entered.wait(30)
    torch.testing.assert_close(model(x), expected)
    model.released.set()
    model.thread.join()
    with torch.no_grad():
        torch.testing.assert_close(found[0], model.eval()(x))


@pytest.mark.parametrize("fused", [False, True])
def test_an_interrupted_pass_is_over(fused):
    """torch calls no hooks then, which would end it."""
    model = expand(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), 3, seed=0)
    x = torch.ones(1, 4)
    if fused:
        optimizer = fuse(torch.optim.SGD(model.parameters(), lr=0.1), model)
        model(x).sum().backward()
        optimizer.step()

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = model[1].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model(x)
    handle.remove()
    nn.init.zeros_(model[0].weight)
    assert copies_of(model[0]).abs().max() == 0
    copies_of(model[0]).data.fill_(1.0)
    torch.testing.assert_close(model[0].weight.detach(), torch.ones(4, 4))


def test_statistics_of_a_copy_are_those_of_the_mean():
    """Whether or not the p of the step has been used before the model is copied."""
    model = expand(network(), 3, seed=0, spread=1.0)
    x = torch.randn(64, 4)
    model(x)
    average = AveragedModel(model)
    update_bn([x], average)
    layer, norm = average.module[0], average.module[1]
    torch.testing.assert_close(norm.running_mean, (x @ copies_of(layer).mean(0).T + layer.bias).mean(0).detach())


@pytest.mark.parametrize("fused", [False, True])
def test_an_interrupted_pass_is_over_for_a_part_of_the_model(fused):
    class Interrupted(nn.Module):
        interrupt = True

        def forward(self, x):
            if self.interrupt:
                raise KeyboardInterrupt
            return x

    model = expand(nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), Interrupted()), 3, seed=0, spread=1.0)
    if fused:
        fuse(torch.optim.SGD(model.parameters(), lr=0.1), model)
    x = torch.ones(1, 4)
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        model(x)
    layer = model[0][0]
    kernel = layer.parametrizations.weight[0]
    p = probabilities(kernel.draw, 3, (4, 4))
    sampled = torch.tanh(x @ (p * copies_of(layer)).sum(0).T + layer.bias)
    torch.testing.assert_close(model[0](x), sampled)  # not the mean that the pass without gradients took


def test_an_optimizer_may_take_its_step_within_a_pass():
    class Trainer(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            loss = self.layer(x).square().mean()
            loss.backward()
            self.optimizers[0].step()
            self.optimizers[0].zero_grad()
            return loss.detach()

    plain, losses = expand(Trainer(), 3, seed=0), []
    fused = copy.deepcopy(plain)
    for model in (plain, fused):
        model.optimizers = [torch.optim.SGD(model.parameters(), lr=0.1)]
    fuse(fused.optimizers[0], fused)
    for model in (plain, fused):
        losses.append([model(torch.ones(2, 4)).item() for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1])


class Recursive(nn.Module):
    """A module that calls itself, and then reads a weight."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.write = None

    def forward(self, x, depth=2):
        before = self.inner.weight
        x = torch.tanh(self(x, depth - 1) if depth else self.inner(x))
        assert before is self.inner.weight  # one pass
        if self.write is not None and depth == 2:
            self.write(self.inner)
        return nn.functional.linear(x, self.inner.weight)


@pytest.mark.parametrize("fused", [False, True])
def test_calls_of_a_module_by_itself_are_one_pass(fused):
    model, x = expand(Recursive(), 3, spread=1.0, seed=0), torch.randn(2, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if fused:
        fuse(optimizer, model)
    for _ in range(3):
        weight, bias = model.inner.weight.detach().clone(), model.inner.bias.detach().clone()
        expected = nn.functional.linear(x, weight, bias)
        for _ in range(3):
            expected = nn.functional.linear(torch.tanh(expected), weight)
        found = model(x)
        torch.testing.assert_close(found, expected)
        with torch.no_grad():  # of a step whose p has been used
            torch.testing.assert_close(model(x), expected)
        found.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    model.write = lambda layer: layer.weight.detach().zero_()
    with pytest.raises(RuntimeError, match="within a forward pass"):
        model(x)
    model.write = None
    assert not model.inner.parametrizations.weight[0].clock.in_pass
    torch.testing.assert_close(model.eval()(x), collapse(model)(x))


@pytest.mark.parametrize("fuses", [False, True])
def test_a_graph_that_a_gpu_replays_is_refused(monkeypatch, fuses):
    model = expand(nn.Sequential(nn.Linear(4, 3)), 3, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if fuses:
        fuse(optimizer, model)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    for read in (lambda: model(torch.ones(2, 4)), lambda: model[0].weight):
        with pytest.raises(RuntimeError, match="would replay one draw"):
            read()
    assert torch.isfinite(model.eval()(torch.ones(2, 4))).all()
