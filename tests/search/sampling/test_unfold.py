"""Convolutions as products with patches, and the shapes of what one output reads."""

import pytest
import torch
from torch.nn.functional import conv2d
from torch.nn.grad import conv2d_input

from collegium.search.networks.chain import Chain, WeightLayer
from collegium.search.sampling.unfold import Patches, conv_shapes

LAYERS = {
    "pointwise": WeightLayer("conv", 6),
    "kernel": WeightLayer("conv", 6, kernel=3, padding=1),
    "stride": WeightLayer("conv", 6, kernel=3, stride=2, padding=1),
    "gaps": WeightLayer("conv", 6, kernel=2, stride=3, padding=1),
    "groups": WeightLayer("conv", 6, kernel=3, padding=1, groups=2),
    "dense": WeightLayer("dense", 6),
}


@pytest.mark.parametrize("name", LAYERS)
def test_products_with_patches_are_convolutions_and_their_transposes(name):
    layer, samples, inputs = LAYERS[name], 3, 2
    top = WeightLayer("conv", 1, "linear")
    shape = conv_shapes(Chain(4, 5, 7, (layer, top), ()), "pooled")[0]
    patches = Patches(shape, samples, inputs, torch.device("cpu"), torch.float64)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, inputs, 5, 7, 4, generator=generator, dtype=torch.float64)
    weights = torch.randn(samples * shape.groups, shape.fan_in, shape.group_out, generator=generator, dtype=x.dtype)

    found = patches.read(x) @ weights
    kernels = weights.view(samples, shape.groups, *shape.kernel, shape.group_in, shape.group_out)
    kernels = kernels.permute(0, 1, 5, 4, 2, 3).flatten(1, 2)
    geometry = {"stride": 1, "groups": shape.groups} if layer.kind == "dense" else {
        "stride": layer.stride, "padding": layer.padding, "groups": layer.groups
    }  # fmt: skip
    maps = torch.stack([conv2d(x[i].permute(0, 3, 1, 2), kernels[i], **geometry) for i in range(samples)])
    expected = maps.unflatten(2, (shape.groups, -1)).permute(0, 2, 1, 4, 5, 3).reshape(found.shape)
    torch.testing.assert_close(found, expected)

    back = patches.add(expected @ weights.mT)
    for i in range(samples):
        gradient = conv2d_input((inputs, 4, 5, 7), kernels[i], maps[i], **geometry)
        torch.testing.assert_close(back[i], gradient.permute(0, 2, 3, 1))


def test_unread_channels_get_no_gradient():
    layers = WeightLayer("conv", 6, groups=3), WeightLayer("conv", 2, "linear", kernel=3, padding=1, groups=2)
    shape = conv_shapes(Chain(3, 4, 4, layers, ()), "pooled")[1]
    assert (shape.in_channels, shape.group_in) == (4, 3)
    patches = Patches(shape, 2, 1, torch.device("cpu"), torch.float32)
    x = torch.arange(128.0).view(2, 1, 4, 4, 4)
    middle = patches.read(x).view(2, 4, 4, 3, 3, 3)[:, :, :, 1, 1]
    assert torch.equal(middle, x[:, 0, ..., :3])
    gradient = patches.add(torch.ones(2, 16, 27))
    assert gradient[..., 3].abs().max() == 0
    assert gradient[0, 0, :, :, 0].tolist()[:2] == [[4, 6, 6, 4], [6, 9, 9, 6]]


def test_a_bottleneck_is_cut_down_to_one_output():
    layers = WeightLayer("conv", 10), WeightLayer("conv", 12, kernel=3, padding=1), WeightLayer("conv", 256, "linear")
    first, second, last = conv_shapes(Chain(256, 8, 8, layers, ()), "unit")
    assert (first.positions, first.fan_in, first.out_channels, first.gain) == (9, 256, 10, 2)
    assert (second.positions, second.fan_in, second.out_channels, second.pad) == (1, 90, 12, (0, 0, 0, 0))
    assert (last.positions, last.fan_in, last.out_channels, last.gain) == (1, 12, 1, 1)


def test_whole_maps_keep_their_padding():
    layers = WeightLayer("conv", 10, kernel=3, stride=2, padding=1), WeightLayer("conv", 1, "linear")
    (first, _) = conv_shapes(Chain(3, 8, 8, layers, ()), "pooled")
    assert (first.in_size, first.out_size, first.pad) == ((8, 8), (4, 4), (1, 0, 1, 0))


def test_channels_that_do_not_reach_the_output_are_left_out():
    layers = (
        WeightLayer("conv", 12, groups=4),
        WeightLayer("conv", 12, groups=6),
        WeightLayer("conv", 4, "linear", groups=4),
    )
    first, second, last = conv_shapes(Chain(8, 1, 1, layers, ()), "unit")
    assert (last.groups, last.group_in, last.group_out, last.in_channels) == (1, 3, 1, 4)
    assert (second.groups, second.group_in, second.group_out, second.in_channels) == (2, 2, 2, 6)
    assert (first.groups, first.group_in, first.group_out) == (2, 2, 3)


def test_a_dense_layer_reads_its_whole_map():
    layers = WeightLayer("conv", 5, kernel=3), WeightLayer("dense", 7), WeightLayer("dense", 1, "linear")
    _, second, last = conv_shapes(Chain(2, 6, 5, layers, ()), "unit")
    assert (second.kernel, second.fan_in, second.group_out) == ((4, 3), 60, 7)
    assert (last.kernel, last.fan_in, last.group_out) == ((1, 1), 7, 1)


def test_groups_must_divide_channels():
    with pytest.raises(ValueError, match="layer 1: 3 groups do not divide 4 → 6 channels"):
        conv_shapes(Chain(2, 1, 1, (WeightLayer("conv", 4), WeightLayer("conv", 6, groups=3)), ()), "pooled")
