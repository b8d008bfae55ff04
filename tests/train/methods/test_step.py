"""One optimizer step: gradients over microbatches, and when processes exchange them."""

import copy

import pytest
import torch
from torch import nn

from collegium.train.methods import create
from collegium.train.methods.step import Execution, run_microbatches


def test_microbatches_add_up_to_the_batch(task):
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    twin, (x, y) = copy.deepcopy(model), task.batch()
    whole = create("vanilla").step(model, [(x, y)], task.compute_loss, step=0)
    parts = [(x[:8], y[:8]), (x[8:], y[8:])]
    split = create("vanilla").step(twin, parts, task.compute_loss, step=0, weights=[8 / 12, 4 / 12])
    torch.testing.assert_close(split.loss, whole.loss)
    torch.testing.assert_close(torch.cat(split.logits), whole.logits[0])
    torch.testing.assert_close(twin.weight.grad, model.weight.grad)
    assert not whole.loss.requires_grad
    assert not whole.logits[0].requires_grad


def test_gradients_are_reduced_with_the_last_microbatch_alone(task):
    calls = []

    class Quiet:
        def __enter__(self):
            calls.append("quiet")

        def __exit__(self, *_):
            calls.append("loud")

    execution = Execution(backward=lambda loss: (calls.append("backward"), loss.backward()), no_sync=lambda _: Quiet())
    run_microbatches(nn.Linear(5, 3), [task.batch(), task.batch()], task.compute_loss, execution)
    assert calls == ["quiet", "backward", "loud", "backward"]


def test_a_step_needs_a_batch_and_a_weight_for_each(task):
    with pytest.raises(ValueError, match="at least one microbatch"):
        run_microbatches(nn.Linear(5, 3), [], task.compute_loss, Execution())
    with pytest.raises(ValueError, match="1 microbatches but 2 weights"):
        run_microbatches(nn.Linear(5, 3), [task.batch()], task.compute_loss, Execution(), [0.5, 0.5])
