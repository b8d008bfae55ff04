import math

import numpy as np
import pytest
import torch

from collegium.search.kernel.closed_form import log_moment_ratio
from collegium.search.kernel.inputs import correlation_gram
from collegium.search.kernel.moments import Estimate, Moments
from collegium.search.kernel.receptive_field import input_window
from collegium.search.networks.chain import Chain, WeightLayer
from collegium.search.networks.pooling import PoolAxis, Pooling
from collegium.search.sampling import shared_layer
from collegium.search.sampling.conv import ConvSampler
from collegium.search.sampling.reference import inputs_with_gram, kernel_samples, module_of


def conv(out, kernel=1, *, stride=1, padding=None, groups=1, activation="relu", dilation=1, **following):
    padding = kernel // 2 if padding is None else padding
    return WeightLayer("conv", out, activation, kernel, stride, padding, groups, dilation=dilation, **following)


def pool(function, *axes, **fields):
    return Pooling(function, tuple(PoolAxis(*each) for each in axes), **fields)


def dense(out, activation="relu"):
    return WeightLayer("dense", out, activation)


def chain_of(channels, size, *layers, bias=False):
    return Chain(channels, size, size, layers, (), bias)


def gram_of(chain, entry, correlation=0.7):
    window = input_window(chain, entry)
    return correlation_gram(correlation, *window.sizes)


def generator(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def estimate(samples) -> Estimate:
    return Moments.of(samples.double().cpu().numpy()).estimate()


def assert_same_law(left, right, sigmas=3.5):
    """Means and log moment ratios agree within their combined standard errors."""
    a, b = estimate(left), estimate(right)
    spread = math.hypot(left.std().item() / len(left) ** 0.5, right.std().item() / len(right) ** 0.5)
    assert abs(a.mean - b.mean) < sigmas * spread + 1e-5 * b.mean
    assert abs(a.log_ratio - b.log_ratio) < sigmas * math.hypot(a.standard_error, b.standard_error)


CASES = {
    "two shared layers": (chain_of(32, 8, conv(6), conv(7, 3), conv(1, 3, activation="linear")), "unit", None),
    "pooled bottleneck": (chain_of(36, 6, conv(5), conv(6, 3), conv(3, activation="linear")), "pooled", None),
    "strides and groups": (
        chain_of(50, 5, conv(8, 3, stride=2, groups=2), conv(12, 3, stride=2, groups=4), conv(4, activation="linear")),
        "pooled",
        None,
    ),
    "groups read in part": (
        chain_of(30, 5, conv(6, 3), conv(6, 3, groups=3), conv(6, groups=2), conv(2, groups=2, activation="linear")),
        "unit",
        None,
    ),
    "linear layers": (
        chain_of(40, 6, conv(6, 3, padding=0, activation="linear"), conv(5, 3, stride=2), conv(2, activation="linear")),
        "pooled",
        None,
    ),
    "dense on top": (chain_of(25, 5, conv(6, 3), conv(4, 3), dense(7), dense(3, "linear")), "unit", None),
    "one-dimensional": (
        Chain(
            30,
            12,
            1,
            (
                conv(6),
                conv(5, (5, 1), padding=(2, 0)),
                conv(4, (3, 1), stride=(2, 1), padding=(1, 0)),
                conv(1, activation="linear"),
            ),
            (),
        ),
        "unit",
        None,
    ),
    "oblong and dilated": (
        chain_of(
            90,
            9,
            conv(6, 3, dilation=2, padding=2),
            conv(5, (1, 3), stride=(2, 1), padding=(0, 3), dilation=(1, 3)),
            conv(1, (3, 2), padding=(1, 0), activation="linear"),
        ),
        "unit",
        None,
    ),
    "dilated and pooled": (
        chain_of(36, 6, conv(5), conv(6, 3, stride=(1, 2), padding=2, dilation=2), conv(3, activation="linear")),
        "pooled",
        None,
    ),
    "maxima": (
        chain_of(
            70,
            8,
            conv(4, 3, pools=(pool("max", (2, 2), (2, 2)),)),
            conv(5, 3, pools=(pool("max", (2, 2), (2, 2)),)),
            conv(2, 3, activation="linear"),
        ),
        "unit",
        None,
    ),
    "means before and behind a gelu": (
        chain_of(
            36,
            6,
            conv(4, 3, activation="gelu", pools=(pool("average", (3, 2, 1), (3, 1, 1)),)),
            conv(5, 3, activation="gelu", pools=(pool("average", (2, 1), (2, 2)),), early=1),
            conv(2, activation="linear"),
            bias=True,
        ),
        "pooled",
        None,
    ),
    "three-dimensional": (
        Chain(
            70,
            4,
            3,
            (
                conv(4, (3, 3, 3), padding=(1, 1, 1), pools=(pool("max", (2, 2), (2, 2), (2, 1)),)),
                conv(5, (2, 2, 1), padding=0, stride=(1, 1, 1)),
                conv(2, activation="linear"),
            ),
            (),
            depth=5,
        ),
        "unit",
        None,
    ),
    "pair": (chain_of(50, 7, conv(6), conv(5, 3), conv(1, 3, activation="linear")), "unit", 0.5),
    "pooled pair": (chain_of(40, 4, conv(6, 3), conv(5, 3, stride=2), conv(1, activation="linear")), "pooled", -0.3),
    "biases": (chain_of(32, 8, conv(6), conv(7, 3), conv(1, 3, activation="linear"), bias=True), "unit", None),
    "biases, pooled": (chain_of(36, 6, conv(5), conv(6, 3), conv(3, activation="linear"), bias=True), "pooled", None),
    "biases, strides and groups": (
        chain_of(50, 5, conv(8, 3, stride=2), conv(12, 3, groups=4), conv(4, activation="linear"), bias=True),
        "pooled",
        None,
    ),
    "biases, mostly dead": (chain_of(3, 1, dense(2), dense(1), dense(2), dense(1, "linear"), bias=True), "unit", None),
    "biases, a pair": (chain_of(6, 1, dense(2), dense(3), dense(2), dense(1, "linear"), bias=True), "unit", 0.4),
    "biases, a pair of maps": (
        chain_of(50, 7, conv(6), conv(5, 3), conv(1, 3, activation="linear"), bias=True),
        "unit",
        0.5,
    ),
}


@pytest.fixture(scope="module")
def plain_samples():
    """Samples by the plain definition, drawn once for each case."""
    known = {}

    def draw(name):
        if name not in known:
            chain, entry, pair = CASES[name]
            left, right = (x.float() for x in inputs_with_gram(chain, entry, gram_of(chain, entry), pair))
            right = left if pair is None else right
            known[name] = kernel_samples(module_of(chain, (), entry), left, right, 6_000, generator(1), chunk=250)
        return known[name]

    return draw


@pytest.mark.parametrize("hidden", ["weights", "law"])
@pytest.mark.parametrize("name", CASES)
def test_samples_have_the_law_of_the_plain_definition(name, hidden, plain_samples):
    chain, entry, pair = CASES[name]
    sampler = ConvSampler(chain, entry, gram_of(chain, entry), pair, hidden=hidden)
    assert_same_law(sampler.draw(20_000, generator(2)), plain_samples(name))


@pytest.mark.parametrize("width", [2, 8, 24])
@pytest.mark.parametrize("correlation", [0.0, 0.95])
def test_bottleneck_converges_to_the_closed_form(width, correlation):
    chain = chain_of(256, 8, conv(width), conv(width, 3), conv(256, activation="linear"))
    gram = gram_of(chain, "unit", correlation)
    found = estimate(ConvSampler(chain, "unit", gram).draw(50_000, generator(3)))
    assert abs(found.mean - 3) < 0.05
    assert abs(found.log_ratio - log_moment_ratio(chain, (), gram)) < 3.5 * found.standard_error


@pytest.mark.parametrize("hidden", ["weights", "law"])
def test_mlp_converges_to_the_closed_form(hidden):
    chain = chain_of(10, 1, dense(12), dense(6), dense(9), dense(1, "linear"))
    found = estimate(ConvSampler(chain, "unit", [[2.0]], hidden=hidden).draw(100_000, generator(4)))
    assert abs(found.mean - 4) < 0.05
    assert abs(found.log_ratio - log_moment_ratio(chain, ())) < 3.5 * found.standard_error


@pytest.mark.parametrize("hidden", ["weights", "law"])
@pytest.mark.parametrize("pair", [None, 1.0])
def test_equal_positions_make_a_block_an_mlp(hidden, pair):
    # Inside a map whose positions are all alike, a 3×3 layer is a dense layer with the mean of nine weights.
    chain = chain_of(16, 9, conv(8), conv(10, 3), conv(4, 3, activation="linear"))
    mlp = chain_of(16, 1, dense(8), dense(10), dense(1, "linear"))
    sampler = ConvSampler(chain, "unit", gram_of(chain, "unit", 1.0), pair, hidden=hidden)
    found = estimate(sampler.draw(40_000, generator(5)))
    assert abs(found.log_ratio - log_moment_ratio(mlp, ())) < 3.5 * found.standard_error


@pytest.mark.parametrize("hidden", ["weights", "law"])
@pytest.mark.parametrize("entry", ["unit", "pooled"])
def test_zero_inputs_have_no_kernel(hidden, entry):
    chain = chain_of(16, 6, conv(8), conv(10, 3), conv(1, 3, activation="linear"))
    gram = np.zeros_like(gram_of(chain, entry))
    assert ConvSampler(chain, entry, gram, hidden=hidden).draw(50, generator()).abs().max() < 1e-20


def test_opposite_inputs_of_a_linear_chain_have_opposite_kernels():
    layers = conv(8, activation="linear"), conv(10, 3, activation="linear"), conv(1, activation="linear")
    chain = chain_of(16, 6, *layers)
    gram = gram_of(chain, "unit")
    one, other = (ConvSampler(chain, "unit", gram, pair).draw(500, generator(6)) for pair in (1.0, -1.0))
    torch.testing.assert_close(one, -other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bias", [False, True])
def test_a_single_layer_has_a_constant_kernel(bias):
    chain = chain_of(40, 6, conv(6, 3, activation="linear"), bias=bias)
    for entry in ("unit", "pooled"):
        gram = gram_of(chain, entry)
        x, _ = inputs_with_gram(chain, entry, gram)
        expected = kernel_samples(module_of(chain, (), entry).double(), x, x, 1, generator())
        torch.testing.assert_close(
            ConvSampler(chain, entry, gram, dtype=torch.float64).draw(3, generator()), expected.expand(3)
        )


def test_the_generator_alone_decides():
    chain, entry, _ = CASES["pooled bottleneck"]
    before = torch.random.get_rng_state()
    drawn = [ConvSampler(chain, entry, gram_of(chain, entry)).draw(3000, generator(seed)) for seed in (7, 7, 8)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(before, torch.random.get_rng_state())


def test_any_number_of_samples_can_be_drawn_in_any_order():
    chain, entry, _ = CASES["two shared layers"]
    sampler, gen = ConvSampler(chain, entry, gram_of(chain, entry)), generator()
    drawn = [sampler.draw(count, gen) for count in (0, 1, 5000, 1)]
    assert [len(samples) for samples in drawn] == [0, 1, 5000, 1]
    assert len(torch.cat(drawn).unique()) > 4990


def test_single_and_double_precision_agree():
    chain, entry, _ = CASES["two shared layers"]
    gram = gram_of(chain, entry)
    for hidden in ("weights", "law"):
        single, double = (
            ConvSampler(chain, entry, gram, dtype=dtype, hidden=hidden).draw(10_000, generator(9))
            for dtype in (torch.float32, torch.float64)
        )
        assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
        assert_same_law(single, double)


def test_what_cannot_be_sampled_is_refused():
    chain, entry, _ = CASES["two shared layers"]
    gram = gram_of(chain, entry)
    with pytest.raises(ValueError, match="5 × 5 positions"):
        ConvSampler(chain, entry, gram[:9, :9])
    with pytest.raises(ValueError, match="positive semidefinite"):
        ConvSampler(chain, entry, gram - 2 * np.eye(25))
    with pytest.raises(ValueError, match="cosine"):
        ConvSampler(chain, entry, gram, 1.5)
    with pytest.raises(ValueError, match="linear"):
        ConvSampler(chain_of(4, 1, dense(3)), "unit", [[2.0]])
    with pytest.raises(ValueError, match="groups do not divide"):
        ConvSampler(chain_of(4, 3, conv(6), conv(8, groups=4), conv(1, activation="linear")), "unit", [[2.0]])


class NoNumbers:
    """Fills tensors that hold none."""

    def fill(self, out):
        return out


@pytest.mark.parametrize("hidden", ["weights", "law"])
@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_on_the_processor(case, hidden, monkeypatch):
    """On ``meta``, whose tensors cannot be mixed with the processor's, as a GPU's cannot."""
    monkeypatch.setattr(shared_layer, "cholesky_factor", lambda gram: gram)  # it would ask whether it has succeeded
    chain, entry, pair = CASES[case]
    sampler = ConvSampler(chain, entry, gram_of(chain, entry), pair, device="meta", hidden=hidden)
    assert sampler._draw_batch(3, NoNumbers()).device.type == "meta"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_an_accelerator_draws_the_same_law():
    chain = chain_of(256, 8, conv(16), conv(16, 3), conv(256, activation="linear"))
    gram = gram_of(chain, "unit")
    found = estimate(ConvSampler(chain, "unit", gram, device="cuda").draw(200_000, generator(10, "cuda")))
    assert abs(found.log_ratio - log_moment_ratio(chain, (), gram)) < 3.5 * found.standard_error


@pytest.mark.parametrize(("kernel", "dilation"), [((3, 1), 1), (3, 2), ((1, 5), (1, 2))])
def test_the_closed_form_holds_for_oblong_and_dilated_kernels(kernel, dilation):
    layers = conv(4), conv(5, kernel, dilation=dilation, padding=2), conv(1, activation="linear")
    chain = chain_of(40, 9, *layers)
    gram = gram_of(chain, "unit")
    left = inputs_with_gram(chain, "unit", gram, None)[0].float()
    plain = estimate(kernel_samples(module_of(chain, (), "unit"), left, left, 8_000, generator(3), chunk=250))
    assert abs(log_moment_ratio(chain, (), gram) - plain.log_ratio) < 4 * plain.standard_error


def test_a_layer_along_one_axis_is_the_square_one_where_the_map_has_no_other():
    """A 3×3 kernel on one column reads padding beside it: its weights there have no effect, but for the fan-in."""
    rows = Chain(20, 9, 1, (conv(6), conv(5, (3, 1), padding=(1, 0)), conv(1, activation="linear")), ())
    assert input_window(rows, "unit").positions == 3
    assert rows.fan_ins(()) == [20, 18, 5]
