"""Batches of a split in a seeded order that can be resumed anywhere, as inputs of the network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from collegium.train.data.dataset import Augment, Batch, Preprocessing, Split
from collegium.train.data.format import steps_per_epoch
from collegium.train.data.mixing import Mixing


def permutation(count: int, seed: int, epoch: int) -> Tensor:
    """The order of one epoch's samples. It follows from seed and epoch, so that a resumed run needs only a position."""
    generator = torch.Generator().manual_seed(derive_seed(seed, epoch, 0))
    return torch.randperm(count, generator=generator)


def derive_seed(*numbers: int) -> int:
    """A seed below 2⁶³ that depends on all of ``numbers``; neighbouring inputs give unrelated seeds."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


class TrainingBatches:
    """Batches of one epoch after another, augmented, normalized and mixed, on the device that trains.

    ``rank`` of ``world`` processes takes every ``world``-th sample of each batch. The random numbers of a batch follow
    from the seed and the step. Without ``draws``, a split that augments while it decodes does not.
    """

    def __init__(
        self,
        split: Split,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        augment: Augment | None = None,
        mixing: Mixing | None = None,
        draws: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._split, self._preprocessing, self._augment = split, preprocessing, augment
        self._size, self._seed, self._rank, self._world = batch_size, seed, rank, world
        self._mixing, self._draws = mixing, draws
        self._generator = torch.Generator(device)
        self.steps = steps_per_epoch(len(split), batch_size, world)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches ``start``, ``start + 1``, … of one epoch; the labels of mixed ones are shares of all classes."""
        order = permutation(len(self._split), self._seed, epoch)[: self.steps * self._size]
        order = order[start * self._size :]
        size = self._size
        if self._world > 1:
            order, size = self._shard(order)
        step = epoch * self.steps + start
        draw = derive_seed(self._seed, epoch, 1, self._rank) if self._draws else None
        augment = self._augment
        for x, y in self._split.batches(order, size, draw=draw):
            if augment is not None:
                self._generator.manual_seed(derive_seed(self._seed, step, 2, self._rank))
                x = augment(x.float(), self._generator)
            batch = self._preprocessing(x), y
            if self._mixing is not None:
                batch = self._mixing(batch, seed=derive_seed(self._seed, step, 4, self._rank))
            yield batch
            step += 1

    def _shard(self, order: Tensor) -> tuple[Tensor, int]:
        # Every process gets equally many samples of each batch; those that would be left over are dropped.
        size = self._size // self._world
        whole = [batch[: len(batch) // self._world * self._world] for batch in order.split(self._size)]
        return torch.cat([batch[self._rank :: self._world] for batch in whole]), size


def evaluation_batches(
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    most: int | None = None,
    rank: int = 0,
    world: int = 1,
) -> Iterator[Batch]:
    """Every sample once (or the first ``most``), in the split's own order; each process takes its share."""
    count = len(split) if most is None else min(most, len(split))
    order = torch.arange(rank, count, world)
    for x, y in split.batches(order, batch_size):
        yield preprocessing(x), y
