import pytest
import torch

from collegium.search.networks.chain import Chain, WeightLayer
from collegium.search.sampling.shared_layer import DrawnLayer
from collegium.search.sampling.strip_layer import StripLayer
from collegium.search.sampling.unfold import conv_shapes

CPU, DOUBLE = torch.device("cpu"), torch.float64
SAMPLES = 3
TOP = WeightLayer("conv", 1, "linear")
SHAPES = {
    "padded": Chain(4, 6, 5, (WeightLayer("conv", 6, kernel=3, padding=1), TOP), ()),
    "valid": Chain(4, 7, 5, (WeightLayer("conv", 6, "linear", kernel=3), TOP), ()),
    "even kernel": Chain(4, 6, 6, (WeightLayer("conv", 6, kernel=2, padding=1), TOP), ()),
    "groups": Chain(6, 6, 6, (WeightLayer("conv", 4, kernel=3, padding=1, groups=2), TOP), ()),
    "smooth": Chain(4, 6, 5, (WeightLayer("conv", 6, "silu", kernel=3, padding=1), TOP), ()),
    "by Gram matrices": Chain(30, 4, 4, (WeightLayer("conv", 80, kernel=3, padding=1), TOP), ()),
    "channels left unread": Chain(
        6,
        6,
        6,
        (
            WeightLayer("conv", 6, groups=3),
            WeightLayer("conv", 4, kernel=3, padding=1, groups=2),
            WeightLayer("conv", 2, "linear", groups=2),
        ),
        (),
    ),
}


class Given:
    """Stands for a stream of normal numbers with numbers that are given."""

    def __init__(self, numbers):
        self.numbers = numbers

    def fill(self, out):
        return out.copy_(self.numbers)


def normal(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size)), dtype=DOUBLE)


@pytest.mark.parametrize("name", SHAPES)
def test_strips_do_what_patches_do(name):
    shape = conv_shapes(SHAPES[name], "pooled")[-2]
    weights = normal(SAMPLES * shape.groups, shape.fan_in, shape.group_out)
    by_rows = weights.view(SAMPLES * shape.groups, shape.kernel[0], -1, shape.group_out).transpose(0, 1)
    features = normal(SAMPLES, 1, *shape.in_size, shape.in_channels)
    patches, strips = (kind(shape, SAMPLES, 1, CPU, DOUBLE) for kind in (DrawnLayer, StripLayer))
    for seed in (1, 2):
        expected = patches.forward(seed * features, Given(weights))
        torch.testing.assert_close(strips.forward(seed * features, Given(by_rows)), expected)
        gradient = seed * normal(*expected.shape)
        share, back = patches.backward(gradient, Given(weights))
        own_share, own_back = strips.backward(gradient, Given(by_rows))
        torch.testing.assert_close(own_share, share)
        torch.testing.assert_close(own_back, back)
