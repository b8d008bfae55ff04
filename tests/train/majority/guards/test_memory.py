"""Copies that come into other memory or another type, and state and gradients that are laid out otherwise."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

from collegium import PerCopy, expand, fuse
from collegium.train.majority import fused
from collegium.train.majority.kernel import majority_copies, majority_kernels

X = torch.linspace(-1, 1, 30).view(6, 5)
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


def pair(make=lambda p: torch.optim.SGD(p, lr=0.05)):
    """A plain and a fused model, each with its optimizer."""
    torch.manual_seed(0)
    plain = expand(nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), 3, seed=0)
    other = copy.deepcopy(plain)
    return [(plain, make(plain.parameters())), (other, fuse(make(other.parameters()), other))]


def train(model, optimizer, steps=1):
    for _ in range(steps):
        optimizer.zero_grad()
        model(X.to(next(model.parameters()).dtype)).square().sum().backward()
        optimizer.step()


def assert_same(models):
    for one, other in zip(*(model.parameters() for model, _ in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def transposed(tensor):
    return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("loaded", [False, True])
def test_state_that_is_not_contiguous_goes_on(kind, loaded):
    """As SGD makes it of a gradient that has been assigned, or another program's transposed layout."""
    models = pair(OPTIMIZERS[kind])
    for model, optimizer in models:
        optimizer.zero_grad()
        model(X).square().sum().backward()
        for parameter in model.parameters():
            parameter.grad = transposed(parameter.grad) if parameter.dim() > 1 else parameter.grad
        optimizer.step()
        if loaded:
            state = optimizer.state_dict()
            for each in state["state"].values():
                each.update({name: transposed(each[name]) for name in each if each[name].dim() > 1})
            optimizer.load_state_dict(state)
        train(model, optimizer, steps=3)
    assert_same(models)


def test_state_of_another_type_goes_on():
    models = pair(OPTIMIZERS["sgd"])
    for model, optimizer in models:
        train(model, optimizer, steps=2)
        model.double()  # and not the momentum
        train(model, optimizer, steps=2)
    assert_same(models)


def by_array(copies):
    array = copies.detach().numpy().copy()
    copies.data = torch.from_numpy(array)
    return lambda: array.__imul__(1.1)


def by_buffer(copies):
    memory = bytearray(copies.detach().numpy().tobytes())
    copies.data = torch.frombuffer(memory, dtype=torch.float32).view(copies.shape)
    return lambda: torch.frombuffer(memory, dtype=torch.float32).mul_(1.1)


def by_vector(copies):
    copies.data = copies.detach().clone()
    held = copies.data  # counts no changes
    return lambda: held.mul_(1.1)


@pytest.mark.parametrize("move", [by_array, by_buffer, by_vector])
def test_memory_that_others_write_to(move):
    """In every step the weight is mixed from what is there, also within a step and after copies have been moved."""
    models = pair()
    for model, optimizer in models:
        train(model, optimizer, steps=2)
        changes = [move(copies) for _, copies in majority_copies(model)]
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(2):
                model(X).square().sum().backward()
                for change in changes:
                    change()
            optimizer.step()
            for change in changes:
                change()
        train(model, optimizer)
    assert_same(models)


def test_an_average_of_processes_is_read():
    """Memory that processes share is written to by the others."""
    (_, (model, optimizer)) = pair()
    model.share_memory()
    train(model, optimizer, steps=2)
    assert all(kernel.leaf._token is None for kernel in majority_kernels(model).values())


@pytest.mark.parametrize("view", [lambda copies: copies.mT, lambda copies: copies.tensor_split(3)[0]])
def test_data_of_views(view):
    models = pair()
    for model, optimizer in models:
        for _ in range(3):
            train(model, optimizer)
            for _, copies in majority_copies(model):
                view(copies).data.mul_(1.1)
    assert_same(models)


@pytest.mark.parametrize("fused_too", [False, True])
def test_another_optimizer_s_step_that_leaves_no_trace(fused_too):
    """Two optimizers over the same copies, of which one is fused by torch."""
    models = pair()
    for index, (model, optimizer) in enumerate(models):
        second = torch.optim.Adam(model.parameters(), lr=0.05, fused=True)
        if index and fused_too:
            fuse(second, model)
        for _ in range(4):
            train(model, optimizer)
            second.step()
    assert_same(models)


@pytest.mark.parametrize("convert", ["before backward", "before step", "data"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_changes_between_a_pass_and_its_step(convert, dtype):
    models = pair()
    for model, optimizer in models:
        train(model, optimizer)
        optimizer.zero_grad()
        loss = model(X).square().sum()
        if convert == "before backward":
            model.to(dtype)
        loss.backward()
        if convert == "before step":
            model.to(dtype)
        if convert == "data":
            for parameter in model.parameters():
                parameter.data = parameter.data.to(dtype)
        optimizer.step()
        assert all(parameter.dtype == dtype for parameter in model.parameters())
        train(model, optimizer)
    for one, other in zip(*(model.parameters() for model, _ in models), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-3)


def test_a_step_in_inference_mode_spoils_no_later_one():
    models = pair()
    for model, optimizer in models:
        model(X).square().sum().backward()
        with torch.inference_mode():
            optimizer.step()
        train(model, optimizer, steps=2)
    assert_same(models)


class Table(nn.Module):
    """Looks rows up in the weight of a linear layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 6, bias=False)

    def forward(self, rows, sparse):
        return functional.embedding(rows, self.layer.weight, sparse=sparse)


@pytest.mark.parametrize("fuses", [False, True])
def test_sparse_gradients_are_those_of_the_copies(fuses):
    torch.manual_seed(0)
    model = expand(Table(), 3, seed=0)
    models = [copy.deepcopy(model) for _ in range(2)]
    for index, each in enumerate(models):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        if fuses:
            fuse(optimizer, each)
        for _ in range(2):
            optimizer.zero_grad()
            for _ in range(2):
                each(torch.tensor([1, 2, 1]), sparse=index == 1).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(*(next(each.parameters()) for each in models))


def test_the_room_for_points_is_a_model_s_whatever_holds_its_parameters(monkeypatch):
    monkeypatch.setattr(fused, "_KEPT", 70)
    (_, (model, _)) = pair()
    train(model, fuse(torch.optim.SGD(model[2].parameters(), lr=0.1), model))
    train(model, fuse(torch.optim.SGD(model[0].parameters(), lr=0.1), model))
    updates = [kernel.leaf.update for kernel in majority_kernels(model).values()]
    assert [update.keeps for update in updates] == [True, False]  # 70 and 42 numbers


def test_kernels_that_no_longer_keep_points_give_their_memory_back(monkeypatch, without_native):
    (_, (model, optimizer)) = pair()
    train(model, optimizer)
    updates = [kernel.leaf.update for kernel in majority_kernels(model).values()]
    assert all(points is not None for update in updates for points in update.points)
    monkeypatch.setattr(fused, "_KEPT", 0)
    fuse(optimizer, model)
    assert not any(update.points for update in updates)
    train(model, optimizer)
    assert all(points is None for update in updates for points in update.points)


def test_a_schedule_that_was_there_before_loses_no_gradient_when_a_step_is_interrupted(monkeypatch):
    torch.manual_seed(0)
    model = expand(nn.Linear(5, 3), 3, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    fuse(fuse(optimizer, model), model)
    model(X).sum().backward()

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(fused, "take", interrupt)
        with pytest.raises(KeyboardInterrupt):
            optimizer.step()
    assert model.parametrizations.weight.original.grad is not None
    optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as of a schedule that has not seen the step
        schedule.step()


def test_copies_that_get_memory_after_expanding_are_known_as_such():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 2, bias=False))
    expand(model, 3, seed=0).to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    optimizer = PerCopy(model.parameters(), torch.optim.Muon, lr=0.02)
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()


def test_copies_that_are_laid_out_otherwise_between_a_pass_and_its_step():
    """``set_`` gives a tensor other memory without assigning its ``data``."""
    models = pair()
    for model, optimizer in models:
        train(model, optimizer)
        model(X).square().sum().backward()
        with torch.no_grad():
            copies = model[0].parametrizations.weight.original
            copies.set_(transposed(copies.detach()).clone(memory_format=torch.preserve_format))
        assert not copies.is_contiguous()
        optimizer.step()
        optimizer.zero_grad()
        train(model, optimizer)
    assert_same(models)
