"""The exact moments: reference values, structure, and where there are none."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.search.kernel.closed_form import has_closed_form, log_moment_ratio, log_moment_ratios, mean
from collegium.search.kernel.inputs import correlation_gram
from collegium.search.networks.build import build_network
from collegium.search.networks.chain import Chain, Free, WeightLayer
from collegium.search.spec import PairSpec, PresetBaseline


@pytest.mark.parametrize(("widths", "ratio"), [((8, 8), 2.0017), ((8, 8, 8), 2.9863)])
def test_narrow_mlps_have_the_known_ratio(mlp, widths, ratio):
    assert math.exp(log_moment_ratio(mlp(len(widths)), widths)) == pytest.approx(ratio, abs=5e-5)


@pytest.mark.parametrize(("depth", "variance"), [(1, 0.00600), (2, 0.01294), (3, 0.02016), (5, 0.03501)])
def test_mlps_of_width_500_have_the_known_variance(mlp, depth, variance):
    assert math.expm1(log_moment_ratio(mlp(depth), (500,) * depth)) == pytest.approx(variance, abs=5e-6)


def test_one_hidden_layer_agrees_with_the_calculation_by_hand(mlp):
    # K = 2/n0 |x|² (Σ_i D_i v_i² + Σ_i D_i w_i²) / n is a scaled χ² with 2·Binomial(n, ½) degrees of freedom:
    # E[χ²_2k] = 2k and E[χ⁴_2k] = 4k² + 4k, so r = (E[k²] + E[k]) / E[k]² = 1 + 3/n
    for n in (1, 2, 7, 100):
        assert math.exp(log_moment_ratio(mlp(1), (n,))) == pytest.approx(1 + 3 / n, rel=1e-12)


def test_linear_networks_agree_with_the_calculation_by_hand():
    # two linear layers: K = |x|²/n0 (|v|² + |Wx|²/|x|²) / n, a χ² with 2n degrees of freedom: r = 1 + 1/n
    chain = Chain(5, 1, 1, (WeightLayer("dense", Free(0), "linear"), WeightLayer("dense", 1, "linear")), ("n",))
    assert math.exp(log_moment_ratio(chain, (6,))) == pytest.approx(1 + 1 / 6, rel=1e-12)
    assert mean(chain, (6,), [[2.0]]) == pytest.approx(2.0)


def test_white_patch_of_256_channels(bottleneck):
    torch.manual_seed(0)
    patch = torch.randn(256, 9).double().numpy()
    gram = 2 / 256 * patch.T @ patch
    found = log_moment_ratios(bottleneck, [[1], [10], [64]], gram)
    assert found == pytest.approx([1.7744, 0.3144, 0.0545], abs=5e-5)


@pytest.mark.parametrize(
    ("correlation", "slope"), [(0.0, 2.89), (0.5, 3.49), (0.8, 4.30), (0.9, 4.69), (0.95, 4.92), (1.0, 5.21)]
)
def test_a_bottlenecks_ln_r_has_the_known_slope(bottleneck, correlation, slope):
    widths = np.arange(8, 257)
    ratios = log_moment_ratios(bottleneck, widths[:, None], correlation_gram(correlation, 3, 3))
    fitted = np.polyfit(1 / (9 * widths) + 1 / widths, ratios, 1)[0]
    assert fitted == pytest.approx(slope, abs=0.0051)


@pytest.mark.parametrize(("correlation", "optimum"), [(0.0, 5), (0.5, 7), (0.8, 9), (0.9, 9), (0.95, 10), (1.0, 10)])
@pytest.mark.parametrize(
    ("preset", "multiplicity"), [("resnext29-1x128d", 37.1), ("resnet50", 11.9), ("resnext29-1x226d", 101.1)]
)
def test_smooth_inputs_give_the_published_optima(preset, multiplicity, correlation, optimum):
    network = build_network(PresetBaseline(preset=preset))
    budget = network.count("parameters", network.baseline, network.multiplicity)
    widths = range(1, 65)
    costs = np.array([network.affine("parameters", network.scaled(n)) for n in widths], float)
    multiplicities = (budget - costs[:, 0]) / costs[:, 1]
    ratios = log_moment_ratios(network.chain, [network.scaled(n) for n in widths], correlation_gram(correlation, 3, 3))
    best = int(np.argmin(np.expm1(ratios) / multiplicities))
    assert widths[best] == optimum
    if optimum == 10:
        assert multiplicities[best] == pytest.approx(multiplicity, abs=0.1)


def test_smooth_inputs_make_a_bottleneck_of_one_position(bottleneck):
    # perfectly correlated positions carry the same activations, but each tap of the 3×3 layer keeps its own weights
    same = log_moment_ratio(bottleneck, (8,), correlation_gram(1.0, 3, 3))
    dense = Chain(256, 1, 1, tuple(WeightLayer("dense", Free(0)) for _ in range(2)), ("n",))
    dense = Chain(256, 1, 1, (*dense.layers, WeightLayer("dense", 1, "linear")), ("n",))
    assert same == pytest.approx(log_moment_ratio(dense, (8,)), rel=1e-12)


@given(
    widths=st.lists(st.integers(1, 10_000), min_size=1, max_size=6),
    scale=st.floats(1e-6, 1e6),
)
def test_scale_of_the_input_does_not_matter(mlp, widths, scale):
    chain = mlp(len(widths))
    assert log_moment_ratio(chain, widths, [[scale]]) == pytest.approx(log_moment_ratio(chain, widths), rel=1e-12)


@given(st.lists(st.integers(1, 5_000), min_size=2, max_size=6), st.data())
def test_a_wider_layer_lowers_the_variance(mlp, widths, data):
    position = data.draw(st.integers(0, len(widths) - 1))
    wider = [width + (index == position) for index, width in enumerate(widths)]
    chain = mlp(len(widths))
    assert 0 < log_moment_ratio(chain, wider) < log_moment_ratio(chain, widths)


@given(st.lists(st.integers(1, 500), min_size=3, max_size=3))
def test_many_at_once_are_the_same_as_one_by_one(mlp, widths):
    table = [widths, widths[::-1], [1, 2, 3]]
    together = log_moment_ratios(mlp(3), table)
    assert together == pytest.approx([log_moment_ratio(mlp(3), row) for row in table], rel=1e-14)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=6))
def test_a_network_and_its_reverse_vary_alike(mlp, widths):
    # activations and gradients play the same part in K, from opposite ends
    chain = mlp(len(widths))
    assert log_moment_ratio(chain, widths[::-1]) == pytest.approx(log_moment_ratio(chain, widths), rel=1e-10)


def test_the_order_of_widths_matters(mlp):
    assert log_moment_ratio(mlp(3), (3, 20, 50)) == pytest.approx(1.0046, abs=1e-4)
    assert log_moment_ratio(mlp(3), (20, 3, 50)) == pytest.approx(0.9524, abs=1e-4)


def test_million_wide_layers_keep_their_accuracy(mlp):
    # ln r → (Σ of the exact 1/n terms): at one hidden layer it is ln(1 + 3/n)
    assert log_moment_ratio(mlp(1), (10**6,)) == pytest.approx(3e-6, rel=1e-5)


def test_a_single_layer_does_not_vary():
    chain = Chain(8, 4, 4, (WeightLayer("conv", 3, "linear", kernel=3, padding=1),), ())
    assert log_moment_ratio(chain, ()) == 0.0


def test_chains_that_are_dense_above_the_first_layer_have_a_closed_form(mlp, bottleneck, basic, double):
    assert has_closed_form(mlp(4), "unit")
    assert has_closed_form(mlp(4), "pooled")  # one position: the same entry
    assert has_closed_form(bottleneck, "unit")
    assert has_closed_form(basic, "unit")
    assert not has_closed_form(bottleneck, "pooled")
    assert not has_closed_form(double, "unit")


def test_off_diagonal_entries_have_no_closed_form(mlp):
    assert has_closed_form(mlp(2), "unit", PairSpec(cosine=1.0))
    assert not has_closed_form(mlp(2), "unit", PairSpec(cosine=0.5))


def test_grouped_layers_have_no_closed_form(bottleneck):
    layers = (*bottleneck.layers[:1], WeightLayer("conv", 8, kernel=3, padding=1, groups=2), *bottleneck.layers[2:])
    assert not has_closed_form(Chain(256, 8, 8, layers, ("n",)), "unit")


def test_what_has_no_closed_form_is_refused(mlp, bottleneck, double):
    with pytest.raises(ValueError, match="no closed form"):
        log_moment_ratio(double, (4,), correlation_gram(0.5, 5, 5))
    with pytest.raises(ValueError, match="no closed form"):
        mean(double, (4,), correlation_gram(0.5, 5, 5))
    with pytest.raises(ValueError, match="expected 2 widths"):
        log_moment_ratio(mlp(2), (4,))
    with pytest.raises(ValueError, match="a Gram matrix is needed"):
        log_moment_ratio(bottleneck, (4,))
    with pytest.raises(ValueError, match="sees 9 input positions"):
        log_moment_ratio(bottleneck, (4,), correlation_gram(0.5, 2, 2))
