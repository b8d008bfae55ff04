"""What takes a parameter's place is converted as the parameter would be, and is not replaced by another one."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from collegium import collapse, expand, fuse


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv1d(36, 4, 1), nn.Flatten(), nn.Linear(32, 3))


class Images(nn.Module):
    """Images, then a sequence: kernels of two, three and four axes."""

    def __init__(self):
        super().__init__()
        self.layers = network()

    def forward(self, x):
        convolution, norm, sequence, flatten, head = self.layers
        return head(flatten(sequence(norm(convolution(x)).flatten(2).transpose(1, 2))))


def images(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 3, 8, 8, generator=generator).to(memory_format=torch.channels_last)


def trained(*, convert_at, fused):
    model = Images()
    if convert_at == "before expand":
        model.to(memory_format=torch.channels_last)
    expand(model, 3, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if fused:
        fuse(optimizer, model)
    for step in range(3):
        if step == convert_at:
            model.to(memory_format=torch.channels_last)
        optimizer.zero_grad()
        model(images(step)).square().mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("convert_at", ["before expand", 0, 1])
def test_channels_last_changes_nothing_but_the_layout(convert_at, fused):
    plain, model = trained(convert_at=None, fused=False), trained(convert_at=convert_at, fused=fused)
    for one, other in zip(plain.parameters(), model.parameters(), strict=True):
        assert other.is_contiguous() or other.shape[:1] != (3,)
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        expected = model.eval()(images(9))
        torch.testing.assert_close(collapse(model)(images(9)), expected)


def test_other_conversions_are_those_of_a_plain_model():
    model = expand(network(), 3)
    assert {p.dtype for p in model.double().parameters()} == {torch.float64}
    assert {p.device.type for p in copy.deepcopy(model).to("meta").parameters()} == {"meta"}
    assert all(parameter.is_shared() for parameter in model.share_memory().parameters())
    with pytest.raises(TypeError, match="only accepts floating point"):
        model.to(torch.int32)
    assert "ParametrizationList" in repr(model)


def test_a_parameter_in_the_place_of_copies_is_refused():
    model = expand(network(), 3).eval()
    weight, twin = model[0].weight.detach().clone(), copy.deepcopy(model)
    for each in (model, twin):
        with pytest.raises(RuntimeError, match=r"'weight' has copies here.*layer\.weight = value\.detach\(\)"):
            each[0].weight = nn.Parameter(weight)
        with pytest.raises(RuntimeError, match="collapse the model first"):
            fuse_conv_bn_eval(each[0], each[1])
        each[0].weight = weight * 2
        torch.testing.assert_close(each[0].weight, weight * 2)
        each[0].register_parameter("other", nn.Parameter(torch.zeros(1)))
        each[0].bias = nn.Parameter(torch.ones(8))
    collapse(model)[0].weight = nn.Parameter(weight)
    assert torch.equal(model[0].weight, weight)
    fuse_conv_bn_eval(model[0], model[1])


def test_a_class_over_that_of_the_parametrized_module():
    layer = expand(nn.Linear(4, 3), 3)
    layer.__class__ = type("Sharded", (layer.__class__,), {})  # as torch's fully_shard does
    layer.register_parameter("scale", nn.Parameter(torch.ones(1)))
    assert "scale" in dict(layer.named_parameters())
