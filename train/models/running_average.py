"""A network that is trained beside an average of its weights, which is what evaluation sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Share = Callable[[int], float]
"""Weight of the newest model in the average, given how many models are in it."""


class RunningAverage(nn.Module):
    """In training mode ``model``; in evaluation mode the average of its weights, or ``model`` before there is one.

    θ̄ ← θ̄ + s(k) (θ − θ̄), where k models are in θ̄ and s is ``share``; the first model is taken as it is. Parameters
    and real buffers, which are the statistics of norms, are averaged; other buffers are those of the newest model.

    >>> import torch
    >>> network = RunningAverage(torch.nn.Linear(1, 1, bias=False), lambda models: 1 / (models + 1))
    >>> for value in (1.0, 2.0, 6.0):
    ...     _ = torch.nn.init.constant_(network.trained.weight, value)
    ...     network.take_in()
    >>> network.finish().weight.item()
    3.0
    """

    def __init__(self, model: nn.Module, share: Share) -> None:
        super().__init__()
        self.trained = model
        self.average = AveragedModel(model, multi_avg_fn=_Mixing(share), use_buffers=True).requires_grad_(False)
        self.config = getattr(model, "config", None)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the network of the present mode computes."""
        return self._evaluated(*inputs, **named) if not self.training else self.trained(*inputs, **named)

    @property
    def _evaluated(self) -> nn.Module:
        return self.average.module if self.average.n_averaged else self.trained

    def take_in(self) -> None:
        """Add the present weights to the average."""
        self.average.update_parameters(self.trained)

    def finish(self) -> nn.Module:
        """The network of evaluation mode, by itself, with gradients where the trained one has them."""
        network = self._evaluated
        for ours, theirs in zip(network.parameters(), self.trained.parameters(), strict=True):
            ours.requires_grad_(theirs.requires_grad)
        return network.train(self.training)


class _Mixing:
    def __init__(self, share: Share) -> None:
        self._share = share

    def __call__(self, averages: Sequence[Tensor], newest: Sequence[Tensor], models: Tensor | int) -> None:
        """``averages`` and ``newest`` are of one data type."""
        if averages[0].is_floating_point():
            mix = get_ema_multi_avg_fn(1 - self._share(int(models)))
            mix(list(averages), list(newest), models)
            return
        for average, new in zip(averages, newest, strict=True):
            average.copy_(new)
