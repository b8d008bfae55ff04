"""Expand, train, collapse: which parameters become kernels, what layers see, and what is left."""

import ast
import copy
import dataclasses
import doctest
import importlib
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from collegium import collapse, expand, fuse, set_step
from collegium.train.majority.draw import probabilities
from collegium.train.majority.kernel import MajorityKernel, majority_kernels, mixing
from collegium.train.majority.targets.choice import kernel_names
from collegium.train.models.ensembles import MlpEnsemble


def mlp(*widths):
    torch.manual_seed(0)
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def originals(model):
    return [parameter for name, parameter in model.named_parameters() if name.endswith(".original")]


def p_of(model, index):
    """p of the kernel number ``index``, as of now."""
    kernel = list(majority_kernels(model).values())[index]
    return probabilities(kernel.draw, kernel.expansion, originals(model)[index].shape[1:])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.hidden, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.hidden(self.embed(x)))


CASES = {
    "linear": (lambda: nn.Linear(3, 4), (2, 3), ["weight"]),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 5), ["weight"]),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, bias=False), (2, 4, 5, 5), ["weight"]),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2), (2, 2, 3, 3, 3), ["weight"]),
    "grouped": (lambda: nn.Conv2d(4, 8, 3, groups=4), (2, 4, 5, 5), ["weight"]),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), (2, 4, 5, 5), ["weight"]),
    "normed": (lambda: nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.PReLU(4)), (2, 3, 2, 2), ["0.weight"]),
    "members": (lambda: MlpEnsemble(3, [4, 4], 2, 2, True), (5, 3), [f"layers.{i}.weight" for i in range(3)]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_kernels_and_nothing_else_are_expanded(case):
    make, _, expected = CASES[case]
    model = make()
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    expand(model, 3)
    for name, parameter in model.named_parameters():
        plain = name.replace("parametrizations.", "").removesuffix(".original")
        grown = (3,) if plain in expected else ()
        assert tuple(parameter.shape) == grown + shapes[plain]


@pytest.mark.parametrize("case", CASES)
def test_replicated_expansion_and_collapse_is_the_identity(case):
    make, shape, _ = CASES[case]
    model, x = make(), torch.randn(shape)
    kind, state, before = type(model), {k: v.clone() for k, v in model.state_dict().items()}, model.eval()(x)
    parameters = dict(model.named_parameters())
    expand(model, 3, init="replicated")
    torch.testing.assert_close(model.eval()(x), before)
    training = [module.train() for module in model.modules() if isinstance(module, MajorityKernel)]
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)  # equal copies mix to themselves
    assert training
    assert collapse(model) is model
    assert type(model) is kind
    assert list(model.state_dict()) == list(state)
    torch.testing.assert_close(dict(model.state_dict()), state)
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    torch.testing.assert_close(model(x), before)


@pytest.mark.parametrize("case", CASES)
def test_gradient_of_copy_k_is_p_k_times_the_gradient(case):
    make, shape, _ = CASES[case]
    model, x = expand(make(), 4, seed=3), torch.randn(shape)
    model(x).square().sum().backward()
    for index, copies in enumerate(originals(model)):
        gradient = copies.grad.sum(0)  # since p sums to one
        torch.testing.assert_close(copies.grad, p_of(model, index) * gradient, rtol=1e-4, atol=1e-5)
        assert gradient.abs().max() > 0


def test_layers_see_the_mixture_in_training_and_the_mean_in_evaluation():
    model = expand(nn.Linear(6, 5), 3, seed=1)
    copies = originals(model)[0]
    torch.testing.assert_close(model.weight, (p_of(model, 0) * copies).sum(0))
    torch.testing.assert_close(model.eval().weight, copies.mean(0))
    with mixing(model, "sample"):
        torch.testing.assert_close(model.weight, (p_of(model, 0) * copies).sum(0))
    with mixing(model.train(), "mean"):
        torch.testing.assert_close(model.weight, copies.mean(0))


@pytest.mark.parametrize("e", [1, 2, 3, 8])
def test_sgd_moves_the_mean_by_a_share_of_the_gradient(e):
    """w̄ ← w̄ − (ℓ/e) ∂L/∂w exactly, whatever p was, because p sums to one."""
    model, rate = expand(nn.Linear(5, 4).double(), e, seed=2), 0.3
    x = torch.randn(3, 5, dtype=torch.float64)
    before, weight = originals(model)[0].detach().mean(0), model.weight.detach().requires_grad_()
    functional.linear(x, weight, model.bias).square().sum().backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()
    after = originals(model)[0].mean(0)
    torch.testing.assert_close(after, before - rate / e * weight.grad, rtol=0, atol=1e-12)


def test_nothing_but_the_weight_waits_for_the_backward_pass():
    """Saved between forward and backward: the layer's input and the mixed weight, never p nor the copies."""
    model, x = expand(nn.Linear(64, 32), 3), torch.randn(2, 64)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        model(x).sum()
    elements = sum(tensor.numel() for tensor in saved)
    assert elements <= x.numel() + 64 * 32
    (mixed, _), *_ = model.weight.grad_fn.next_functions
    assert not [value for value in vars(mixed).values() if isinstance(value, torch.Tensor)]
    assert mixed.draw == next(iter(majority_kernels(model).values())).draw


def test_choice_by_type_and_by_name():
    def expanded(**rules):
        model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Conv2d(2, 2, 1), "c": nn.Sequential(nn.Linear(2, 2))})
        return {name.split(".parametrizations")[0] for name in majority_kernels(expand(model, 2, **rules))}

    assert expanded() == {"a", "b", "c.0"}
    assert expanded(include=[nn.Conv2d]) == {"b"}
    assert expanded(include=["c.*"]) == {"c.0"}
    assert expanded(include=["*.weight"], exclude=["a"]) == {"b", "c.0"}
    assert expanded(exclude=[nn.Linear]) == {"b"}


def test_frozen_weights_norms_and_embeddings_are_left_alone():
    frozen = nn.Linear(2, 2).requires_grad_(False)
    for module in (frozen, nn.Embedding(3, 2), nn.LayerNorm(2), nn.BatchNorm1d(2), nn.GroupNorm(1, 2), nn.LSTM(2, 2)):
        assert kernel_names(module) == ()


def test_what_cannot_be_expanded_is_refused():
    with pytest.raises(ValueError, match="no kernel to expand"):
        expand(nn.Embedding(3, 2))
    with pytest.raises(ValueError, match="no kernel to expand"):
        expand(nn.Linear(2, 2), exclude=[nn.Linear])
    with pytest.raises(ValueError, match="expansion must be at least 1"):
        expand(nn.Linear(2, 2), 0)
    with pytest.raises(ValueError, match="weight is parametrized already"):
        expand(expand(nn.Linear(2, 2)))


def test_tied_kernels_are_one_kernel():
    model = Tied()
    x = torch.randn(3, 4)
    expand(model, 3, seed=0)
    read = []
    for layer in (model.first, model.second):
        layer.register_forward_hook(lambda layer, *_: read.append(layer.weight))
    model(x)
    assert read[0] is read[1]  # sampled once
    assert sum(parameter.dim() == 3 for parameter in model.parameters()) == 1
    model(x).sum().backward()
    mean = originals(model)[0].detach().mean(0)
    collapse(model)
    assert model.first.weight is model.second.weight
    assert isinstance(model.first.weight, nn.Parameter)
    torch.testing.assert_close(model.first.weight.detach(), mean)


def test_a_head_that_is_tied_to_an_embedding_is_left_alone():
    model = expand(Language(), 3)
    assert set(majority_kernels(model)) == {"hidden.parametrizations.weight.0"}
    assert model.head.weight is model.embed.weight
    collapse(model)(torch.tensor([1, 2])).sum().backward()


def test_attention_projections():
    torch.manual_seed(0)
    for attention in (nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2, kdim=6, vdim=4)):
        query, key, value = torch.randn(3, 2, 8), torch.randn(3, 2, attention.kdim), torch.randn(3, 2, attention.vdim)
        state = list(attention.state_dict())
        before = attention(query, key, value)[0]
        expand(attention, 3, init="replicated", seed=0)
        names = {
            name.split(".parametrizations")[0] + name.split("parametrizations")[1]
            for name in majority_kernels(attention)
        }
        assert any("out_proj" in name for name in names)
        assert (
            sum(p.dim() == 3 for p in attention.parameters())
            == len(names)
            == (2 if attention.in_proj_weight is not None else 4)
        )
        torch.testing.assert_close(attention(query, key, value)[0], before, rtol=1e-4, atol=1e-5)
        attention(query, key, value)[0].sum().backward()
        collapse(attention)
        assert list(attention.state_dict()) == state
        torch.testing.assert_close(attention(query, key, value)[0], before, rtol=1e-4, atol=1e-5)


def test_transformer_encoder_layer_in_both_modes():
    torch.manual_seed(0)
    layer, x = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), torch.randn(2, 3, 8)
    before = layer(x).detach()
    expand(layer, 3, init="replicated")
    torch.testing.assert_close(layer(x), before, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(layer.eval()(x), before, rtol=1e-4, atol=1e-5)


def test_reading_a_weight_often_draws_once():
    class Twice(nn.Linear):
        def forward(self, x):
            self.same = self.weight is self.weight
            return super().forward(x)

    model, x = expand(Twice(4, 3), 3), torch.ones(1, 4)
    for context in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        for training in (True, False):
            with context():
                model.train(training)(x)
            assert model.same
    with torch.inference_mode():
        inside = model.weight
    with torch.no_grad():
        assert not model.weight.is_inference()
        assert torch.equal(inside, model.weight)


def test_assigning_a_weight_sets_all_copies():
    model = expand(nn.Linear(4, 3), 3)
    model.weight = torch.ones(3, 4)
    torch.testing.assert_close(model.weight, torch.ones(3, 4))


def test_variance_of_the_mixture_is_two_over_e_plus_one():
    """E Σ p_k² = 2/(e+1), to which the documented variance goes back."""
    for e in (2, 3, 8):
        p = probabilities(originals_draw(), e, (100_000,)).double()
        assert float(p.square().sum(0).mean()) == pytest.approx(2 / (e + 1), rel=0.01)
        assert math.isclose(float(p.sum(0).mean()), 1, rel_tol=1e-6)


def test_draws_from_the_table_are_a_choice():
    """Kept by copies of the model; gradients are the shares of the same p."""
    model = copy.deepcopy(expand(nn.Linear(5, 4), 3, seed=0, draws="table"))
    kernel, copies = model.parametrizations.weight[0], model.parametrizations.weight.original
    assert kernel.draw.source == "table"
    p = probabilities(kernel.draw, 3, (4, 5))
    torch.testing.assert_close(model.weight, (p * copies).sum(0))
    model.weight.sum().backward()
    torch.testing.assert_close(copies.grad, p)
    assert not torch.isclose(p, probabilities(dataclasses.replace(kernel.draw, source="independent"), 3, (4, 5))).any()
    with pytest.raises(ValueError, match="draws must be one of 'independent', 'table', not 'tables'"):
        expand(nn.Linear(2, 2), draws="tables")


def originals_draw():
    return next(iter(majority_kernels(expand(nn.Linear(1, 1), seed=0)).values())).draw


def test_the_page_that_explains_the_method_is_right():
    found = doctest.testmod(importlib.import_module("collegium.train.majority.expand"))
    assert found.attempted >= 12
    assert not found.failed


def test_majority_kernels_need_nothing_of_the_rest():
    folder = Path(importlib.import_module("collegium.train.majority").__file__).parent
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert not name.startswith("collegium") or name.startswith("collegium.train.majority"), path.name


def test_what_is_no_module_is_not_collapsed():
    with pytest.raises(ValueError, match=r"what is collapsed is a torch\.nn\.Module, not 3"):
        collapse(3)


def test_a_part_that_is_tied_to_the_rest_says_so_when_it_has_been_collapsed():
    layers = nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)])
    layers[1].weight = layers[0].weight
    expand(layers, 4, seed=0)
    collapse(layers[0])
    with pytest.raises(RuntimeError, match="collapse it as a whole"):
        layers[1](torch.ones(1, 4))


def test_a_model_is_expanded_again_after_a_collapse():
    model = collapse(expand(nn.Linear(4, 4), 2, seed=0))
    assert expand(model, 3, seed=0)(torch.ones(1, 4)).shape == (1, 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_state_of_floating_numbers_keeps_the_draws(dtype):
    model = expand(nn.Linear(4, 2), seed=2**62 - 1)
    with pytest.warns(UserWarning, match="is_floating_point"):
        model.load_state_dict({name: value.to(dtype) for name, value in model.state_dict().items()})
    kernel = model.parametrizations.weight[0]
    assert (kernel.clock.seed, kernel.clock.step) == (2**62 - 1, 0)


@pytest.mark.parametrize("step", [2**63, -(2**63) - 1, 2**64 + 5])
def test_any_step_has_a_state(step):
    model, other = expand(nn.Linear(4, 2), seed=0), expand(nn.Linear(4, 2), seed=1)
    set_step(model, step)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.weight, other.weight)


@pytest.mark.parametrize("kind", [torch.optim.SGD, lambda p, lr: torch.optim.Adam(p, lr=lr, fused=True)])
def test_gradients_from_before_expand_are_dropped(kind):
    layer, x = nn.Linear(4, 2), torch.ones(1, 4)
    layer(x).sum().backward()
    expand(layer, 3, seed=0)
    assert layer.weight.grad is None
    copies = layer.parametrizations.weight.original
    before = copies.detach().clone()
    optimizer = kind(layer.parameters(), lr=0.1)
    optimizer.step()
    assert torch.equal(copies, before)
    layer(x).sum().backward()
    torch.testing.assert_close(copies.grad.sum(0), torch.ones(2, 4))


@pytest.mark.parametrize("init", ["perturbed", "independent"])
def test_the_default_device_is_not_that_of_random_numbers(init):
    layers = [nn.Linear(4, 3), nn.Linear(4, 3)]
    layers[1].load_state_dict(layers[0].state_dict())
    expand(layers[0], 3, init=init, seed=0)
    expected = layers[0].weight.clone()
    with torch.device("meta"):
        expand(layers[1], 3, init=init, seed=0)
        assert torch.equal(layers[1].weight, expected)
        assert layers[1].state_dict()["parametrizations.weight.0._extra_state"].device.type == "cpu"
        assert expand(nn.Linear(2, 2, device="cpu"), 2).weight.device.type == "cpu"
        optimizer = fuse(torch.optim.Adam(layers[1].parameters()), layers[1])
        for _ in range(2):
            layers[1](torch.ones(1, 4, device="cpu")).sum().backward()
            optimizer.step()


class Marked(nn.Parameter):
    """A parameter of a class of one's own."""


@pytest.mark.parametrize("fused", [False, True])
def test_parameters_of_another_class_stay_of_it_and_are_written_to(fused):
    layer = nn.Linear(4, 2)
    layer.weight = Marked(layer.weight.detach())
    expand(layer, 3, seed=0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    if fused:
        fuse(optimizer, layer)
    layer(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    with torch.no_grad():
        layer.weight.fill_(0.5)
    assert bool((layer.parametrizations.weight.original == 0.5).all())
    assert type(layer.parametrizations.weight.original) is Marked
    assert type(collapse(layer).weight) is Marked
