"""Training steps as the training loop takes them: its precision, its optimizers, its methods, a batch on the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from collegium.train.loop.optimization import make_optimizer
from collegium.train.loop.runtime import DeviceLayout, Runtime
from collegium.train.methods.method import Method
from collegium.train.spec.recipes import Recipe

Batch = tuple[Tensor, Tensor]

RESNET50 = {"preset": "resnet50"}
TINY_RESNET = {"family": "resnext", "layout": "imagenet", "blocks": [1], "cardinality": 1, "base_width": 64}
"""ResNet-50's stem and its first bottleneck."""


@dataclass(frozen=True)
class Workload:
    """A model, what goes in and how its logits come out; ``recipe`` has precision, layout, optimizer, batch size."""

    title: str
    model: Callable[[], nn.Module]
    batch: Callable[[int, torch.device], Batch]
    logits: Callable[[nn.Module, Tensor], Tensor]
    recipe: Recipe

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean cross entropy and the logits."""
        logits = self.logits(model, batch[0])
        return functional.cross_entropy(logits.flatten(0, -2).float(), batch[1].flatten()), logits


class Steps:
    """One model in training; a call takes a step."""

    def __init__(self, workload: Workload, method: Method, device: torch.device) -> None:
        torch.manual_seed(0)
        recipe = workload.recipe
        runtime = Runtime(DeviceLayout.parse(device.type).fabric(recipe.precision), recipe)
        model = workload.model().to(device)
        self._batch = workload.batch(recipe.batch_size, device)
        if recipe.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._batch = self._batch[0].contiguous(memory_format=torch.channels_last), self._batch[1]
        model = method.prepare(model, seed=0).train()
        self._optimizer = method.optimizer(model, make_optimizer(model, recipe))
        self._model, self._stepper, self._execution = runtime.setup(model, self._optimizer)
        self._method, self._loss, self._taken = method, workload.loss, 0

    def __call__(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        self._method.step(self._model, [self._batch], self._loss, step=self._taken, execution=self._execution)
        self._stepper.step()
        self._taken += 1


def images(side: int, classes: int = 1000) -> Callable[[int, torch.device], Batch]:
    """Random images and labels, made on the device."""

    def batch(size: int, device: torch.device) -> Batch:
        return torch.randn(size, 3, side, side, device=device), torch.randint(classes, (size,), device=device)

    return batch
