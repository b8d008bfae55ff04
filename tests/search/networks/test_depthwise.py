"""Depthwise layers inside a chain: closed form, samples and plain gradients, counts, and the regrouped module."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from collegium.search.describe.describe import describe
from collegium.search.find import find_ensemble
from collegium.search.kernel.closed_form import has_closed_form, log_moment_ratio, log_moment_ratios, mean
from collegium.search.kernel.inputs import KernelInputs, correlation_gram
from collegium.search.kernel.moments import Moments
from collegium.search.kernel.point import KernelPoint
from collegium.search.kernel.receptive_field import input_window
from collegium.search.networks.build import build_network
from collegium.search.networks.chain import Chain, Free, WeightLayer, ensemble_chain
from collegium.search.networks.families.network import Branch
from collegium.search.networks.families.network_chains import branch_chain, reason, searched
from collegium.search.parse import parse_spec
from collegium.search.regroup.regroup import regroup
from collegium.search.sampling.conv import ConvSampler
from collegium.search.sampling.reference import inputs_with_gram, kernel_samples, module_of


def separable(*kinds: str, first: int = 1, extent: int = 6, stride: int = 1, parameter: float | None = None) -> Chain:
    """k×k → depthwise 3×3 → 1×1 → 1×1, of free widths a, a, b."""
    own = [parameter if kind == "leaky_relu" else None for kind in kinds]
    layers = (
        WeightLayer("conv", Free(0), kinds[0], first, padding=first // 2, parameter=own[0]),
        WeightLayer("conv", Free(0), kinds[1], 3, stride, 1, parameter=own[1], depthwise=True),
        WeightLayer("conv", Free(1), kinds[2], parameter=own[2]),
        WeightLayer("conv", 3, "linear"),
    )
    return Chain(30, extent, extent, layers, ("a", "b"))


def gram_of(chain: Chain) -> np.ndarray:
    window = input_window(chain, "unit")
    return correlation_gram(0.7, window.height, window.width)


def drawn(chain: Chain, gram: np.ndarray, count: int, hidden: str = "cheaper") -> np.ndarray:
    sampler = ConvSampler(chain, "unit", gram, hidden=hidden)  # pyright: ignore[reportArgumentType]
    return sampler.draw(count, torch.Generator().manual_seed(5)).double().numpy()


CHAINS = {
    "relu": separable("relu", "relu", "relu"),
    "3×3 first": separable("relu", "relu", "relu", first=3),
    "linear first": separable("linear", "relu", "relu"),
    "linear depthwise": separable("relu", "linear", "relu", stride=2),
    "leaky": separable("leaky_relu", "leaky_relu", "leaky_relu", parameter=0.3),
    "one pixel, all else padding": separable("relu", "relu", "relu", extent=1),
}


@pytest.mark.parametrize("name", CHAINS)
def test_the_closed_form_is_that_of_samples_and_of_plain_gradients(name):
    chain, widths = CHAINS[name], (6, 4)
    assert has_closed_form(chain, "unit")
    assert has_closed_form(chain.at(widths), "unit")
    gram = gram_of(chain)
    exact, expected = log_moment_ratio(chain, widths, gram), mean(chain, widths, gram)
    for draws in (drawn(chain.at(widths), gram, 40_000), drawn(chain.at(widths), gram, 10_000, "law"),
                  plain(chain, widths, gram, 3_000)):  # fmt: skip
        found = Moments.of(draws).estimate()
        assert abs(found.log_ratio - exact) < 3.5 * found.standard_error
        assert found.mean == pytest.approx(expected, abs=4 * draws.std() / math.sqrt(len(draws)))


def plain(chain: Chain, widths: tuple[int, ...], gram: np.ndarray, count: int) -> np.ndarray:
    x, _ = (each.float() for each in inputs_with_gram(chain, "unit", gram))
    module, generator = module_of(chain, widths, "unit"), torch.Generator().manual_seed(1)
    return kernel_samples(module, x, x, count, generator, chunk=500).double().numpy()


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_two_depthwise_layers_with_several_outputs_and_more_padding_are_sampled(activation):
    layers = (
        WeightLayer("conv", Free(0), activation),
        WeightLayer("conv", Free(0, 2), activation, 3, 2, (0, 1), depthwise=True, more=(1, 0)),
        WeightLayer("conv", Free(1), activation),
        WeightLayer("conv", Free(1), activation, 3, padding=1, depthwise=True),
        WeightLayer("conv", 3, "linear"),
    )
    chain, widths = Chain(50, 6, 5, layers, ("a", "b")), (4, 5)
    assert not has_closed_form(chain, "unit")
    assert [shape[0] for shape in chain.shapes(widths)] == [50, 4, 8, 5, 5, 3]
    assert [shape[1:] for shape in chain.shapes(widths)[1:3]] == [(6, 5), (3, 3)]
    assert chain.fan_ins(widths) == [50, 9, 8, 9, 5]
    assert [layer.groups for layer in chain.at(widths).layers] == [1, 4, 1, 5, 1]
    gram = gram_of(chain)
    one, two = (drawn(chain.at(widths), gram, 30_000), plain(chain, widths, gram, 4_000))
    first, second = Moments.of(one).estimate(), Moments.of(two).estimate()
    spread = math.hypot(one.std() / math.sqrt(len(one)), two.std() / math.sqrt(len(two)))
    assert abs(first.mean - second.mean) < 3.5 * spread
    assert abs(first.log_ratio - second.log_ratio) < 3.5 * math.hypot(first.standard_error, second.standard_error)


def test_a_single_free_width_has_nothing_to_gain_with_a_depthwise_layer_either():
    """m members of an inverted bottleneck of width n are one of width m·n, to the last digit of the closed form."""
    kinds = ("relu", "relu")
    first, second = (
        WeightLayer("conv", Free(0), kind, 1 + 2 * i, padding=i, depthwise=bool(i)) for i, kind in enumerate(kinds)
    )
    chain = Chain(8, 5, 5, (first, second, WeightLayer("conv", 4, "linear")), ("n",))
    gram = gram_of(chain)
    narrow, wide = (math.expm1(log_moment_ratio(chain, (n,), gram)) for n in (3, 15))
    assert narrow / 5 == pytest.approx(wide, rel=1e-12)


def test_members_of_an_ensemble_keep_their_channels_apart():
    chain, widths = CHAINS["relu"], (6, 5)
    built = ensemble_chain(chain, widths, 4)
    assert [layer.groups for layer in built.layers] == [1, 24, 4, 1]
    assert built.parameters(()) == 4 * chain.parameters(widths)
    gram = gram_of(chain)
    found = Moments.of(drawn(built, gram, 30_000)).estimate()
    predicted = math.log1p(math.expm1(log_moment_ratio(chain, widths, gram)) / 4)
    assert abs(found.log_ratio - predicted) < 3.5 * found.standard_error


def test_wider_is_smoother_and_many_at_once_are_one_by_one():
    chain = CHAINS["relu"]
    gram, table = gram_of(chain), [(2, 3), (4, 3), (4, 6), (400, 600)]
    found = log_moment_ratios(chain, table, gram)
    assert list(found) == [log_moment_ratio(chain, widths, gram) for widths in table]
    assert all(np.diff(found) < 0)
    assert found[-1] < 0.05


def test_stored_estimates_tell_a_depthwise_layer_from_a_full_one():
    chain = CHAINS["relu"]
    full = Chain(30, 6, 6, tuple(WeightLayer("conv", each.out, each.activation, each.kernel, padding=each.padding)
                                 for each in chain.layers), ("a", "b"))  # fmt: skip
    keys = [KernelPoint.of(each, (4, 4), "unit", KernelInputs()).key for each in (chain, full)]
    assert keys[0] != keys[1]
    point = KernelPoint.of(chain, (4, 4), "unit", KernelInputs())
    assert KernelPoint.model_validate(point.model_dump(mode="json")) == point
    with pytest.raises(ValueError, match="a dense layer has no"):
        WeightLayer("dense", 4, depthwise=True)


def norm_and_relu(width: int) -> list[nn.Module]:
    return [nn.BatchNorm2d(width), nn.ReLU()]


def mobile(times: int = 1) -> nn.Sequential:
    """Pointwise and depthwise layers in turn, the second of them padded as TensorFlow does."""
    return nn.Sequential(
        nn.Conv2d(8, 16, 1, bias=False), *norm_and_relu(16),
        nn.Conv2d(16, 16 * times, 3, padding=1, groups=16, bias=False), *norm_and_relu(16 * times),
        nn.Conv2d(16 * times, 24, 1, bias=False), *norm_and_relu(24),
        nn.Conv2d(24, 9, 1, bias=False),
    )  # fmt: skip


@pytest.mark.parametrize("times", [1, 2])
def test_a_module_is_searched_and_regrouped_with_the_answers_counts(times):
    model = mobile(times)
    baseline = describe(model, torch.randn(1, 8, 8, 8))
    network = build_network(baseline)
    assert (network.baseline, network.chain.names) == ((16, 24), ("n1", "n2"))
    k = times
    assert network.affine("parameters", (5, 7)) == (
        0, 8 * 5 + 9 * k * 5 + k * 5 * 7 + 7 * 9 + 2 * 5 + 2 * k * 5 + 2 * 7,
    )  # fmt: skip
    answer = find_ensemble(baseline, space={"widths": [[5, 7], [4, 6]]}, estimator={"samples": 2_000})
    assert answer.primal.multiplicity > 1
    made = regroup(model, answer.primal)
    m, (a, b) = answer.primal.multiplicity, answer.primal.widths
    assert (made[3].groups, made[3].in_channels, made[3].out_channels) == (m * a, m * a, m * a * times)
    assert (made[6].groups, made[9].groups) == (m, 1)
    assert sum(p.numel() for p in made.parameters()) == answer.primal.parameters
    by_hand = regroup(model, {baseline.branches[0].name: (m, [a, b])}, baseline=baseline)
    assert [p.shape for p in by_hand.parameters()] == [p.shape for p in made.parameters()]
    with pytest.raises(ValueError, match="2 inner widths are expected, got 3"):
        regroup(model, {baseline.branches[0].name: (m, [a, a, b])}, baseline=baseline)
    out = made(torch.randn(2, 8, 8, 8))
    out.square().sum().backward()
    assert out.shape == (2, 9, 8, 8)
    assert all(bool(p.grad.isfinite().all()) for p in made.parameters())


def test_channels_of_one_member_alone_reach_what_it_computes():
    model = nn.Sequential(*(layer for layer in mobile() if not isinstance(layer, nn.BatchNorm2d)))
    baseline = describe(model, torch.randn(1, 8, 6, 6))
    made = regroup(model, {baseline.branches[0].name: (3, [4, 5])}, baseline=baseline).double()
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    total = torch.zeros_like(made(x))
    first, deep, middle, last = (layer.weight for layer in made if isinstance(layer, nn.Conv2d))
    for j in range(3):
        own, inner = slice(4 * j, 4 * j + 4), slice(5 * j, 5 * j + 5)
        h = nn.functional.conv2d(x, first[own]).relu()
        h = nn.functional.conv2d(h, deep[own], padding=1, groups=4).relu()
        h = nn.functional.conv2d(h, middle[inner]).relu()
        total += nn.functional.conv2d(h, last[:, inner])
    torch.testing.assert_close(made(x), total)


def branch(layers: list[dict], widths: list[int], extents: list[int]) -> Branch:
    """A branch from its layers alone: its counts are taken from what refuses others."""
    found = {"name": "b", "layers": layers, "widths": widths, "input": extents, "splittable": True}
    counts = {}
    for measure in ("parameters", "flops"):
        try:
            parse_spec(Branch, found | counts | {"parameters": 0, "flops": 0} | counts)
        except Exception as error:
            counts[measure] = int(str(error).split("the layers have ")[1].split()[0].rstrip(";"))
    return parse_spec(Branch, found | counts)


def conv(kernel: int, padding: int = 0, stride: int = 1, **more) -> dict:
    sizes = {"kernel": [kernel] * 2, "stride": [stride] * 2, "padding": [padding] * 2, "dilation": [1, 1]}
    return {"kind": "conv", **sizes, **more}


RELU = {"kind": "activation", "function": "relu"}


def pad(mode: str = "constant") -> dict:
    return {"kind": "pad", "start": [0, 1], "end": [1, 2], "mode": mode}


def test_zeros_in_front_of_a_convolution_join_its_padding():
    layers = [conv(1), RELU, pad(), conv(3, 1, 2), RELU, conv(1), RELU, conv(1)]
    found = branch(layers, [4, 6, 6, 7, 3], [9, 8])
    assert reason(found) is None
    chain = branch_chain(found)
    assert (chain.layers[1].padding, chain.layers[1].more) == ((1, 2), 1)
    assert chain.shapes((6, 6, 7))[2] == (6, 5, 6)  # 9 + 0 + 1 + 2 and 8 + 1 + 2 + 2 positions, by twos
    reflected = branch([conv(1), RELU, pad("reflect"), *layers[3:]], [4, 6, 6, 7, 3], [9, 8])
    assert "padding by anything but zeros" in str(reason(reflected))


def test_what_reads_too_much_is_cut_into_equal_pieces():
    layers, widths = [conv(3, 1)], [4]
    for index in range(30):
        layers += [RELU, conv(3, 1)]
        widths.append(8 + index)
    found = branch(layers, [*widths, 3], [200, 200])
    assert "a unit reads" in str(reason(found))
    pieces = searched(found)
    assert [len(piece.widths) - 1 for piece in pieces] == [10, 10, 11]  # 28 free widths, as two pieces of 15 would have
    assert [reason(piece) for piece in pieces] == [None] * 3
    assert sum(piece.parameters for piece in pieces) == found.parameters


def test_grouped_layers_at_a_cut_are_left_out_of_the_pieces():
    unknown = {"kind": "activation", "function": "softsign"}
    deep = conv(3, 1, groups=8, depthwise=True)
    layers = [conv(1), RELU, conv(1), RELU, conv(1), RELU, deep, unknown, deep, RELU, conv(1)]
    found = branch(layers, [4, 6, 7, 8, 8, 8, 3], [8, 8])
    assert [piece.widths for piece in searched(found)] == [(4, 6, 7, 8)]
