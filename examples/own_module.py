"""A module of one's own: what in it can be split, into what, and the split module, ready for any training loop."""

import torch
from torch import nn

import collegium


class Block(nn.Module):
    """A bottleneck with a skip connection."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.reduce, self.norm1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.mix, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.restore = nn.Conv2d(width, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The input and what the branch adds to it."""
        h = torch.relu(self.norm1(self.reduce(x)))
        return x + self.restore(torch.relu(self.norm2(self.mix(h))))


stem, head = nn.Conv2d(3, 128, 3, padding=1), (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
model = nn.Sequential(stem, *(Block(128, 64) for _ in range(6)), *head)

baseline = collegium.describe(model, torch.randn(1, 3, 32, 32))
print(baseline)
answer = collegium.find_ensemble(baseline)
print(answer.outcome.message)
assert answer.primal is not None
ensemble = collegium.regroup(model, answer.primal)
print(ensemble.regrouped)
print(ensemble(torch.randn(2, 3, 32, 32)).shape)
