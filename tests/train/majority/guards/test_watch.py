"""What goes wrong between an expanded model and an optimizer is said when it happens."""

import copy
import warnings

import pytest
import torch
from torch import nn

from collegium import collapse, expand, fuse

ELEMENTWISE = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "fused momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adam": lambda p: torch.optim.Adam(p),
    "fused adam": lambda p: torch.optim.Adam(p, fused=True),
    "fused adamw": lambda p: torch.optim.AdamW(p, fused=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


def step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", ELEMENTWISE)
@pytest.mark.parametrize("fused", [False, True])
def test_state_from_before_expand_and_collapse_is_refused(kind, fused):
    model = network()
    optimizer = ELEMENTWISE[kind](model.parameters())
    step(model, optimizer)
    expand(model, 3)
    if fused:
        fuse(optimizer, model)
    with pytest.raises(RuntimeError, match=r"from before expand .*make the optimizer after expand"):
        step(model, optimizer)
    optimizer = ELEMENTWISE[kind](model.parameters())
    if fused:
        fuse(optimizer, model)
    step(model, optimizer)
    collapse(model)
    with pytest.raises(RuntimeError, match=r"from before collapse .*make the optimizer after collapse"):
        step(model, optimizer)


def test_loaded_state_of_another_shape_is_refused():
    plain, model = network(), expand(network(), 3)
    optimizers = [torch.optim.Adam(each.parameters(), fused=True) for each in (plain, model)]
    step(plain, optimizers[0])
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    with pytest.raises(RuntimeError, match="or load a state saved after it"):
        step(model, optimizers[1])


def test_state_with_shapes_of_its_own_is_not_mistaken():
    """Adafactor's factors of a (3, 3, 4) parameter have the shapes (3, 3) and (3, 4)."""
    model = expand(nn.Linear(4, 3), 3)
    optimizer = torch.optim.Adafactor(model.parameters())
    for _ in range(3):
        step(model, optimizer)


def test_groups_that_leave_copies_without_weight_decay():
    model = expand(network(), 3)

    def groups(decayed):
        chosen = [p for name, p in model.named_parameters() if decayed(name, p)]
        rest = [p for name, p in model.named_parameters() if not decayed(name, p)]
        return [{"params": chosen, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]

    by_shape = groups(lambda name, parameter: parameter.dim() > 1)
    step(model, torch.optim.SGD(by_shape, lr=0.1))
    model[0].bias.requires_grad_(True)
    by_name = [
        {"params": [p for name, p in model.named_parameters() if not name.endswith("weight")], "weight_decay": 0.0},
        {"params": [nn.Parameter(torch.ones(2))], "weight_decay": 0.1},
    ]
    optimizer = torch.optim.SGD(by_name, lr=0.1)
    with pytest.warns(UserWarning, match=r"without weight decay.*\.original"):
        step(model, optimizer)
    step(model, optimizer)  # once


def test_copies_that_no_optimizer_holds():
    model = expand(network(), 3)
    held = [p for name, p in model.named_parameters() if name.endswith(("weight", "bias"))]
    optimizer = torch.optim.SGD(held, lr=0.1)
    for _ in range(2):
        step(model, optimizer)
    with pytest.warns(UserWarning, match=r"no optimizer.*0\.parametrizations\.weight\.original"):
        step(model, optimizer)
    step(model, optimizer)  # once


def test_several_optimizers_may_share_a_model():
    model = expand(network(), 3)
    kernels = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizers = [torch.optim.SGD(others, lr=0.1), torch.optim.Adam(kernels)]
    for _ in range(6):
        model(torch.ones(2, 4)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()


class Saves(nn.Sequential):
    saved = None

    def save_pretrained(self, folder):
        self.saved = folder
        return list(self.state_dict())


def test_saving_an_expanded_model_is_commented():
    model = expand(Saves(nn.Linear(4, 3)), 3)
    twin = copy.deepcopy(model)
    for each in (model, twin):
        with pytest.warns(UserWarning, match="is expanded: from_pretrained does not know"):
            each.save_pretrained("folder")
        assert each.saved == "folder"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert collapse(model).save_pretrained("folder") == ["0.weight", "0.bias"]


def test_state_that_is_loaded_later_is_checked_again():
    plain, model = network(), expand(network(), 3)
    optimizers = [torch.optim.Adam(each.parameters(), fused=True) for each in (plain, model)]
    for each, optimizer in zip((plain, model), optimizers, strict=True):
        step(each, optimizer)
        step(each, optimizer)
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    with pytest.raises(RuntimeError, match="load a state saved after it"):
        step(model, optimizers[1])


class Adapter(nn.Module):
    """Adds a product of two layers to a frozen one, as PEFT's LoRA does: read and written with gradients recorded."""

    def __init__(self):
        super().__init__()
        self.base, self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 2, bias=False), nn.Linear(2, 3, bias=False)
        self.base.requires_grad_(False)
        self.merged = False

    def forward(self, x):
        return self.base(x) if self.merged else self.base(x) + self.b(self.a(x))

    def merge(self):
        self.base.weight.data += self.b.weight @ self.a.weight
        self.merged = True

    def unmerge(self):
        self.base.weight.data -= self.b.weight @ self.a.weight
        self.merged = False


@pytest.mark.parametrize("training", [False, True])
def test_adapters_are_merged_by_their_means_in_either_mode(training):
    torch.manual_seed(0)
    model, x = nn.Sequential(Adapter()), torch.randn(5, 4)
    base = model[0].base.weight.detach().clone()
    expand(model, 3, init="independent", seed=0)
    with torch.no_grad():
        expected = model.eval()(x)
        model.train(training)
        for each in (copy.deepcopy(model), model):  # a copy is guarded as well
            each[0].merge()
            torch.testing.assert_close(each.eval()(x), expected)
            torch.testing.assert_close(collapse(copy.deepcopy(each))(x), expected)
            each.train(training)[0].unmerge()
            torch.testing.assert_close(each[0].base.weight, base)
            torch.testing.assert_close(each.eval()(x), expected)
        collapse(model)
    assert not {"merge", "unmerge"} & vars(model[0]).keys()
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize("training", [False, True])
def test_an_adapter_is_merged_into_an_expanded_layer(training):
    torch.manual_seed(0)
    adapter, x = Adapter(), torch.randn(5, 4)
    adapter.base.requires_grad_(True)
    expand(adapter.base, 3, init="independent", seed=0)
    with torch.no_grad():
        expected = adapter.eval()(x)
    adapter.train(training).merge()
    with torch.no_grad():
        torch.testing.assert_close(adapter.eval()(x), expected)
        torch.testing.assert_close(collapse(adapter)(x), expected)


WITH_SHAPES_OF_THEIR_OWN = {
    "lbfgs": lambda p: torch.optim.LBFGS(p, max_iter=3),
    "adafactor": lambda p: torch.optim.Adafactor(p),
    "adafactor foreach": lambda p: torch.optim.Adafactor(p, foreach=True),
}


@pytest.mark.parametrize("kind", WITH_SHAPES_OF_THEIR_OWN)
@pytest.mark.parametrize("change", [expand, collapse])
def test_state_of_optimizers_with_shapes_of_their_own_is_refused_by_name(kind, change):
    model = network() if change is expand else expand(network(), 3)
    optimizer = WITH_SHAPES_OF_THEIR_OWN[kind](model.parameters())

    def closure():
        optimizer.zero_grad()
        loss = model(torch.ones(2, 4)).square().sum()
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    change(model)
    with pytest.raises(RuntimeError, match=f"from before {change.__name__} .*make the optimizer after"):
        optimizer.step(closure)


def test_a_copied_model_s_copies_that_no_optimizer_holds():
    model = copy.deepcopy(expand(network(), 3))
    optimizer = torch.optim.SGD([p for name, p in model.named_parameters() if name.endswith("bias")], lr=0.1)
    for _ in range(2):
        step(model, optimizer)
    with pytest.warns(UserWarning, match=r"no optimizer.*0\.parametrizations\.weight\.original"):
        step(model, optimizer)


def test_merging_of_tokens_is_none_of_adapters():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def merge(self, x):
            return self.linear(x).view(-1, 2, 4).mean(1)

        def unmerge(self, x):
            return x.repeat_interleave(2, 0)

        def forward(self, x):
            return self.unmerge(self.merge(x))

    model = expand(nn.Sequential(nn.Linear(4, 4), Tokens(), nn.Linear(4, 1)))
    model(torch.ones(4, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
