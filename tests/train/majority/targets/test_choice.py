"""Which parameters are expanded, what is said of the others, and that a refused model stays as it was."""

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from collegium import collapse, expand, expansion_report
from collegium.train.majority.kernel import majority_kernels


class Experts(nn.Module):
    """Stacked experts, as mixtures of experts hold them."""

    def __init__(self):
        super().__init__()
        self.gate_up_proj = nn.Parameter(torch.randn(3, 4, 4))
        self.position = nn.Parameter(torch.randn(1, 4))

    def forward(self, x):
        return torch.stack([x @ self.gate_up_proj[expert] for expert in range(3)]).mean(0) + self.position


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(7, 4)
        self.encoder = nn.LSTM(4, 4, batch_first=True)
        self.cell = nn.GRUCell(4, 4)
        self.experts = Experts()
        self.norm = nn.LayerNorm(4)
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.head = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 7))

    def forward(self, tokens):
        x = self.norm(self.encoder(self.embed(tokens))[0])
        x = self.cell(x.flatten(0, 1)).view_as(x)
        return self.head(self.frozen(self.experts(x)))


def names(model):
    return {name.replace(".parametrizations", "").removesuffix(".0") for name in majority_kernels(model)}


def test_a_string_is_one_pattern_and_a_module_s_name_stands_for_what_is_in_it():
    heads = {"head.0.weight", "head.1.weight"}
    assert set(expansion_report(Network()).expanded) == heads
    assert set(expansion_report(Network(), include="head").expanded) == heads
    assert set(expansion_report(Network(), include="head*").expanded) == heads
    assert set(expansion_report(Network(), include="head.0").expanded) == {"head.0.weight"}
    assert set(expansion_report(Network(), exclude="head.0").expanded) == {"head.1.weight"}
    assert set(expansion_report(Network(), include=nn.Linear).expanded) == heads
    assert set(expansion_report(Network(), include=[nn.Sequential]).expanded) == heads
    assert names(expand(Network(), 2, exclude="head.0")) == {"head.1.weight"}
    with pytest.raises(ValueError, match="no kernel to expand"):
        expand(Network(), exclude="head")


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"include": "hed"}, r"include: no module or parameter is named 'hed'; there are head"),
        ({"exclude": ["head", "decoder.*"]}, r"exclude: no module or parameter is named 'decoder\.\*'"),
        ({"include": [nn.Conv2d]}, "include: the model has no Conv2d"),
        ({"include": [3]}, "include takes module types and shell patterns of names .*, not 3"),
        ({"include": 3}, "include takes module types and shell patterns of names .*, not 3"),
        ({"include": nn.Linear(2, 2)}, "include takes module types and shell patterns of names .*, not Linear"),
        ({"exclude": nn.Sequential(nn.Linear(2, 2))}, "exclude takes module types .*, not Sequential"),
        ({"include": b"head"}, "include takes module types and shell patterns of names .*, not b'head'"),
        ({"include": re.compile("head")}, "include takes module types and shell patterns .*, not re"),
        ({"include": ""}, "include has an empty name, which is that of the whole model"),
        ({"exclude": ["head", ""]}, "exclude has an empty name"),
        ({"include": []}, r"no kernel to expand.*cell\.weight_ih: a weight of GRUCell: recurrent weights are expanded"),
        (
            {"include": "norm", "exclude": "encoder"},
            r"no kernel .*experts.gate_up_proj: .*in include \('experts.gate_up",
        ),
    ],
)
def test_rules_that_match_nothing_are_refused(rules, message):
    model = Network()
    with pytest.raises(ValueError, match=message):
        expand(model, **rules)
    assert not majority_kernels(model)
    expansion_report(model, exclude=[nn.Conv2d])  # a type that need not be there


def test_the_report_says_why_each_parameter_is_left():
    report = expansion_report(Network(), exclude="head.1")
    assert report.expanded == ("head.0.weight",)
    reasons = {
        "embed.weight": "an embedding",
        "encoder.weight_ih_l0": "a weight of LSTM: recurrent weights are expanded where include names",
        "encoder.bias_ih_l0": "one axis",
        "cell.weight_hh": "a weight of GRUCell: recurrent",
        "experts.gate_up_proj": r"a parameter of Experts, .* name it in include ('experts.gate_up_proj')",
        "norm.weight": "a norm",
        "frozen.weight": "frozen",
        "head.1.weight": "excluded by 'head.1'",
    }
    for name, reason in reasons.items():
        first, _, last = reason.partition(".* ")
        assert first in report.left[name]
        assert last in report.left[name]
    assert set(report.left) | set(report.expanded) == {name for name, _ in Network().named_parameters()}
    text = str(report)
    assert "chosen (1): head.0.weight" in text
    assert "recurrent weights" in text
    assert expansion_report(Network(), include="head.0").left["head.1.weight"] == "not covered by include"


def test_the_report_of_an_expanded_model():
    rules = {"include": ["encoder", "head", "*.gate_up_proj"], "exclude": "head.1"}
    before = expansion_report(Network(), **rules)
    after = expansion_report(expand(Network(), 2, **rules), **rules)
    assert set(after.expanded) == set(before.expanded)
    assert all("expanded" not in line.partition(":")[0] for line in f"{before}\n{after}".splitlines())
    assert after.left == before.left
    without_rules = expansion_report(expand(Network(), 2, include=["encoder", "head.0"]))
    assert set(without_rules.expanded) == {"encoder.weight_ih_l0", "encoder.weight_hh_l0", "head.0.weight"}
    assert without_rules.left["head.1.weight"] == "not chosen by expand"


def test_tied_kernels_and_tied_embeddings_in_the_report():
    model = nn.ModuleDict(
        {"embed": nn.Embedding(4, 4), "head": nn.Linear(4, 4), "a": nn.Linear(4, 4), "b": nn.Linear(4, 4)}
    )
    model["head"].weight = model["embed"].weight
    model["b"].weight = model["a"].weight
    report = expansion_report(model)
    assert report.expanded == ("a.weight", "b.weight")
    assert "shared with what is no kernel" in report.left["head.weight"]


RECURRENT = {
    "lstm": lambda: nn.LSTM(4, 4, num_layers=2, bidirectional=True, batch_first=True),
    "projected": lambda: nn.LSTM(4, 4, proj_size=2),
    "gru": lambda: nn.GRU(4, 4),
    "rnn": lambda: nn.RNN(4, 4),
}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_layers_are_expanded_where_they_are_named(kind):
    torch.manual_seed(0)
    layer, x = RECURRENT[kind](), torch.randn(3, 5, 4)
    state, parameters = list(layer.state_dict()), dict(layer.named_parameters())
    weights = [name for name in state if name.startswith("weight")]
    before = layer(x)[0].detach()
    expand(layer, 3, init="replicated", include=type(layer), seed=0)
    assert len(majority_kernels(layer)) == len(weights)
    torch.testing.assert_close(layer(x)[0], before, rtol=1e-4, atol=1e-5)  # equal copies mix to themselves
    torch.testing.assert_close(layer.eval()(x)[0], before)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.5)
    outputs = []
    for _ in range(2):
        optimizer.zero_grad()
        out = layer.train()(x)[0]
        out.square().sum().backward()
        optimizer.step()
        outputs.append(out.detach())
    assert not torch.isclose(*outputs).all()
    copies = {name: layer.parametrizations[name].original for name in weights}
    assert all((tensor[0] != tensor[1]).any() for tensor in copies.values())
    means = {name: tensor.detach().mean(0) for name, tensor in copies.items()}
    expected = layer.eval()(x)[0]
    collapse(layer)
    assert list(layer.state_dict()) == state
    assert all(parameters[name] is parameter for name, parameter in layer.named_parameters())
    for name in weights:
        torch.testing.assert_close(getattr(layer, name).detach(), means[name])
    torch.testing.assert_close(layer(x)[0], expected)
    assert type(layer).__name__ == type(RECURRENT[kind]()).__name__


def test_everything_that_is_named_is_expanded():
    model, tokens = Network(), torch.randint(7, (2, 5), generator=torch.Generator().manual_seed(0))
    before, state = model(tokens).detach(), list(model.state_dict())
    expand(model, 3, init="replicated", include=["encoder", "cell", "head", "*.gate_up_proj"], seed=0)
    assert names(model) == {
        "encoder.weight_ih_l0", "encoder.weight_hh_l0", "cell.weight_ih", "cell.weight_hh", "experts.gate_up_proj",
        "head.0.weight", "head.1.weight",
    }  # fmt: skip
    torch.testing.assert_close(model(tokens), before, rtol=1e-4, atol=1e-5)
    model(tokens).square().sum().backward()
    assert model.experts.parametrizations.gate_up_proj.original.grad.abs().max() > 0
    collapse(model)
    assert list(model.state_dict()) == state
    torch.testing.assert_close(model(tokens), before, rtol=1e-4, atol=1e-5)


def test_a_pattern_for_everything_in_a_module_expands_no_parameters_of_unknown_kinds():
    assert set(expansion_report(Network(), include=["experts.*", "head.*"]).expanded) == {
        "head.0.weight",
        "head.1.weight",
    }


def computed(kind):
    layer = nn.Linear(4, 4)
    with pytest.warns(FutureWarning) if kind == "weight_norm" else torch.enable_grad():
        if kind == "weight_norm":
            nn.utils.weight_norm(layer)
        elif kind.startswith("spectral_norm"):
            nn.utils.spectral_norm(layer)
            if kind.endswith("forward"):
                layer(torch.ones(1, 4))
        elif kind == "pruning":
            prune.l1_unstructured(layer, "weight", 0.5)
        elif kind == "hypernetwork":
            weight = layer.weight
            del layer.weight
            layer.weight = weight * 2
    return nn.Sequential(layer, nn.Linear(4, 2))


@pytest.mark.parametrize(
    "kind", ["weight_norm", "spectral_norm", "spectral_norm after forward", "pruning", "hypernetwork"]
)
def test_computed_weights_are_refused_by_name(kind):
    model = computed(kind)
    state = list(model.state_dict())
    with pytest.raises(ValueError, match=r"0\.weight is no parameter: it is computed from others"):
        expand(model)
    assert list(model.state_dict()) == state
    assert names(expand(model, exclude="0")) == {"1.weight"}


def test_parametrized_weights_are_refused_by_name():
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"0\.weight is parametrized already; exclude it"):
        expand(model)
    assert names(expand(model, exclude="0")) == {"1.weight"}


def raising(weight, k, generator):
    if weight.shape[0] == 2:
        raise RuntimeError("out of ideas")
    return weight + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init": "replicate"}, "init must be 'perturbed', 'independent', 'replicated' or a function, not"),
        ({"expansion": 3.0}, "expansion must be a whole number, not 3.0"),
        ({"expansion": True}, "expansion must be at least 1"),
        ({"expansion": "3"}, "expansion must be a whole number, not '3'"),
        ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
        ({"correct_scale": "both"}, "correct_scale must be"),
        ({"init": raising}, "out of ideas"),
        ({"init": lambda weight, k, generator: weight[:1]}, r"init must return a tensor of shape \(4, 4\)"),
        ({"init": lambda weight, k, generator: weight.tolist()}, "init must return a tensor"),
    ],
)
def test_a_refused_model_is_as_it_was(arguments, message):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4), nn.Linear(4, 2))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    kinds, parameters = [type(module) for module in model], list(model.parameters())
    with pytest.raises((ValueError, RuntimeError), match=message):
        expand(model, include=["0", "1", "2"], **arguments)
    assert [type(module) for module in model] == kinds
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert model[1](torch.ones(2, 4))[0].shape == (2, 4)
    expand(model, include=["0", "1", "2"])


@pytest.mark.parametrize("given", [[nn.Linear(2, 2)], nn.Linear(2, 2).parameters(), None])
def test_what_is_no_module_is_refused(given):
    with pytest.raises(ValueError, match=r"what is expanded is a torch\.nn\.Module, not"):
        expand(given)


def test_no_rule_is_no_rule():
    assert expansion_report(Network(), include=None, exclude=None).expanded == ("head.0.weight", "head.1.weight")
    assert expansion_report(Network(), exclude=()).expanded == ("head.0.weight", "head.1.weight")
    either = (name for name in ["head.0", "head.1"])
    assert expansion_report(Network(), include=either).expanded == ("head.0.weight", "head.1.weight")


def test_lazy_layers_are_refused_until_they_have_a_shape():
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"0\.weight has no shape yet"):
        expand(model)
    model(torch.ones(1, 3))
    assert names(expand(model)) == {"0.weight", "1.weight"}


class Wrapper(nn.Module):
    """Forwards attributes to the module it wraps, as adapters and compiled modules do."""

    def __init__(self, wrapped):
        super().__init__()
        self.wrapped = wrapped

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.wrapped, name)

    def forward(self, x):
        return self.wrapped(x)


def test_wrappers_that_forward_attributes():
    torch.manual_seed(0)
    model, x = nn.Sequential(Wrapper(nn.Linear(4, 4)), nn.Linear(4, 2)), torch.randn(3, 4)
    state = list(model.state_dict())
    expand(model, 3, seed=0)
    assert names(model) == {"0.wrapped.weight", "1.weight"}
    expected = model.eval()(x)
    torch.testing.assert_close(collapse(model)(x), expected)
    assert list(model.state_dict()) == state


def test_a_compiled_layer_is_expanded_and_collapsed():
    model, x = torch.compile(nn.Linear(4, 2), backend="eager"), torch.randn(3, 4)
    expand(model, 3, seed=0)
    expected = model._orig_mod.eval()(x)
    torch.testing.assert_close(collapse(model)(x), expected)
    assert [name for name, _ in model.named_parameters()] == ["_orig_mod.weight", "_orig_mod.bias"]


class Three(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.ab = (nn.Parameter(torch.randn(2, 2)) for _ in range(3))


def test_a_class_may_name_one_kernel_by_a_string(monkeypatch):
    monkeypatch.setattr(Three, "majority_kernels", "ab", raising=False)
    assert expansion_report(Three()).expanded == ("ab",)
