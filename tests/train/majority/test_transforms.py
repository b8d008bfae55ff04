"""Majority kernels under transforms of torch: functional calls, higher derivatives, precisions, recomputation."""

import copy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from collegium import expand, fuse, set_step

# torch compiles what forward derivatives need when they are first asked for, in whichever test of a process that is.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning:torch")


def mlp(*widths):
    torch.manual_seed(0)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def originals(model):
    return [parameter for name, parameter in model.named_parameters() if name.endswith(".original")]


def test_functional_call_and_its_transforms():
    model, x = expand(mlp(4, 8, 3), 3, seed=0), torch.randn(5, 4)
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(values, x):
        return torch.func.functional_call(model, values, (x,)).square().mean()

    gradients = torch.func.grad(loss)(parameters, x)
    model(x).square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x[:, None])
    torch.testing.assert_close({name: value.mean(0) for name, value in each.items()}, gradients)
    stacked = {name: torch.stack([value, 2 * value]) for name, value in parameters.items()}
    both = torch.func.vmap(loss, in_dims=(0, None))(stacked, x)
    torch.testing.assert_close(both[0], loss(parameters, x))


def test_second_derivatives():
    model, x = expand(nn.Linear(3, 2).double(), 3, seed=0), torch.randn(4, 3, dtype=torch.float64)
    copies = originals(model)[0]

    def loss(values):
        named = {"parametrizations.weight.original": values, "bias": model.bias}
        return torch.func.functional_call(model, named, (x,)).pow(3).sum()

    assert torch.autograd.gradgradcheck(loss, (copies.detach().requires_grad_(),))


def test_autocast_keeps_copies_in_full_precision():
    model, x = expand(mlp(4, 8, 3), 3, seed=0), torch.randn(5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    for copies in originals(model):
        assert copies.grad.dtype == torch.float32
        assert copies.grad.abs().max() > 0


def test_half_precision_copies():
    model = expand(nn.Linear(4, 3).to(torch.bfloat16), 3, seed=0)
    model(torch.randn(2, 4, dtype=torch.bfloat16)).sum().backward()
    assert originals(model)[0].grad.dtype == torch.bfloat16


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_activations_are_computed_again_with_the_same_p(reentrant):
    torch.manual_seed(0)
    plain = expand(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4)), 3, seed=0)
    checkpointed, x = copy.deepcopy(plain), torch.randn(7, 5, requires_grad=True)
    plain(x).square().sum().backward()
    checkpoint(checkpointed, x, use_reentrant=reentrant).square().sum().backward()
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # by torch's own formulas
def test_derivatives_forward():
    """Forward mode, alone and over the backward pass: both operators are linear."""
    model, x = expand(nn.Linear(3, 2).double(), 3, seed=0), torch.randn(4, 3, dtype=torch.float64)
    values = {name: parameter.detach() for name, parameter in model.named_parameters()}
    directions = {name: torch.randn_like(value) for name, value in values.items()}

    def outputs(values):
        return torch.func.functional_call(model, values, (x,)).pow(3).sum(0)

    _, along = torch.func.jvp(outputs, (values,), (directions,))
    jacobian = torch.func.jacrev(outputs)(values)
    expected = sum((jacobian[name] * directions[name]).flatten(1).sum(1) for name in values)
    torch.testing.assert_close(along, expected)
    torch.testing.assert_close(torch.func.jacfwd(outputs)(values), jacobian)
    loss = lambda values: outputs(values).sum()  # noqa: E731
    torch.testing.assert_close(torch.func.hessian(loss)(values), torch.func.jacrev(torch.func.jacrev(loss))(values))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit is
@pytest.mark.parametrize("fused", [False, True])
def test_a_trace_holds_the_mean_and_no_sample(fused):
    model, x = expand(nn.Sequential(nn.Linear(4, 3), nn.Tanh()), 3, seed=0), torch.randn(2, 4)
    if fused:
        optimizer = fuse(torch.optim.SGD(model.parameters(), lr=0.1), model)
        model(x).sum().backward()
        optimizer.step()
    with pytest.raises(RuntimeError, match="one sample of the majority kernels"):
        torch.jit.trace(model, x)
    with pytest.raises(RuntimeError, match="collapse the model"):
        torch.jit.script(model)
    model.eval()
    assert torch.equal(torch.jit.trace(model, x)(x), model(x))


def test_a_graph_without_its_model_says_so():
    with pytest.raises(RuntimeError, match="a model that this process does not have"):
        torch.ops.collegium.mix(torch.ones(3, 2, 2), 10**6, 0, True)


class Tied(nn.Module):
    """Reads a weight beside the layer's own use of it."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return nn.functional.linear(self.layer(x), self.layer.weight.t())


@pytest.mark.parametrize("training", [False, True])
def test_graphs_of_fx_do_not_hold_a_weight(training):
    model = expand(Tied()).train(training)
    with pytest.raises(RuntimeError, match=r"graph of torch.fx"):
        torch.fx.symbolic_trace(model)


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd, torch.func.vmap, torch.func.hessian])
def test_transforms_of_a_fused_model_before_its_first_pass(transform):
    plain = expand(mlp(4, 3, 2), 3, seed=0)
    fused = copy.deepcopy(plain)
    fuse(torch.optim.SGD(fused.parameters(), lr=0.1), fused)
    x = torch.randn(2, 4) if transform is torch.func.vmap else torch.randn(4)
    torch.testing.assert_close(transform(fused)(x), transform(plain)(x))


@pytest.mark.parametrize("create_graph", [False, True])
def test_gradients_of_several_losses_in_one_batch(create_graph):
    model, x = expand(mlp(4, 8, 3).double(), 3, seed=0), torch.randn(5, 4, dtype=torch.float64)
    losses, parameters = model(x).square().sum(0), list(model.parameters())
    together = torch.autograd.grad(
        losses,
        parameters,
        torch.eye(3, dtype=x.dtype),
        is_grads_batched=True,
        retain_graph=True,
        create_graph=create_graph,
    )
    one_by_one = [torch.autograd.grad(loss, parameters, create_graph=True) for loss in losses]
    for gradient, *rows in zip(together, *one_by_one, strict=True):
        torch.testing.assert_close(gradient, torch.stack(rows))
    if create_graph:
        second = torch.autograd.grad(sum(g.pow(3).sum() for g in together), parameters, retain_graph=True)
        expected = torch.autograd.grad(sum(g.pow(3).sum() for row in one_by_one for g in row), parameters)
        torch.testing.assert_close(second, expected)


def test_jacobians_of_parameters_in_one_batch():
    layer, x = expand(nn.Linear(4, 2), 3, seed=0), torch.randn(4)
    names, values = zip(*layer.named_parameters(), strict=True)

    def output(*values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    expected = torch.autograd.functional.jacobian(output, values)
    torch.testing.assert_close(torch.autograd.functional.jacobian(output, values, vectorize=True), expected)


class Reversible(torch.autograd.Function):
    """A function that computes ``run`` without gradients, and again with them in its backward pass."""

    @staticmethod
    def forward(ctx, x, run):
        ctx.run = run
        ctx.save_for_backward(x)
        with torch.no_grad():
            return run(x)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        with torch.enable_grad():
            again = x.detach().requires_grad_()
            torch.autograd.backward(ctx.run(again), gradient)
        return again.grad, None


@pytest.mark.parametrize(
    "run",
    [
        lambda layer, x: layer(input=x),
        lambda layer, x: layer(x.relu()),
        lambda layer, x: nn.functional.linear(x, layer.weight, layer.bias),
    ],
    ids=["by keyword", "after another operation", "without the layer"],
)
@pytest.mark.parametrize(
    "by", [lambda run, x: checkpoint(run, x, use_reentrant=True), lambda run, x: Reversible.apply(x, run)]
)
def test_what_a_backward_pass_computes_again_is_what_the_forward_pass_has_computed(run, by):
    layer, x = expand(nn.Linear(4, 3), 3, spread=1.0, seed=0), torch.rand(2, 4, requires_grad=True)
    expected = run(layer, x)
    expected.square().sum().backward()
    gradient = layer.parametrizations.weight.original.grad.clone()
    set_step(layer, 0)  # of which no p has been used
    layer.zero_grad()
    found = by(lambda x: run(layer, x), x)
    found.square().sum().backward()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(layer.parametrizations.weight.original.grad, gradient)


def test_a_checkpoint_of_what_is_not_differentiated_takes_the_mean():
    layer, x = expand(nn.Linear(4, 3), 3, spread=1.0, seed=0), torch.rand(2, 4)
    with pytest.warns(UserWarning, match="None of the inputs"):
        found = checkpoint(layer, x, use_reentrant=True)
    torch.testing.assert_close(found, layer.eval()(x), check_stride=False)


@pytest.mark.parametrize("step", [2**63, 2**64 + 3, -(2**70) + 5])
def test_compiled_graphs_take_steps_of_any_size(step):
    """p depends on the step modulo 2^64."""
    model, other = (expand(nn.Linear(4, 2), 3, seed=0) for _ in range(2))
    other.load_state_dict(model.state_dict())
    set_step(model, step)
    set_step(other, step % 2**64)
    x = torch.randn(3, 4)
    found = torch.compile(model, backend="aot_eager")(x)
    found.sum().backward()
    torch.testing.assert_close(found, other(x))
    assert model.parametrizations.weight.original.grad is not None
