"""What is written into a mixed weight is taken by all copies, or refused; what is read is always what is stored."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from collegium import collapse, expand, fuse


def fill_(layer):
    with torch.no_grad():
        layer.weight.fill_(0.25)


def write_an_entry(layer):
    with torch.no_grad():
        layer.weight[1, 2] = 0.75


def write_through_a_view(layer):
    with torch.no_grad():
        layer.weight.t()[1].unsqueeze(0).copy_(torch.ones(1, 3))


def write_out(layer):
    torch.mul(torch.ones(3, 4), 0.5, out=layer.weight.data)


WRITES = {
    "zeros": lambda layer: nn.init.zeros_(layer.weight),
    "kaiming": lambda layer: nn.init.kaiming_uniform_(layer.weight),
    "orthogonal": lambda layer: nn.init.orthogonal_(layer.weight),
    "truncated": lambda layer: nn.init.trunc_normal_(layer.weight, std=0.02),
    "reset": lambda layer: layer.reset_parameters(),
    "clamped data": lambda layer: layer.weight.data.clamp_(-0.01, 0.01),
    "detached": lambda layer: layer.weight.detach().mul_(0.1),
    "in-place sum": lambda layer: layer.weight.data.add_(1.0),
    "assigned data": lambda layer: setattr(layer.weight, "data", torch.full((3, 4), 0.125)),
    "assigned": lambda layer: setattr(layer, "weight", torch.full((3, 4), 0.125)),
    "fill": fill_,
    "entry": write_an_entry,
    "view": write_through_a_view,
    "out": write_out,
    "set": lambda layer: layer.weight.data.set_(torch.full((3, 4), 0.125)),
    "plain state": lambda layer: layer.load_state_dict({"weight": torch.eye(3, 4), "bias": torch.zeros(3)}),
    "plain state, not strictly": lambda layer: layer.load_state_dict({"weight": torch.eye(3, 4)}, strict=False),
    "foreach": lambda layer: torch._foreach_zero_([layer.weight.data]),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("write", WRITES)
def test_a_write_is_taken_by_all_copies(write, fused, training):
    torch.manual_seed(0)
    layer = expand(nn.Linear(4, 3), 3, seed=0).train(training)
    if fused:
        fuse(torch.optim.SGD(layer.parameters(), lr=0.1), layer)
    copies = layer.parametrizations.weight.original
    before, x = copies.clone(), torch.randn(2, 4)
    layer(x)
    WRITES[write](layer)
    assert not torch.equal(copies, before)
    assert torch.equal(copies[0], copies[1])
    for mode in (True, False):
        torch.testing.assert_close(layer.train(mode).weight, copies[0])
        torch.testing.assert_close(layer(x), nn.functional.linear(x, copies[0], layer.bias))
    torch.testing.assert_close(collapse(layer).weight, before.new_tensor(copies.detach().numpy()))


def test_the_values_written_are_those_that_were_asked_for():
    layer = expand(nn.Linear(4, 3), 3, seed=0)
    nn.init.zeros_(layer.weight)
    assert layer.weight.abs().max() == 0
    assert layer.eval().weight.abs().max() == 0
    write_an_entry(layer.train())
    torch.testing.assert_close(layer.weight[1, 2], torch.tensor(0.75))
    write_through_a_view(layer)
    torch.testing.assert_close(layer.weight[:, 1], torch.ones(3))
    nn.init.orthogonal_(layer.weight)
    torch.testing.assert_close(layer.weight @ layer.weight.T, torch.eye(3), atol=1e-5, rtol=0)
    with torch.inference_mode():
        layer.weight.fill_(2.0)
    torch.testing.assert_close(layer.eval().weight, torch.full((3, 4), 2.0))


def test_merged_adapters_are_added_to_the_mean():
    """``base.weight.data += delta`` in training mode, as adapters are merged."""
    layer, delta = expand(nn.Linear(4, 3), 3, seed=0), torch.randn(3, 4)
    mean = layer.parametrizations.weight.original.detach().mean(0)
    layer.weight.data += delta
    torch.testing.assert_close(layer.eval().weight, mean + delta)


def test_what_cannot_be_written_is_refused():
    layer = expand(nn.Linear(4, 3), 3, seed=0)
    with pytest.raises(RuntimeError, match=r"torch\.no_grad"):
        layer.weight.zero_()
    with pytest.raises(ValueError, match="read-only"):
        layer.weight.detach().numpy()[0, 0] = 1.0
    with pytest.raises(ValueError, match="keeps its shape"):
        layer.weight.data = torch.zeros(2, 2)
    assert layer.weight.abs().max() > 0


def test_freezing_the_weight_freezes_its_copies():
    layer = expand(nn.Linear(4, 3), 3, seed=0)
    layer.weight.requires_grad_(False)
    assert not layer.parametrizations.weight.original.requires_grad
    layer.weight.requires_grad = True
    assert layer.parametrizations.weight.original.requires_grad


def test_a_detached_weight_is_a_tensor_like_any_other():
    layer = expand(nn.Linear(4, 3), 3, seed=0)
    leaf = layer.weight.detach().requires_grad_()
    leaf.square().sum().backward()
    torch.testing.assert_close(leaf.grad, 2 * leaf.detach())
    assert layer.parametrizations.weight.original.requires_grad
    assert type(layer.weight + 0) is torch.Tensor
    assert type(copy.deepcopy(layer.weight)) is torch.Tensor


def change_data(copies):
    copies.data.mul_(0.5)


def change_numpy(copies):
    array = copies.detach().numpy()
    array[...] = array * np.float32(0.5)


def change_storage(copies):
    torch.tensor([], dtype=torch.float32).set_(copies.untyped_storage()).mul_(0.5)


def change_view(copies):
    with torch.no_grad():
        array = copies.view(-1).numpy()
        array[...] = array * np.float32(0.5)


def change_rows(copies):
    with torch.no_grad():
        for row in copies:
            array = row.numpy()
            array[...] = array * np.float32(0.5)


@pytest.mark.parametrize("change", [change_data, change_numpy, change_storage, change_view, change_rows])
@pytest.mark.parametrize("fused", [False, True])
def test_changes_that_leave_no_trace_are_read_all_the_same(change, fused):
    """Exponential averages, clipping of weights, NumPy views: nothing counts such a change."""
    torch.manual_seed(0)
    model, x = expand(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), 3, seed=0), torch.randn(5, 4)
    twin = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(each.parameters(), lr=0.1) for each in (model, twin)]
    if fused:
        fuse(optimizers[0], model)
    for _ in range(3):
        for each, optimizer in zip((model, twin), optimizers, strict=True):
            optimizer.zero_grad()
            each.train()(x).square().mean().backward()
            optimizer.step()
            each.eval()(x)
            copies = each[0].parametrizations.weight.original
            if each is model:
                change(copies)
            else:
                with torch.no_grad():
                    copies.mul_(0.5)
        torch.testing.assert_close(model(x), twin(x))
        torch.testing.assert_close(model[0].weight, copies.mean(0))


def test_memory_that_was_shared_before_the_optimizer_was_fused():
    torch.manual_seed(0)
    model, x = expand(nn.Linear(4, 3), 3, seed=0), torch.randn(5, 4)
    array = model.parametrizations.weight.original.detach().numpy()
    optimizer = fuse(torch.optim.SGD(model.parameters(), lr=0.1), model)
    for _ in range(2):
        model(x).square().mean().backward()
        optimizer.step()
        array[...] = 0.0
        torch.testing.assert_close(model(x), model.bias.expand(5, 3))


def test_an_exponential_average_evaluates_to_its_weights():
    torch.manual_seed(0)
    model, x = expand(nn.Linear(4, 3), 3, seed=0), torch.randn(5, 4)
    average = copy.deepcopy(model).eval()
    average(x)
    for mine, theirs in zip(average.parameters(), model.parameters(), strict=True):
        mine.data.mul_(0.9).add_(theirs.data, alpha=0.2)
    expected = nn.functional.linear(x, average.parametrizations.weight.original.mean(0), average.bias)
    torch.testing.assert_close(average(x), expected)
    torch.testing.assert_close(collapse(average)(x), expected)


def test_the_gradient_of_the_weight_is_the_sum_of_its_copies_and_is_not_written_to():
    layer, x = expand(nn.Linear(4, 3), 3, seed=0), torch.randn(2, 4)
    assert layer.weight.grad is None
    layer(x).sum().backward()
    torch.testing.assert_close(layer.weight.grad + 0, x.sum(0).expand(3, 4))
    for write in (lambda g: g.mul_(2), lambda g: g[0].zero_(), lambda g: g.data.zero_()):
        with pytest.raises(RuntimeError, match=r"change layer\.parametrizations\.weight\.original\.grad"):
            write(layer.weight.grad)
    with pytest.raises(RuntimeError, match=r"change layer\.parametrizations"):
        layer.weight.grad = torch.zeros(3, 4)
    layer.weight.grad = None
    assert layer.parametrizations.weight.original.grad is None
    weight = layer.weight
    weight.retain_grad()
    weight.square().sum().backward()
    torch.testing.assert_close(weight.grad, 2 * weight.detach() + 0)


@pytest.mark.parametrize("register", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_that_would_never_be_called_are_refused(register):
    layer = expand(nn.Linear(4, 3), 3, seed=0)
    with pytest.raises(RuntimeError, match=r"register them on the copies \(layer\.parametrizations"):
        getattr(layer.weight, register)(lambda gradient: gradient * 0)


def test_memory_that_cannot_be_followed_is_not_handed_out():
    layer = expand(nn.Linear(4, 3), 3, seed=0)
    with pytest.raises(RuntimeError, match=r"export layer\.weight\.detach\(\)\.clone\(\)"):
        torch.from_dlpack(layer.weight.detach())
    torch.from_dlpack(layer.weight.detach().clone()).zero_()
    assert layer.weight.abs().max() > 0


class Constrained(nn.Linear):
    """A layer that limits its weight in its own forward pass."""

    def __init__(self, constrain):
        super().__init__(4, 3)
        self.constrain = constrain

    def forward(self, x):
        self.constrain(self)
        return super().forward(x)


def renormalize(layer):
    layer.weight.data = torch.renorm(layer.weight.data, 2, 0, 0.1)


IN_PASS = {"clamped data": lambda layer: layer.weight.data.clamp_(-0.01, 0.01), "assigned data": renormalize}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("constrain", IN_PASS)
def test_data_that_a_pass_writes_bound_the_copies(constrain, fused, training):
    """As they bound a plain layer, and the copies stay apart where nothing is out of bounds."""
    torch.manual_seed(0)
    layer = Constrained(IN_PASS[constrain])
    model = expand(nn.Sequential(layer), 3, seed=0, init="replicated").train(training)
    plain = copy.deepcopy(nn.Sequential(layer))
    collapse(plain)
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.1) for network in (model, plain)]
    if fused:
        fuse(optimizers[0], model)
    x = torch.randn(2, 4)
    torch.testing.assert_close(model(x), plain(x))
    for network, optimizer in zip((model, plain), optimizers, strict=True):
        network(x).square().sum().backward()
        optimizer.step()
    model(x)
    weights = [layer.weight.detach(), *layer.parametrizations.weight.original.detach(), plain[0].weight.detach()]
    for weight in weights[:-1] if constrain == "clamped data" else weights[:1]:
        if constrain == "clamped data":
            assert weight.abs().max() <= 0.01
        elif training:
            assert weight.norm(dim=1).max() <= 0.1 + 1e-6


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "write",
    [lambda w: w.clamp_(-9, 9), lambda w: w.renorm_(2, 0, 99), lambda w: w[0].clamp_(-9, 9), lambda w: w.mul_(1)],
)
def test_bounds_that_hold_leave_the_copies_apart(write, fused):
    model = expand(nn.Sequential(Constrained(lambda layer: write(layer.weight.data))), 3, seed=0)
    if fused:
        fuse(torch.optim.SGD(model.parameters(), lr=0.1), model)
    copies = model[0].parametrizations.weight.original.detach().clone()
    model(torch.randn(2, 4))
    assert torch.equal(model[0].parametrizations.weight.original, copies)


def test_a_mask_of_a_pass_holds_for_every_copy():
    mask = torch.tensor([[0.0, 1.0, 1.0, 0.0]]).expand(3, 4)
    model = expand(nn.Sequential(Constrained(lambda layer: layer.weight.data.mul_(mask))), 3, seed=0)
    model(torch.randn(2, 4))
    assert all(torch.equal(copy == 0, mask == 0) for copy in model[0].parametrizations.weight.original)


def test_whoever_holds_a_weight_reads_what_its_data_are_set_to():
    class Held(nn.Linear):
        def forward(self, x):
            weight = self.weight
            weight.data = torch.zeros(3, 4)
            return nn.functional.linear(x, weight, self.bias)

    model = expand(nn.Sequential(Held(4, 3)), 3)
    assert torch.equal(model(torch.ones(1, 4))[0], model[0].bias)
    weight = model[0].weight
    weight.data = torch.ones(3, 4)
    assert torch.equal(weight.detach(), torch.ones(3, 4))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_data_that_a_pass_without_gradients_writes_are_stored(mode):
    model = expand(nn.Sequential(Constrained(renormalize)), 3, seed=0, init="replicated").eval()
    with mode():
        model(torch.ones(1, 4))
    assert model[0].parametrizations.weight.original.norm(dim=2).max() <= 0.1 + 1e-6


def test_assignment_within_a_pass_is_refused():
    model = expand(nn.Sequential(Constrained(lambda layer: setattr(layer, "weight", torch.zeros(3, 4)))), 3)
    copies = model[0].parametrizations.weight.original.detach().clone()
    with pytest.raises(RuntimeError, match="not assigned within a forward pass"):
        model(torch.ones(1, 4))
    assert torch.equal(model[0].parametrizations.weight.original, copies)


def test_a_weight_that_is_put_back_is_what_it_has_been_since():
    torch.manual_seed(0)
    layer, x = expand(nn.Linear(4, 3), 3, seed=0), torch.randn(2, 4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    kept = layer.weight
    value = kept.detach().clone()
    layer(x).square().sum().backward()
    optimizer.step()
    layer.weight = torch.zeros(3, 4)
    layer.weight = kept  # of before the step
    torch.testing.assert_close(layer.eval().weight.detach(), value)
    kept = layer.weight
    layer.weight = torch.zeros(3, 4)
    with torch.no_grad():
        kept.mul_(2)
    assert layer.weight.abs().max() == 0
    layer.weight = kept  # written to, meanwhile
    torch.testing.assert_close(layer.weight.detach(), 2 * value)


def test_copies_come_back_after_other_reads_and_for_tied_weights():
    layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    layers[1].weight = layers[0].weight
    expand(layers, 3, seed=0)
    copies = layers[0].parametrizations.weight.original
    before, kept = copies.detach().clone(), layers[0].weight
    other = layers[0].weight
    layers[0].weight = torch.zeros(4, 4)
    layers[0].weight = kept
    assert torch.equal(copies, before)
    layers[0].weight = other
    assert torch.equal(copies, before)
    value = torch.zeros(4, 4)
    torch.func.functional_call(layers, {"0.weight": value, "1.weight": value}, (torch.ones(1, 4),))
    assert torch.equal(copies, before)


def clamp(layer):
    with torch.no_grad():
        layer.weight.clamp_(-0.01, 0.01)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("write", [clamp, lambda layer: layer.weight.detach().mul_(0.5)])
def test_what_a_pass_writes_elsewhere_is_refused(write, fused, training):
    model, x = expand(nn.Sequential(Constrained(write)), 3, seed=0).train(training), torch.randn(2, 4)
    if fused:
        fuse(torch.optim.SGD(model.parameters(), lr=0.1), model)
    with pytest.raises(RuntimeError, match="within a forward pass"):
        model(x)


def test_a_pass_may_read_data():
    """A straight-through estimator: the value of the rounded weight of this pass, the gradient of the weight."""

    class Rounded(nn.Linear):
        def forward(self, x):
            weight = self.weight
            return nn.functional.linear(x, weight + ((weight.data * 8).round() / 8 - weight.data))

    torch.manual_seed(0)
    model, x = expand(nn.Sequential(Rounded(4, 3, bias=False)), 3, seed=0, spread=1.0), torch.randn(2, 4)
    output = model(x)
    torch.testing.assert_close(output, x @ ((model[0].weight.detach() * 8).round() / 8).T)
    output.sum().backward()
    assert model[0].parametrizations.weight.original.grad.sum(0).allclose(x.sum(0).expand(3, 4))


@pytest.mark.parametrize("training", [False, True])
def test_a_conversion_of_the_layout_changes_nothing(training):
    model = expand(nn.Sequential(nn.Conv2d(2, 3, 3)), 3, seed=0, spread=1.0).train(training)
    copies = model[0].parametrizations.weight.original.detach().clone()
    nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)
    assert torch.equal(model[0].parametrizations.weight.original, copies)


@pytest.mark.parametrize("training", [False, True])
def test_what_is_replaced_for_a_while_comes_back(training):
    layer, x = expand(nn.Linear(4, 3), 3, seed=0, spread=1.0).train(training), torch.randn(2, 4)
    copies = layer.parametrizations.weight.original.detach().clone()
    output = torch.func.functional_call(layer, {"weight": torch.zeros(3, 4)}, (x,))
    torch.testing.assert_close(output, layer.bias.expand(2, 3))
    assert torch.equal(layer.parametrizations.weight.original, copies)
    kept = layer.weight
    layer.weight = torch.ones(3, 4)
    layer.weight = torch.zeros(3, 4)
    layer.weight = kept
    assert torch.equal(layer.parametrizations.weight.original, copies)
    layer.weight = layer.weight
    assert torch.equal(layer.parametrizations.weight.original, copies)


def test_a_value_whose_gradient_would_be_lost_is_refused():
    layer = expand(nn.Linear(4, 3), 3)
    with pytest.raises(RuntimeError, match="gradient does not reach it"):
        torch.func.functional_call(layer, {"weight": torch.zeros(3, 4, requires_grad=True)}, (torch.ones(1, 4),))


@pytest.mark.parametrize("training", [True, False])
def test_the_weight_of_another_kernel_is_no_tie(training):
    first, second = expand(nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)]), 3).train(training)
    copies = second.parametrizations.weight.original.detach().clone()
    with pytest.raises(RuntimeError, match="tied before they are expanded"):
        second.weight = first.weight
    assert torch.equal(second.parametrizations.weight.original, copies)
    second.weight = first.weight.detach()
    torch.testing.assert_close(second.weight, first.weight)
