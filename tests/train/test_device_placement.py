"""Training steps on a device of their own: nothing that they make is left on the processor.

The device is ``meta``, whose tensors have no numbers. Like a GPU's, they cannot be mixed with the processor's, so that
a tensor made on the wrong device fails here, without a GPU.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from collegium.train.loop.metrics import MetricSum
from collegium.train.majority.draw import CHUNK, Draw, mix, spread
from collegium.train.majority.fused import clip_gradient_norm
from collegium.train.methods import create

DEVICE = torch.device("meta")


def network():
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)]
    return nn.Sequential(*layers).to(DEVICE).to(memory_format=torch.channels_last)


def images(count=4):
    return torch.empty(count, 3, 8, 8, device=DEVICE).contiguous(memory_format=torch.channels_last)


def labels(*shape):
    return torch.zeros(shape, dtype=torch.long, device=DEVICE)


def compute_loss(model, batch):
    logits = model(batch[0])
    return functional.cross_entropy(logits, batch[1]), logits


def test_the_device_does_not_mix_with_the_processor():
    with pytest.raises(RuntimeError, match="device"):
        torch.empty(2, device=DEVICE) + torch.empty(2)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("name", ["vanilla", "majority", "adversarial", "adversarial_majority", "learned"])
def test_a_step_stays_on_its_device(name, optimizer):
    method = create(name)
    model = method.prepare(network(), seed=0).train()
    stepper = method.optimizer(model, optimizer(model.parameters(), lr=0.1))
    for step in range(2):
        stepper.zero_grad()
        output = method.step(model, [(images(), labels(4))] * 2, compute_loss, step=step)
        clip_gradient_norm(model, stepper, 1.0)
        stepper.step()
    assert output.loss.device == DEVICE
    assert {value.device for value in method.finish(model).state_dict().values()} == {DEVICE}


@pytest.mark.parametrize("e", [1, 2, 3])
def test_draws_are_made_where_the_copies_are(e):
    copies, draw = torch.empty(e, CHUNK + 5, device=DEVICE), Draw(1, 2, 3)
    assert mix(copies, draw).device == DEVICE
    assert spread(copies[0], draw, e).device == DEVICE


@pytest.mark.parametrize("shape", [(4,), (4, 3)])
def test_metrics_ask_for_numbers_at_the_end_alone(shape, monkeypatch):
    """Whatever reads a number waits for all that a GPU was given to do."""
    monkeypatch.setattr("collegium.train.loop.metrics.PENDING", 0)
    metrics = MetricSum(DEVICE)
    for _ in range(2):
        metrics.add(torch.empty(*shape, 10, device=DEVICE), labels(*shape), torch.empty((), device=DEVICE))
    with pytest.raises(RuntimeError, match="meta"):
        metrics.mean()
