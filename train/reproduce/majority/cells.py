"""The settings in which methods are compared: architecture × optimizer × training images × wrong labels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from collegium.train.models.grouping import group_network
from collegium.train.spec.architecture import BaselineArchitecture

DATA = "fashion-mnist"
IMAGES = 60_000
VALIDATION = 5_000
"""Images, with their right labels, by which rates and epochs are chosen."""
TEST = 10_000


@dataclass(frozen=True)
class Architecture:
    """A baseline as a training takes it, its recipe's fields, and the rates that the search for one begins at.

    ``normed``: whether batch norms' statistics are estimated anew at the end of some methods, so that the middle of a
    training is not what a shorter one leaves.
    """

    baseline: dict[str, Any]
    recipe: dict[str, Any]
    rates: dict[str, float]
    normed: bool
    rank: int

    def operations(self) -> int:
        """Multiply–accumulates of one image's forward pass, for estimates of time."""
        return group_network(BaselineArchitecture.model_validate({"baseline": self.baseline})).flops


def _mlp(*hidden: int, rank: int) -> Architecture:
    baseline = {"family": "mlp", "inputs": 784, "hidden": list(hidden), "outputs": 10, "bias": True}
    return Architecture(baseline, {"batch_size": 256, "momentum": 0.0}, {"Adam": 1e-3, "SGD": 0.1}, False, rank)


def _resnet(rank: int, **fields: Any) -> Architecture:
    baseline = {"family": "resnext", "classes": 10, **fields}
    return Architecture(baseline, {"batch_size": 64, "momentum": 0.9}, {"Adam": 1e-3, "SGD": 0.05}, True, rank)


#: A1 to A3 are those of Mazzawi et al. 2024, Appendix G.
ARCHITECTURES = {
    "A1": _mlp(100, rank=0),
    "A2": _mlp(200, 100, rank=0),
    "A3": _mlp(400, 200, 100, rank=3),
    "CNN": _resnet(3, layout="imagenet", blocks=[1, 1], block="basic", base_width=16, channels=16),
    "ResNeXt-29": _resnet(8, layout="cifar", depth=29, cardinality=4, base_width=2, channels=8),
}
OPTIMIZERS = {"Adam": 0, "SGD": 2}
NOISE = {0.0: 0, 0.2: 0, 0.4: 1, 0.1: 3}


@dataclass(frozen=True)
class Lengths:
    """Numbers of epochs that are tried: ``shortest`` · 2^j for j = 0 … ``most``, at first up to j = ``first``."""

    shortest: int
    first: int
    most: int

    def epochs(self, step: int) -> int:
        """Epochs at step j."""
        return self.shortest * 2**step

    def all(self) -> list[int]:
        """Every number of epochs that may be tried."""
        return [self.epochs(step) for step in range(self.most + 1)]


#: Training images → (numbers of epochs, rank). At 60 000, the images of the choice are not trained on.
SIZES = {
    1_000: (Lengths(2, 5, 10), 0),
    5_000: (Lengths(1, 5, 9), 1),
    20_000: (Lengths(1, 4, 8), 4),
    60_000: (Lengths(1, 3, 7), 6),
}


@dataclass(frozen=True)
class Cell:
    """One setting.

    >>> Cell("A1", "Adam", 1000, 0.2).name
    'A1 Adam 1000 20%'
    """

    architecture: str
    optimizer: str
    images: int
    noise: float

    @property
    def name(self) -> str:
        """Its name in records and tables."""
        return f"{self.architecture} {self.optimizer} {self.images} {100 * self.noise:.0f}%"

    @property
    def network(self) -> Architecture:
        """The architecture by its name."""
        return ARCHITECTURES[self.architecture]

    @property
    def asked(self) -> dict[str, Any]:
        """The ``architecture`` of a training."""
        return {"baseline": self.network.baseline}

    @property
    def lengths(self) -> Lengths:
        """Numbers of epochs that are tried."""
        return SIZES[self.images][0]

    @property
    def trained_images(self) -> int:
        """Images that are trained on."""
        return min(self.images, IMAGES - VALIDATION)

    @property
    def rank(self) -> int:
        """The lower, the sooner it is run: what is most informative for its cost comes first."""
        return self.network.rank + OPTIMIZERS[self.optimizer] + NOISE[self.noise] + SIZES[self.images][1]

    def data(self, seed: int, *, test: int = TEST) -> dict[str, Any]:
        """The ``data`` of a training: ``seed`` draws its images, those of the choice, and the wrong labels."""
        limit = self.trained_images + VALIDATION
        return {
            "name": DATA,
            "limit": limit,
            "test_limit": test,
            "validation": VALIDATION / limit,
            "label_noise": self.noise,
            "seed": seed,
        }


def all_cells() -> list[Cell]:
    """Every setting, the most informative first."""
    return sorted(_all(), key=lambda cell: cell.rank)


def _all() -> Iterator[Cell]:
    for images, noise, optimizer, architecture in product(SIZES, NOISE, OPTIMIZERS, ARCHITECTURES):
        yield Cell(architecture, optimizer, images, noise)
