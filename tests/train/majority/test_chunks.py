"""Updates operator by operator, as where the package was installed without a C compiler, and the numbers they keep."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from collegium import expand, fuse, set_step
from collegium.train.majority import fused, fused_kernel
from collegium.train.majority.draw import CHUNK
from collegium.train.majority.kernel import majority_kernels


@pytest.fixture(autouse=True)
def chunks(without_native):
    """Nothing is built."""


def train(model, optimizer, steps):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        x = torch.randn(8, model[0].in_features, generator=generator)
        functional.mse_loss(model(x), torch.ones(8, model[-2].out_features)).backward()
        optimizer.step()


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("expansion", [2, 3, 5])
@pytest.mark.parametrize("rows", [7, CHUNK // 300, CHUNK // 200])
def test_numbers_that_are_kept_are_those_that_would_be_drawn_again(monkeypatch, expansion, rows):
    """Bit for bit; also where the p of another step is used, or an update has been interrupted."""

    def trained(most):
        monkeypatch.setattr(fused, "_KEPT", most)
        torch.manual_seed(0)
        model = expand(nn.Sequential(nn.Linear(300, rows), nn.Tanh()), expansion, seed=0)
        optimizer = fuse(torch.optim.SGD(model.parameters(), lr=0.05), model)
        train(model, optimizer, steps=2)
        (kernel,) = majority_kernels(model).values()
        assert all((points is not None) == (most > 0) for points in kernel.leaf.update.points)
        assert len(kernel.leaf.update.points) == (2 if rows * 300 > CHUNK else 1)
        set_step(model, 7)
        train(model, optimizer, steps=2)
        with monkeypatch.context() as context:
            context.setattr(fused_kernel, "_sgd", interrupt)
            with pytest.raises(KeyboardInterrupt):
                train(model, optimizer, steps=1)
        train(model, optimizer, steps=2)
        return model

    kept, drawn = trained(1 << 22), trained(0)
    assert all(torch.equal(one, other) for one, other in zip(kept.parameters(), drawn.parameters(), strict=True))


def test_a_model_keeps_a_bounded_number_of_points(monkeypatch):
    """Kernels that find no room draw again; smaller ones after them are kept nevertheless."""
    monkeypatch.setattr(fused, "_KEPT", 120)
    model = expand(nn.Sequential(nn.Linear(4, 10), nn.Linear(10, 8), nn.Linear(8, 2), nn.Tanh()), 3)
    for _ in range(2):  # also for a second optimizer
        train(model, fuse(torch.optim.Adam(model.parameters()), model), steps=1)
        updates = [kernel.leaf.update for kernel in majority_kernels(model).values()]
        assert [update.points[0] is not None for update in updates] == [True, False, True]
