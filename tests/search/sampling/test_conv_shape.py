import pytest

from collegium.search.networks.chain import Chain, WeightLayer
from collegium.search.sampling.unfold import conv_shapes


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
