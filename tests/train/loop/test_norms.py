"""Statistics of batch norms that are estimated again: of the mean weights, all or nothing, and not of frozen norms."""

import pytest
import torch
from torch import nn

from collegium import expand, reestimate_norms


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3), nn.BatchNorm1d(3))


def states(model):
    return {
        "modes": [module.training for module in model.modules()],
        "momentum": [getattr(module, "momentum", None) for module in model.modules()],
        "buffers": {name: value.clone() for name, value in model.named_buffers()},
    }


def failing(batches):
    yield from batches
    raise RuntimeError("the disk is gone")


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("wrong", [lambda: failing([torch.ones(4, 4)]), lambda: [torch.ones(4, 4), torch.ones(4, 5)]])
def test_where_a_batch_raises_everything_is_as_before(mode, wrong):
    model = network().train(mode)
    before = states(model)
    with pytest.raises(RuntimeError):
        reestimate_norms(model, wrong())
    after = states(model)
    assert after["modes"] == before["modes"]
    assert after["momentum"] == before["momentum"]
    torch.testing.assert_close(after["buffers"], before["buffers"], rtol=0, atol=0)


def test_statistics_are_averages_over_the_batches():
    model, batches = network().eval(), [torch.randn(16, 4) for _ in range(3)]
    reestimate_norms(model, [(batch, torch.zeros(16)) for batch in batches])
    with torch.no_grad():
        seen = torch.stack([model[0](batch) for batch in batches])
    torch.testing.assert_close(model[1].running_mean, seen.mean((0, 1)))
    torch.testing.assert_close(model[1].running_var, seen.var(1).mean(0))
    assert model[1].momentum == 0.1
    assert not model.training


def test_frozen_norms_keep_their_statistics():
    by_mode, by_weights = network().train(), network().eval()
    by_mode[1].eval()
    by_weights[1].requires_grad_(False)
    for model in (by_mode, by_weights):
        model[1].running_mean.fill_(7.0)
        reestimate_norms(model, [torch.randn(16, 4)])
        assert bool((model[1].running_mean == 7.0).all())
        assert not bool((model[4].running_mean == 0.0).any())
    assert not by_mode[1].training
    whole = network().requires_grad_(False)  # for inference: nothing tells frozen norms apart
    reestimate_norms(whole, [torch.randn(16, 4)])
    assert bool((whole[1].running_mean != 0.0).all())


def test_an_expanded_model_is_estimated_under_its_mean():
    model, x = expand(network(), 3, seed=0), torch.randn(32, 4)
    reestimate_norms(model, [x])
    mean = model[0].parametrizations.weight.original.detach().mean(0)
    torch.testing.assert_close(model[1].running_mean, (x @ mean.T + model[0].bias.detach()).mean(0))


def test_norms_that_no_batch_reaches_keep_their_statistics():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.auxiliary = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.norm(x) + (self.auxiliary(x) if self.training else 0)

    model, x = Heads(), 3 + torch.randn(16, 4)
    model(x)
    before = {name: value.clone() for name, value in model.auxiliary.named_buffers()}
    reestimate_norms(model, [x])
    torch.testing.assert_close(model.norm.running_mean, x.mean(0))
    for name, value in model.auxiliary.named_buffers():
        assert torch.equal(value, before[name])
