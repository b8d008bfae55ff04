import pytest

from collegium.search.kernel.receptive_field import Window, input_window, windows
from collegium.search.networks.chain import Chain, Free, WeightLayer


def conv(kernel, stride=1, padding=None):
    return WeightLayer("conv", 4, "relu", kernel, stride, kernel // 2 if padding is None else padding)


def test_unit_of_a_bottleneck_sees_three_by_three_positions():
    chain = Chain(256, 8, 8, (WeightLayer("conv", Free(0)), conv(3), WeightLayer("conv", 256, "linear")), ("n",))
    assert windows(chain, "unit") == [Window(3, 3, 3, 3), Window(3, 3, 3, 3), Window(4, 4, 1, 1), Window(4, 4, 1, 1)]
    assert input_window(chain, "unit").positions == 9


def test_receptive_fields_grow_with_kernels_and_strides():
    assert input_window(Chain(1, 16, 16, (conv(3), conv(3)), ()), "unit").positions == 25
    assert input_window(Chain(1, 16, 16, (conv(3, 2), conv(3)), ()), "unit").positions == 49
    assert input_window(Chain(1, 32, 32, (conv(5), conv(2, 2, 0), conv(3)), ()), "unit").positions == 100


def test_a_window_ends_at_the_map():
    chain = Chain(1, 3, 9, (conv(3), conv(3), conv(3)), ())
    assert [(w.height, w.width) for w in windows(chain, "unit")] == [(3, 7), (3, 5), (3, 3), (1, 1)]


def test_pooled_and_dense_layers_see_the_whole_map():
    chain = Chain(1, 6, 6, (conv(3, 2), WeightLayer("dense", 3)), ())
    assert windows(chain, "pooled") == windows(chain, "unit")
    assert [w.positions for w in windows(chain, "pooled")] == [36, 9, 1]


@pytest.mark.parametrize(
    ("chain", "entry", "message"),
    [
        (Chain(1, 4, 4, (conv(3),), ()), "mean", "unit"),
        (Chain(1, 2, 2, (conv(5, 1, 0),), ()), "unit", "empty"),
        (Chain(1, 1, 1, (conv(1, 2, 1),), ()), "unit", "padding"),
    ],
)
def test_what_sees_nothing_is_refused(chain, entry, message):
    with pytest.raises(ValueError, match=message):
        windows(chain, entry)
