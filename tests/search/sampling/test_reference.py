import numpy as np
import pytest
import torch
from torch import nn

from collegium.search.kernel.inputs import correlation_gram
from collegium.search.kernel.receptive_field import input_window
from collegium.search.networks.chain import Chain, Free, WeightLayer
from collegium.search.sampling.reference import empirical_kernel, inputs_with_gram, kernel_samples, module_of

BLOCK = Chain(
    12,
    6,
    6,
    (
        WeightLayer("conv", Free(0)),
        WeightLayer("conv", Free(0), kernel=3, padding=1, groups=2),
        WeightLayer("conv", 4, "linear"),
    ),
    ("n",),
)


def test_kernel_is_the_gram_matrix_of_gradients():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU(), nn.Flatten(), nn.Linear(12, 1))
    module[0].requires_grad_(False)
    left, right = torch.randn(3, 2, 4, 4), torch.randn(2, 2, 4, 4)
    found = empirical_kernel(module, left, right)
    module.requires_grad_(True)
    rows, columns = (
        [torch.cat([g.flatten() for g in torch.autograd.grad(module(x[None]).sum(), module.parameters())]) for x in xs]
        for xs in (left, right)
    )
    torch.testing.assert_close(found, torch.stack(rows) @ torch.stack(columns).T)
    torch.testing.assert_close(empirical_kernel(module, left), empirical_kernel(module, left, left))


def test_samples_are_the_kernel_under_fresh_standard_normal_parameters():
    module, generator = module_of(BLOCK, (4,), "pooled").double(), torch.Generator().manual_seed(1)
    x = torch.randn(2, 12, 6, 6, dtype=torch.float64)
    found = kernel_samples(module, x[0], x[1], 3, generator.manual_seed(1), chunk=3)
    generator.manual_seed(1)
    drawn = [torch.randn(3, *p.shape, generator=generator, dtype=p.dtype) for p in module.parameters()]
    for sample in range(3):
        for parameter, values in zip(module.parameters(), drawn, strict=True):
            parameter.data.copy_(values[sample])
        torch.testing.assert_close(found[sample], empirical_kernel(module, x)[0, 1])


def test_module_follows_the_ntk_parameterization():
    module = module_of(BLOCK, (6,), "unit")
    convolutions = [layer for layer in module if isinstance(layer, nn.Conv2d)]
    assert [layer.scale**2 for layer in convolutions] == pytest.approx([2 / 12, 2 / 27, 1 / 6])
    assert [layer.weight.numel() for layer in convolutions] == [72, 162, 24]
    assert all(layer.bias is None for layer in convolutions)
    assert sum(p.numel() for p in module.parameters()) == BLOCK.parameters((6,))
    assert 0.8 < convolutions[1].weight.std() < 1.2


def test_every_layer_contributes_one_to_the_mean_of_a_unit_entry():
    gram = correlation_gram(0.5, 3, 3)
    x, _ = inputs_with_gram(BLOCK, "unit", gram)
    samples = kernel_samples(
        module_of(BLOCK, (8,), "unit").double(), x, x, 4000, torch.Generator().manual_seed(2), chunk=500
    )
    assert abs(samples.mean() - 3) < 4 * samples.std() / 4000**0.5


def test_unit_and_pooled_entries_read_output_channel_zero():
    torch.manual_seed(3)
    unit, pooled = (module_of(BLOCK, (4,), entry) for entry in ("unit", "pooled"))
    pooled.load_state_dict(unit.state_dict())
    x = torch.randn(2, 12, 6, 6)
    features = unit[:-1](x)
    torch.testing.assert_close(unit(x), features[:, 0, 3, 3])
    torch.testing.assert_close(pooled(x), features[:, 0].mean((1, 2)))


def test_dense_layers_flatten_what_they_see_and_a_convolution_may_follow():
    layers = WeightLayer("conv", 3, kernel=3), WeightLayer("dense", 5), WeightLayer("conv", 2, "linear")
    module = module_of(Chain(2, 4, 4, layers, ()), (), "unit")
    assert module(torch.randn(7, 2, 4, 4)).shape == (7,)
    assert sum(p.numel() for p in module.parameters()) == 3 * 18 + 5 * 12 + 2 * 5


def test_unknown_entry_is_refused():
    with pytest.raises(ValueError, match="entry"):
        module_of(BLOCK, (4,), "mean")


@pytest.mark.parametrize("pair", [None, 0.4])
def test_inputs_have_the_asked_gram_in_every_group(pair):
    layers = WeightLayer("conv", 4, kernel=3, padding=1, groups=2), WeightLayer("conv", 1, "linear")
    chain = Chain(40, 6, 6, layers, ())
    window = input_window(chain, "unit")
    gram = correlation_gram(0.6, window.height, window.width)
    x, y = inputs_with_gram(chain, "unit", gram, pair)
    inside = slice(window.top, window.top + 3), slice(window.left, window.left + 3)
    for group in (slice(0, 20), slice(20, 40)):
        a, b = (z[group, inside[0], inside[1]].flatten(1).numpy() for z in (x, y))
        np.testing.assert_allclose(2 / 20 * a.T @ a, gram, atol=1e-9)
        np.testing.assert_allclose(2 / 20 * a.T @ b, (1 if pair is None else pair) * gram, atol=1e-9)
    assert x.square().sum() == pytest.approx(40 / 2 * np.trace(gram))


def test_inputs_need_enough_channels():
    with pytest.raises(ValueError, match="do not fit"):
        inputs_with_gram(BLOCK, "pooled", np.eye(36))
