"""A small task that every method can be tried on."""

import pytest
import torch
from torch import nn
from torch.nn import functional


def compute_loss(model, batch):
    logits = model(batch[0])
    return functional.cross_entropy(logits, batch[1]), logits


class Task:
    """Twelve points, three classes, a network with one hidden layer."""

    compute_loss = staticmethod(compute_loss)

    @staticmethod
    def batch(samples=12, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(samples, 5, generator=generator), torch.randint(3, (samples,), generator=generator)

    @staticmethod
    def model(*, seed=0, norm=False, dropout=0.0):
        torch.manual_seed(seed)
        extra = ([nn.BatchNorm1d(8)] if norm else []) + ([nn.Dropout(dropout)] if dropout else [])
        return nn.Sequential(nn.Linear(5, 8), *extra, nn.ReLU(), nn.Linear(8, 3))

    @staticmethod
    def train(method, model, optimizer, *, steps, first=0, parts=1):
        """The lines of the loop; returns the losses."""
        losses = []
        for step in range(first, first + steps):
            x, y = Task.batch(seed=step)
            batches = list(zip(x.chunk(parts), y.chunk(parts), strict=True))
            optimizer.zero_grad()
            losses.append(float(method.step(model, batches, compute_loss, step=step).loss))
            optimizer.step()
            method.after_step(model, step=step)
        return losses


@pytest.fixture
def task():
    return Task
