"""A fused optimizer takes the same steps as the plain one, without the expanded gradient."""

import copy
import subprocess
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional

from collegium import clip_gradient_norm, expand, fuse
from collegium.jobs.subprocesses import python
from collegium.train.majority import fused_kernel
from collegium.train.majority.draw import CHUNK, probabilities
from collegium.train.majority.kernel import majority_copies, majority_kernels
from collegium.train.majority.native import passes

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, dampening=0),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-2),
    "fused adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


@pytest.fixture(autouse=True, params=["pass", "chunks"])
def way(request):
    """How a step is taken: in a pass of C code, or as where it has not been built."""
    if request.param == "chunks":
        request.getfixturevalue("without_native")
    assert passes.is_built() == (request.param == "pass")


def models(*widths, seed=0):
    torch.manual_seed(seed)
    hidden = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
    plain = expand(nn.Sequential(*hidden), 3, seed=seed)
    return plain, copy.deepcopy(plain)


def train(model, optimizer, steps=4, parts=1, clip=None):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(8, model[0].in_features, generator=generator).to(model[0].bias.dtype)
        for part in x.chunk(parts):
            out = model(part)
            (functional.mse_loss(out, torch.ones_like(out)) / parts).backward()
        if clip:
            clip_gradient_norm(model, optimizer, clip)
        optimizer.step()


def assert_same(one, other):
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("parts", [1, 2])
def test_same_steps_as_the_plain_optimizer(kind, parts):
    plain, fused = models(5, 7, 3)
    train(plain, OPTIMIZERS[kind](plain.parameters()), parts=parts)
    optimizer = OPTIMIZERS[kind](fused.parameters())
    assert fuse(optimizer, fused) is optimizer
    train(fused, optimizer, parts=parts)
    assert_same(plain, fused)


def test_kernels_of_several_chunks():
    plain, fused = (model.double() for model in models(300, CHUNK // 300 + 50))
    train(plain, OPTIMIZERS["adam"](plain.parameters()), steps=2)
    train(fused, fuse(OPTIMIZERS["adam"](fused.parameters()), fused), steps=2)
    assert_same(plain, fused)


def test_draws_from_the_table_stay_so():
    plain = expand(nn.Sequential(nn.Linear(5, 7), nn.Tanh()), 3, seed=0, draws="table")
    fused, other = copy.deepcopy(plain), expand(nn.Sequential(nn.Linear(5, 7), nn.Tanh()), 3, seed=0)
    other.load_state_dict(plain.state_dict())
    train(plain, OPTIMIZERS["adam"](plain.parameters()))
    train(fused, fuse(OPTIMIZERS["adam"](fused.parameters()), fused))
    train(other, OPTIMIZERS["adam"](other.parameters()))
    assert_same(plain, fused)
    assert not any(torch.isclose(a, b).all() for a, b in zip(plain.parameters(), other.parameters(), strict=True))


def test_the_expanded_gradient_never_exists():
    _, model = models(5, 7, 3)
    optimizer = fuse(OPTIMIZERS["adam"](model.parameters()), model)
    model(torch.randn(2, 5)).sum().backward()
    for kernel in majority_kernels(model).values():
        assert kernel.leaf.gradient.shape == kernel.leaf.tensor.shape
    formed = torch.nn.Parameter.grad.__get__  # what is there, as the property would form it
    assert all(formed(parameter) is None for parameter in model.parameters() if parameter.dim() == 3)
    optimizer.zero_grad()
    assert all(kernel.leaf.gradient is None for kernel in majority_kernels(model).values())


def test_the_next_weight_is_mixed_during_the_update():
    plain, fused = models(5, 7)
    train(plain, OPTIMIZERS["adam"](plain.parameters()))
    train(fused, fuse(OPTIMIZERS["adam"](fused.parameters()), fused))
    kernel = next(iter(majority_kernels(fused).values()))
    mixed = kernel.leaf.tensor.detach().clone()
    assert torch.equal(fused[0].weight, mixed)
    torch.testing.assert_close(mixed, plain[0].weight.detach())
    kernel.clock.step += 1  # another step than the one mixed for
    plain[0].parametrizations.weight[0].clock.step += 1
    torch.testing.assert_close(fused[0].weight.detach(), plain[0].weight.detach())
    with torch.no_grad():
        fused[0].parametrizations.weight.original.zero_()  # other copies than those mixed
    assert fused[0].weight.abs().max() == 0


@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_state_goes_from_fused_to_plain_and_back(kind):
    plain, fused = models(5, 7, 3)
    one, two = OPTIMIZERS[kind](plain.parameters()), fuse(OPTIMIZERS[kind](fused.parameters()), fused)
    train(plain, one)
    train(fused, two)
    states = [dict(sorted(optimizer.state_dict()["state"].items())) for optimizer in (one, two)]
    torch.testing.assert_close(states[0], states[1], rtol=1e-5, atol=1e-6)
    one.load_state_dict(copy.deepcopy(two.state_dict()))
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    train(plain, one)
    train(fused, two)
    assert_same(plain, fused)


def test_clipping_counts_the_gradients_that_never_exist():
    plain, fused = models(5, 7, 3)
    x = torch.randn(4, 5)
    optimizer = fuse(OPTIMIZERS["sgd"](fused.parameters()), fused)
    plain(x).sum().backward()
    fused(x).sum().backward()
    expected = nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
    torch.testing.assert_close(clip_gradient_norm(fused, optimizer, 0.1), expected)
    torch.testing.assert_close(clip_gradient_norm(fused, optimizer, 0.1), torch.tensor(0.1), rtol=1e-4, atol=0)
    plain, fused = models(5, 7, 3)
    train(plain, OPTIMIZERS["sgd"](plain.parameters()), clip=0.05)
    train(fused, fuse(OPTIMIZERS["sgd"](fused.parameters()), fused), clip=0.05)
    assert_same(plain, fused)


def test_clipping_a_plain_model_is_torch_s():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    twin = copy.deepcopy(model)
    for each in (model, twin):
        each(torch.ones(1, 3)).square().sum().backward()
    expected = nn.utils.clip_grad_norm_(twin.parameters(), 0.2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    torch.testing.assert_close(clip_gradient_norm(model, optimizer, 0.2), expected)
    torch.testing.assert_close(model.weight.grad, twin.weight.grad)


def test_learning_rates_are_read_at_each_step():
    plain, fused = models(5, 7)
    one, two = OPTIMIZERS["adam"](plain.parameters()), fuse(OPTIMIZERS["adam"](fused.parameters()), fused)
    for optimizer, model in ((one, plain), (two, fused)):
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
        for _ in range(3):
            train(model, optimizer, steps=1)
            schedule.step()
    assert two.param_groups[0]["lr"] == 0.01 / 8
    assert_same(plain, fused)


def test_evaluation_between_steps_changes_nothing():
    plain, fused = models(5, 7, 3)
    train(plain, OPTIMIZERS["adam"](plain.parameters()))
    optimizer = fuse(OPTIMIZERS["adam"](fused.parameters()), fused)
    for step in range(4):
        generator = torch.Generator().manual_seed(1)
        x = [torch.randn(8, 5, generator=generator) for _ in range(step + 1)][-1]
        optimizer.zero_grad()
        functional.mse_loss(fused(x), torch.ones(8, 3)).backward()
        with torch.no_grad():
            fused.eval()(x)
            fused.train()(x)
        optimizer.step()
    assert_same(plain, fused)


def test_what_does_not_pay_is_left_alone():
    plain, model = models(5, 7)
    amsgrad = torch.optim.Adam(model.parameters(), amsgrad=True)
    adagrad = torch.optim.Adagrad(model.parameters())
    for optimizer in (amsgrad, adagrad):
        assert fuse(optimizer, model) is optimizer
        model(torch.randn(2, 5)).sum().backward()
        assert model[0].parametrizations.weight.original.grad is not None
    bare = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(bare.parameters())
    assert type(fuse(optimizer, bare)) is torch.optim.Adam
    assert plain is not model


def test_frozen_copies_stay():
    _, model = models(5, 7)
    optimizer = fuse(OPTIMIZERS["adam"](model.parameters()), model)
    copies = model[0].parametrizations.weight.original.requires_grad_(False)
    before = copies.clone()
    train(model, optimizer)
    assert torch.equal(copies, before)


def test_closures_and_double_precision():
    torch.manual_seed(0)
    plain = expand(nn.Linear(4, 3).double(), 3, seed=0)
    fused = copy.deepcopy(plain)
    x = torch.randn(5, 4, dtype=torch.float64)
    for model in (plain, fused):
        optimizer = OPTIMIZERS["momentum"](model.parameters())
        if model is fused:
            fuse(optimizer, model)

        def closure(model=model, optimizer=optimizer):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            return loss

        for _ in range(3):
            assert optimizer.step(closure) > 0
    assert_same(plain, fused)


PLACES = {
    "before the pass": ("pass", passes, "update"),
    "after the pass": ("pass", fused_kernel, "increment_version"),
    "before a chunk": ("chunks", fused_kernel, "shares_of_chunk"),
    "within a chunk": ("chunks", fused_kernel, "_adam"),
    "before mixing": ("chunks", fused_kernel, "mix_chunk"),
}


def interrupt(*_):
    raise KeyboardInterrupt


def interrupted(monkeypatch, model, optimizer, place):
    """A step that ends where the function of ``PLACES`` would be called."""
    _, module, name = PLACES[place]
    with monkeypatch.context() as context:
        context.setattr(module, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()


def before_a_step(model):
    """A fused optimizer of ``model``, whose gradients are there for its third step."""
    optimizer = fuse(OPTIMIZERS["adam"](model.parameters()), model)
    train(model, optimizer, steps=2)
    optimizer.zero_grad()
    model(torch.ones(2, model[0].in_features)).sum().backward()
    return optimizer


@pytest.mark.parametrize(("way", "place"), [(way, place) for place, (way, *_) in PLACES.items()], indirect=["way"])
def test_after_an_interrupted_step_weights_are_those_of_the_copies(monkeypatch, place):
    _, model = models(30, 20)
    optimizer = before_a_step(model)
    interrupted(monkeypatch, model, optimizer, place)
    kernel, copies = model[0].parametrizations.weight[0], model[0].parametrizations.weight.original
    p = probabilities(kernel.draw, 3, copies.shape[1:])
    expected = torch.tanh(torch.ones(2, 30) @ (p * copies).sum(0).T + model[0].bias)
    torch.testing.assert_close(model(torch.ones(2, 30)), expected)


@pytest.mark.parametrize(
    ("way", "place"), [("pass", "before the pass"), ("chunks", "within a chunk")], indirect=["way"]
)
def test_the_gradient_of_an_interrupted_step_is_there_to_be_dropped(monkeypatch, place):
    _, model = models(5, 7)
    plain = copy.deepcopy(model)
    one, two = OPTIMIZERS["adam"](plain.parameters()), fuse(OPTIMIZERS["adam"](model.parameters()), model)
    x = torch.randn(2, 5)
    model(x).square().sum().backward()
    interrupted(monkeypatch, model, two, place)
    assert model[0].parametrizations.weight.original.grad is not None
    model.zero_grad()
    with torch.no_grad():  # the bias has been updated, and Adam's count of its steps
        plain.load_state_dict(model.state_dict())
    two.state.clear()
    for network, optimizer in ((plain, one), (model, two)):
        network(2 * x).square().sum().backward()
        optimizer.step()
    assert_same(plain, model)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("zero", [lambda _: None, lambda optimizer: optimizer.zero_grad(set_to_none=False)])
def test_gradients_stay_until_they_are_dropped(kind, zero):
    """As torch keeps them: steps without ``zero_grad`` add up, and zeros are a gradient that a loss need not reach."""
    plain, model = models(5, 7, 5)
    steps = [(plain, OPTIMIZERS[kind](plain.parameters()))]
    steps.append((model, fuse(OPTIMIZERS[kind](model.parameters()), model)))
    x = torch.randn(2, 5)
    for network, optimizer in steps:
        for layers in (network, network[:2], network):
            layers(x).square().mean().backward()
            optimizer.step()
            zero(optimizer)
    assert_same(plain, model)
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")  # with create_graph, of a cycle that ends here
@pytest.mark.parametrize("fuses", [False, True])
def test_clipping_does_not_record_and_does_not_overflow(fuses):
    _, model = models(5, 7)
    model.double()
    optimizer = OPTIMIZERS["adam"](model.parameters())
    if fuses:
        fuse(optimizer, model)
    (1e30 * model(torch.randn(2, 5, dtype=torch.float64))).sum().backward(create_graph=True)
    norm = clip_gradient_norm(model, optimizer, 1.0)
    assert norm.isfinite()
    assert not norm.requires_grad
    torch.testing.assert_close(
        nn.utils.get_total_norm([p.grad for p in model.parameters()]).detach(), torch.ones(()).double()
    )


def test_a_copied_optimizer_is_fused_again():
    _, model = models(5, 7)
    plain, (model, optimizer) = (
        copy.deepcopy(model),
        copy.deepcopy((model, fuse(torch.optim.SGD(model.parameters(), lr=0.1), model))),
    )
    fuse(optimizer, model)
    model(torch.ones(1, 5)).sum().backward()
    assert nn.Parameter.grad.__get__(model[0].parametrizations.weight.original) is None  # what is formed
    optimizer.step()
    one = torch.optim.SGD(plain.parameters(), lr=0.1)
    plain(torch.ones(1, 5)).sum().backward()
    one.step()
    assert_same(plain, model)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_loaded_state_leaves_hooks_and_mixing_ahead_as_they_are(kind):
    for _ in range(2):  # torch changes the class where a state is loaded: the second optimizer begins with that
        _, model = models(5, 7, 5)
        optimizer = fuse(OPTIMIZERS[kind](model.parameters()), model)
        called = []
        optimizer.register_step_pre_hook(lambda *_, called=called: called.append("before"))
        optimizer.register_step_post_hook(lambda *_, called=called: called.append("after"))
        for loads in (False, True):
            if loads:
                optimizer.load_state_dict(optimizer.state_dict())
            train(model, optimizer, steps=3)
            assert called == ["before", "after"] * 3
            called.clear()
            for kernel, copies in majority_copies(model):
                leaf = kernel.leaf
                assert leaf.ready(copies, kernel.clock) is leaf.tensor  # mixed by the update


def test_an_optimizer_that_is_unpickled_calls_its_hooks_where_none_has_been_made(tmp_path):
    """Torch wraps the step of a class as its first optimizer is made; an unpickled one is not made."""
    _, model = models(5, 7)
    optimizer = fuse(torch.optim.SGD(model.parameters(), lr=0.1), model)
    torch.save((model, optimizer), tmp_path / "both.pt")
    code = (
        f"import sys, torch; model, optimizer = torch.load({str(tmp_path / 'both.pt')!r}, weights_only=False)\n"
        "called = []; optimizer.register_step_post_hook(lambda *_: called.append(1))\n"
        "model(torch.ones(2, 5)).sum().backward(); optimizer.step(); sys.exit(called != [1])"
    )
    subprocess.run(python("-c", code), check=True)


def _other_copies(copies, state):
    copies.data = copies.data[:, :2].contiguous()


def _fewer_copies(copies, state):
    copies.data = copies.data[:2].contiguous()


def _other_state(copies, state):
    state["exp_avg_sq"] = torch.zeros(5)


def _state_elsewhere(copies, state):
    state["exp_avg"] = torch.zeros_like(copies, device="meta")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_copies, r"copies of shape \(3, 2, 5\) have a gradient of shape \(7, 5\): .* replaced between"),
        (_fewer_copies, r"for copies of shape \(2, 7, 5\) .* has shape \(3, 7, 5\) .*: load one of this model"),
        (_other_state, r"for copies of shape \(3, 7, 5\) on cpu has shape \(5,\)"),
        (_state_elsewhere, "is on meta"),
    ],
)
def test_memory_of_another_size_is_never_written(change, message):
    _, model = models(5, 7)
    optimizer = before_a_step(model)
    copies = model[0].parametrizations.weight.original
    change(copies, optimizer.state[copies])
    before = copies.detach().clone()
    with pytest.raises(RuntimeError, match=message):
        optimizer.step()
    assert torch.equal(copies, before)
