import pytest
import torch
from torch.nn.functional import conv2d

from collegium.search.networks.chain import Chain, WeightLayer
from collegium.search.sampling.reference import module_of_activation
from collegium.search.sampling.shared_layer import DrawnLayer, law_is_cheaper
from collegium.search.sampling.unfold import conv_shapes

CPU, DOUBLE = torch.device("cpu"), torch.float64
SAMPLES = 3


class Given:
    """Stands for a stream of normal numbers with numbers that are given."""

    def __init__(self, numbers):
        self.numbers = numbers

    def fill(self, out):
        return out.copy_(self.numbers)


def shape_of(layer, channels, size):
    return conv_shapes(Chain(channels, *size, (layer, WeightLayer("dense", 1, "linear")), ()), "pooled")[0]


def normal(*size):
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size)), dtype=DOUBLE)


LAYERS = {
    "kernel": WeightLayer("conv", 6, kernel=3, padding=1),
    "linear": WeightLayer("conv", 6, "linear", kernel=2),
    "stride and groups": WeightLayer("conv", 6, kernel=3, stride=2, padding=1, groups=2),
    "pointwise": WeightLayer("conv", 6),
    "dense": WeightLayer("dense", 40),
    "smooth": WeightLayer("conv", 6, "gelu", kernel=3, padding=1),
    "leaky, groups": WeightLayer("conv", 6, "leaky_relu", kernel=3, groups=2, parameter=0.3),
}


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_a_drawn_layer_does_what_autograd_does(name, inputs):
    layer = LAYERS[name]
    shape = shape_of(layer, 4, (5, 6))
    drawn = normal(SAMPLES * shape.groups, shape.fan_in, shape.group_out)
    features, gradient = (
        normal(SAMPLES, inputs, 5, 6, 4),
        normal(SAMPLES, inputs, *shape.out_size, 6 if layer.kind == "conv" else 40),
    )
    own = DrawnLayer(shape, SAMPLES, inputs, CPU, DOUBLE)
    activations = own.forward(features, Given(drawn)).clone()
    share, back = own.backward(gradient, Given(drawn))

    kernels = drawn.view(SAMPLES, shape.groups, *shape.kernel, shape.group_in, shape.group_out)
    kernels = kernels.permute(0, 1, 5, 4, 2, 3).flatten(1, 2)
    for i in range(SAMPLES):
        x = features[i].permute(0, 3, 1, 2).clone().requires_grad_()
        weights = [kernels[i].clone().requires_grad_() for _ in range(inputs)]
        maps = [
            conv2d(
                x[j : j + 1],
                weights[j] * (shape.gain / shape.fan_in) ** 0.5,
                stride=layer.stride,
                padding=layer.padding,
                groups=layer.groups,
            )
            for j in range(inputs)
        ]
        maps = torch.cat([module_of_activation(layer.phi)(z) for z in maps]).permute(0, 2, 3, 1)
        torch.testing.assert_close(activations[i], maps.detach())
        (maps * gradient[i]).sum().backward()
        torch.testing.assert_close(back[i], x.grad.permute(0, 2, 3, 1))
        torch.testing.assert_close(share[i], (weights[0].grad * weights[-1].grad).sum())


def test_the_law_pays_where_positions_are_few_and_weights_many():
    wide = shape_of(WeightLayer("conv", 256, kernel=3), 256, (5, 5))
    assert law_is_cheaper(wide, 1)
    assert not law_is_cheaper(shape_of(WeightLayer("conv", 4, kernel=3), 4, (5, 5)), 1)
    assert not law_is_cheaper(shape_of(WeightLayer("conv", 64, kernel=3, padding=1), 64, (8, 8)), 1)
