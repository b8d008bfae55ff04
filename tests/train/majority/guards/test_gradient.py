"""The gradient of fused copies is seen wherever PyTorch looks for gradients."""

import copy

import pytest
import torch
from torch import nn

from collegium import clip_gradient_norm, collapse, expand, fuse
from collegium.train.majority.guards.gradient import FusedParameter

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "fused adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


def pair(kind="adam"):
    """A plain and a fused model with their optimizers, and inputs."""
    torch.manual_seed(0)
    plain = expand(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), 3, seed=0)
    fused = copy.deepcopy(plain)
    optimizers = [OPTIMIZERS[kind](each.parameters()) for each in (plain, fused)]
    fuse(optimizers[1], fused)
    return [(plain, optimizers[0]), (fused, optimizers[1])], torch.randn(6, 5)


def assert_same(models):
    for one, other in zip(*(model.parameters() for model, _ in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_gradient_is_that_of_the_plain_copies():
    models, x = pair()
    for model, _ in models:
        for part in x.chunk(2):
            model(part).square().sum().backward()
    for one, other in zip(*(model.parameters() for model, _ in models), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    model, _ = models[1]
    model(x).sum().backward()  # added to what has been formed
    models[0][0](x).sum().backward()
    for one, other in zip(*(model.parameters() for model, _ in models), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("scale", [1.0, 1024.0, 65536.0])
def test_a_gradient_scaler_takes_the_steps_without_one(kind, scale):
    models, x = pair(kind)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    for _ in range(3):
        for index, (model, optimizer) in enumerate(models):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            if index:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
            else:
                loss.backward()
                optimizer.step()
    assert_same(models)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_torch_s_clipping_counts_all_gradients(kind):
    models, x = pair(kind)
    for step in range(4):
        norms = []
        for model, optimizer in models:
            optimizer.zero_grad()
            model(x).square().sum().backward()
            if step % 2:  # steps with and without gradients that are formed follow each other
                norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.1))
            else:
                norms.append(clip_gradient_norm(model, optimizer, 0.1))
            optimizer.step()
        torch.testing.assert_close(*norms)
    assert_same(models)


def test_a_batch_that_is_skipped_leaves_nothing():
    models, x = pair()
    for model, optimizer in models:
        model(x * float("nan")).sum().backward()
        model.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert_same(models)


def test_gradients_of_two_draws_are_spread_each_by_its_own():
    models, x = pair()
    for model, optimizer in models:
        kernel = model[0].parametrizations.weight[0]
        for step in (3, 4):
            kernel.clock.set_step(step)
            model(x).square().sum().backward()
        optimizer.step()
    assert_same(models)


def test_graphs_that_were_made_before_a_change_still_count():
    """Two passes, the copies touched between them, one backward pass."""
    models, x = pair()
    for model, optimizer in models:
        first = model(x[:3]).square().sum()
        for parameter in model.parameters():
            parameter.data.norm()
        (first + model(x[3:]).square().sum()).backward()
        optimizer.step()
    assert_same(models)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("again", [False, True])
def test_a_graph_that_is_differentiated_after_a_step_has_the_p_of_its_own(kind, again):
    """As in pipelines, where the gradient of one batch comes while the next has begun; ``again``: of one loss twice."""
    models = []
    for plain in (True, False):
        torch.manual_seed(0)
        model = expand(nn.Linear(5, 7), 3, seed=0)
        optimizer = OPTIMIZERS[kind](model.parameters())
        models.append((model, optimizer if plain else fuse(optimizer, model)))
    x = torch.randn(6, 5)
    for model, optimizer in models:
        late = []
        for step in range(5):
            loss = model(x).square().mean()
            late.append(loss)
            if again:
                loss.backward(retain_graph=True)
            if step != 2:  # in which the gradients of two steps meet
                optimizer.zero_grad()
            if step > 0:
                late.pop(0).backward()
            optimizer.step()
    assert_same(models)


def test_a_late_gradient_through_a_weight_that_is_gone_is_refused():
    """That of a hidden layer needs the weights after it, in whose memory are those of the next step."""
    (_, (model, optimizer)), x = pair()
    loss = model(x).square().sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_copies_of_model_and_optimizer_go_on_alike():
    models, x = pair()
    _, (model, optimizer) = models
    model(x).square().mean().backward()
    optimizer.step()
    twin, own = copy.deepcopy((model, optimizer))
    assert not any(isinstance(parameter, FusedParameter) for parameter in twin.parameters())
    for each, its in ((model, optimizer), (twin, own)):
        for _ in range(2):
            its.zero_grad()
            each(x).square().mean().backward()
            its.step()
    assert_same([(model, None), (twin, None)])


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_of_the_copies_are_called(register):
    (_, (model, _)), x = pair()
    called = []
    getattr(model[0].parametrizations.weight.original, register)(lambda *_: called.append(1))
    model(x).sum().backward()
    assert called


def clip(optimizer, *_):
    nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 0.01)


def test_hooks_of_the_optimizer_see_the_gradients():
    models, x = pair()
    for model, optimizer in models:
        optimizer.register_step_pre_hook(clip)
        for _ in range(3):
            optimizer.zero_grad()
            model(x).square().sum().backward()
            optimizer.step()
    assert_same(models)


def test_a_schedule_that_was_there_before_and_groups_that_are_loaded():
    torch.manual_seed(0)
    plain = expand(nn.Linear(5, 7), 3, seed=0)
    fused = copy.deepcopy(plain)
    for model in (plain, fused):
        optimizer = OPTIMIZERS["adam"](model.parameters())
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
        if model is fused:
            fuse(optimizer, model)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 5)).square().sum().backward()
            optimizer.step()
            schedule.step()
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert_same([(plain, None), (fused, None)])


def test_an_optimizer_that_raises_keeps_the_gradient():
    models, x = pair()
    for model, optimizer in models:
        model(x).square().mean().backward()
        optimizer.param_groups[0]["betas"] = None
        with pytest.raises(TypeError):
            optimizer.step()
        optimizer.param_groups[0]["betas"] = (0.9, 0.999)
        optimizer.step()
    assert_same(models)


@pytest.mark.filterwarnings("ignore:Using backward")  # a cycle of parameter and gradient
def test_gradients_that_are_differentiated_again():
    """A penalty on the gradients of parameters, by ``backward(create_graph=True)``."""
    models, x = pair()
    found = []
    for model, optimizer in models:
        for part in x.chunk(2):
            model(part).square().mean().backward(create_graph=True)
        penalty = sum(parameter.grad.square().sum() for parameter in model.parameters())
        optimizer.zero_grad()
        penalty.backward()
        found.append([parameter.grad.detach().clone() for parameter in model.parameters()])
        optimizer.step()
    assert all(gradient.abs().max() > 0 for gradient in found[0][::2])
    torch.testing.assert_close(*found)
    assert_same(models)


def test_a_backward_pass_that_does_not_reach_fused_copies_is_commented():
    (_, (model, optimizer)), x = pair()
    model(x).square().mean().backward(inputs=list(model.parameters()))
    with pytest.warns(UserWarning, match=r"backward\(inputs=…\) does not reach them"):
        optimizer.step()
    optimizer.zero_grad()
    model(x).square().mean().backward()
    optimizer.step()


def test_fuse_takes_an_optimizer_and_a_model():
    (_, (model, optimizer)), _ = pair()
    for arguments in ((model, optimizer), (optimizer, model.parameters())):
        with pytest.raises(ValueError, match="an optimizer and the model whose parameters it holds"):
            fuse(*arguments)


def test_a_loss_from_before_collapse_is_not_differentiated_without_a_word():
    for model, _ in pair()[0]:
        loss = model(torch.ones(2, 5)).square().sum()
        collapse(model)
        with pytest.raises(RuntimeError):
            loss.backward()
