"""Activations: what they are, what they keep of a signal's size, and how they are posted."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import integrate
from scipy.stats import norm

from collegium.search.errors import InvalidSpec
from collegium.search.networks.activation import Activation, mean_square
from collegium.search.networks.build import build_network
from collegium.search.networks.chain import Chain, WeightLayer
from collegium.search.parse import parse_spec
from collegium.search.sampling.reference import module_of_activation
from collegium.search.spec import SearchSpec

ALL = [
    Activation("relu"),
    Activation("leaky_relu", 0.2),
    Activation("leaky_relu", -0.7),
    Activation("relu6"),
    Activation("gelu"),
    Activation("gelu_tanh"),
    Activation("silu"),
    Activation("mish"),
    Activation("hardswish"),
    Activation("sigmoid"),
    Activation("tanh"),
    Activation("elu", 1.0),
    Activation("elu", 2.5),
    Activation("selu"),
    Activation("celu", 1.0),
    Activation("celu", 0.05),
    Activation("celu", 2.5),
    Activation("softplus"),
    Activation("linear"),
]


@pytest.mark.parametrize("activation", ALL, ids=str)
def test_functions_are_those_of_torch(activation):
    z = np.linspace(-9, 9, 401)
    expected = module_of_activation(activation)(torch.from_numpy(z)).numpy()
    assert activation(z) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("activation", ALL, ids=str)
def test_mean_squares_are_the_integral_over_a_standard_gaussian(activation):
    def integrand(z: float) -> float:
        return float(activation(np.array(z))) ** 2 * norm.pdf(z)

    ends = [-30, -6, -3, 0, 3, 6, 30]
    parts = [integrate.quad(integrand, *each, epsabs=1e-14, limit=200)[0] for each in pairwise(ends)]
    assert mean_square(activation) == pytest.approx(sum(parts), rel=1e-11)


def test_mean_squares_in_closed_form():
    assert mean_square(Activation("gelu")) == pytest.approx(1 / 3 + 1 / (2 * math.sqrt(3) * math.pi), rel=1e-12)
    below = math.exp(2) * norm.cdf(-2) - 2 * math.exp(0.5) * norm.cdf(-1) + 0.5  # E (e^z − 1)² 1[z < 0]
    for alpha in (0.3, 1.0, 4.0):
        assert mean_square(Activation("elu", alpha)) == pytest.approx(0.5 + alpha**2 * below, rel=1e-12)
    assert mean_square(Activation("selu")) == pytest.approx(1, rel=1e-12)  # what its constants were chosen for
    for alpha in (0.2, 3.0):  # α² E (e^(z/α) − 1)² 1[z < 0], by completing the square
        once, twice = (math.exp((k / alpha) ** 2 / 2) * norm.cdf(-k / alpha) for k in (1, 2))
        expected = 0.5 + alpha**2 * (twice - 2 * once + 0.5)
        assert mean_square(Activation("celu", alpha)) == pytest.approx(expected, rel=1e-11)
    beyond = 36 * norm.sf(6) - (6 * norm.pdf(6) + norm.sf(6))  # 36 in the place of z²
    assert mean_square(Activation("relu6")) == pytest.approx(0.5 + beyond, rel=1e-12)
    for slope in (-1.0, 0.1, 0.8):
        assert mean_square(Activation("leaky_relu", slope)) == pytest.approx((1 + slope**2) / 2, rel=1e-12)


@pytest.mark.parametrize("activation", ALL, ids=str)
def test_the_size_of_a_signal_matters_unless_an_activation_is_homogeneous(activation):
    z = np.linspace(-3, 3, 61)
    scales = np.allclose(activation(2.5 * z), 2.5 * activation(z))
    assert activation.homogeneous == scales
    assert (activation.gain_before == 1) or (activation.gain_after == 1)
    if scales:
        assert activation.gain_before * mean_square(activation) == pytest.approx(1, rel=1e-12)
    else:
        assert activation.gain_after * mean_square(activation) == pytest.approx(1, rel=1e-15)


@pytest.mark.parametrize(
    "kinds", [("gelu", "tanh"), ("relu", "silu", "relu"), ("softplus", "relu"), ("tanh", "linear")]
)
def test_gains_keep_the_size_of_a_signal_through_wide_layers(kinds):
    layers = (*(WeightLayer("dense", 4000, kind) for kind in kinds), WeightLayer("dense", 4000, "linear"))
    chain = Chain(50, 1, 1, layers, ())
    generator = torch.Generator().manual_seed(len(kinds))
    a = torch.ones(50)
    for layer, gain in zip(chain.layers, chain.gains, strict=True):
        z = torch.randn(4000, len(a), generator=generator) @ a * math.sqrt(gain / len(a))
        assert z.square().mean().item() == pytest.approx(layer.phi.gain_before, rel=0.15)
        a = module_of_activation(layer.phi)(z)


def test_rectified_chains_have_the_gains_of_the_ntk_parameterization():
    layers = (WeightLayer("dense", 3), WeightLayer("dense", 4), WeightLayer("dense", 1, "linear"))
    assert Chain(2, 1, 1, layers, ()).gains == (2, 2, 1)


def test_unknown_names_and_parameters_are_refused():
    for arguments, words in (
        (("swish",), "no activation is called 'swish'; there are relu, leaky_relu"),
        (("gelu", 1.0), "gelu takes no parameter; got 1.0"),
        (("elu",), "elu takes a parameter, alpha; got None"),
    ):
        with pytest.raises(ValueError, match=words):
            Activation(*arguments)
    with pytest.raises(ValueError, match="not positively homogeneous"):
        _ = Activation("tanh").spread


def mlp_with(activation):
    return {"baseline": {"family": "mlp", "inputs": 8, "hidden": [6, 5], "outputs": 2, "activation": activation}}


@pytest.mark.parametrize(
    ("posted", "meant", "title"),
    [
        ("relu", Activation("relu"), "MLP 8→[6, 5]→2"),
        ("gelu", Activation("gelu"), "GELU MLP 8→[6, 5]→2"),
        ({"name": "tanh"}, Activation("tanh"), "tanh MLP 8→[6, 5]→2"),
        ("leaky_relu", Activation("leaky_relu", 0.01), "leaky ReLU (0.01) MLP 8→[6, 5]→2"),
        (
            {"name": "leaky_relu", "negative_slope": 0.3},
            Activation("leaky_relu", 0.3),
            "leaky ReLU (0.3) MLP 8→[6, 5]→2",
        ),
        ({"name": "leaky_relu", "negative_slope": 0.0}, Activation("relu"), "MLP 8→[6, 5]→2"),
        ({"name": "elu", "alpha": 0.5}, Activation("elu", 0.5), "ELU (0.5) MLP 8→[6, 5]→2"),
        ({"name": "celu", "alpha": 0.5}, Activation("celu", 0.5), "CELU (0.5) MLP 8→[6, 5]→2"),
        ("celu", Activation("celu", 1.0), "CELU (1) MLP 8→[6, 5]→2"),
        ("hardswish", Activation("hardswish"), "hard swish MLP 8→[6, 5]→2"),
        ("identity", Activation("linear"), "identity MLP 8→[6, 5]→2"),
    ],
    ids=str,
)
def test_a_posted_activation_is_lowered_to_every_hidden_layer(posted, meant, title):
    network = build_network(parse_spec(SearchSpec, mlp_with(posted)).baseline)
    assert [layer.phi for layer in network.chain.layers] == [meant, meant, Activation("linear")]
    assert network.title == title
    assert network.title_at((3, 2), 4) == "4 × " + title.replace("6, 5", "3, 2")


@pytest.mark.parametrize(
    ("posted", "path", "words"),
    [
        ("swish", ("activation",), "give one of 'relu', 'leaky_relu', 'relu6'"),
        (None, ("activation",), "give one of"),
        (["gelu"], ("activation",), "give one of"),
        ({"name": "swish"}, ("activation",), "give one of"),
        ({"negative_slope": 0.1}, ("activation",), "give one of"),
        ({"name": "gelu", "alpha": 1.0}, ("activation", "alpha"), "no such field"),
        ({"name": "leaky_relu", "negative_slope": 3}, ("activation", "negative_slope"), "less than or equal to 1"),
        ({"name": "leaky_relu", "negative_slope": "0.1"}, ("activation", "negative_slope"), "number"),
        ({"name": "elu", "alpha": 0}, ("activation", "alpha"), "greater than 0"),
        ({"name": "celu", "alpha": 0}, ("activation", "alpha"), "greater than 0"),
        ({"name": "selu", "alpha": 1}, ("activation", "alpha"), "no such field"),
    ],
    ids=str,
)
def test_a_wrong_activation_is_refused_by_its_field(posted, path, words):
    with pytest.raises(InvalidSpec) as raised:
        parse_spec(SearchSpec, mlp_with(posted))
    assert raised.value.path == ("baseline", *path)
    assert words in raised.value.message
    assert len(raised.value.errors) == 1


def test_activations_of_a_block_are_layers_of_it():
    kinds = ["gelu", {"type": "leaky_relu", "negative_slope": 0.2}, {"type": "elu"}, "identity", "linear", "softplus"]
    kinds += ["relu6", "mish", {"type": "celu", "alpha": 2.0}, "selu"]
    layers = []
    for kind in kinds:
        layers += [{"type": "dense", "out": "n"}, kind if isinstance(kind, dict) else {"type": kind}]
    block = {
        "family": "block",
        "input": {"channels": 4},
        "layers": [*layers, {"type": "dense", "out": 1}],
        "widths": {"n": 3},
    }
    network = build_network(parse_spec(SearchSpec, {"baseline": block}).baseline)
    assert [str(layer.phi) for layer in network.chain.layers] == [
        "gelu",
        "leaky_relu(0.2)",
        "elu(1)",
        "identity",
        "identity",
        "softplus",
        "relu6",
        "mish",
        "celu(2)",
        "selu",
        "identity",
    ]
    twice = block | {
        "layers": [{"type": "dense", "out": "n"}, {"type": "gelu"}, {"type": "tanh"}, {"type": "dense", "out": 1}]
    }
    with pytest.raises(InvalidSpec, match="one activation is enough"):
        build_network(parse_spec(SearchSpec, {"baseline": twice}).baseline)
