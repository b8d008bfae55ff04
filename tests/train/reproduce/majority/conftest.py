"""Images in the published format, few enough that a training takes a fraction of a second, and rows without one."""

import math
import random
import struct

import numpy as np
import pytest

from collegium.train.reproduce.majority.entrants import ENTRANTS
from collegium.train.reproduce.majority.plan import next_trainings
from collegium.train.reproduce.majority.records import Records


def idx_bytes(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture(scope="session")
def make_images(tmp_path_factory):
    """A function to a data folder with 600 training images, whose bright row is their label, and 200 test images."""

    def make(test_seed=1):
        folder = tmp_path_factory.mktemp("data")
        (folder / "fashion-mnist").mkdir()
        for part, count, seed in (("train", 600, 0), ("t10k", 200, test_seed)):
            generator = np.random.default_rng(seed)
            labels = generator.integers(0, 10, count, dtype=np.uint8)
            images = generator.integers(0, 200, (count, 28, 28), dtype=np.uint8)
            images[np.arange(count), 2 * labels] = 255
            (folder / "fashion-mnist" / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
            (folder / "fashion-mnist" / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
        return folder

    return make


@pytest.fixture(scope="session")
def images(make_images):
    """A data folder with a small Fashion-MNIST."""
    return make_images()


def row_of(training, best=(2e-3, 16), gain=None):
    """A row as a training would leave it, were accuracy highest at the ``best`` rate and epochs.

    ``gain(method, seed)`` is added to the test accuracy.
    """
    if training.rate > 0.05:
        return training.row() | {"failure": "diverged"}
    lengths = [epochs for epochs in training.cell.lengths.all() if epochs < training.epochs]
    curve = ENTRANTS[training.entrant].reads_curve(training.cell)
    ends = [training.epochs, *(lengths if curve else [])]

    def accuracy(epochs):
        return 0.9 - 0.01 * math.hypot(math.log2(training.rate / best[0]), math.log2(epochs / best[1]))

    if training.tuning:
        return training.row() | {
            "validation": {str(epochs): [accuracy(epochs), 1.0] for epochs in ends},
            "seconds": 1.0,
        }
    test = accuracy(training.epochs) + (gain(training.entrant, training.seed) if gain else 0)
    return training.row() | {
        "accuracy": [1, 0.9, test],
        "seconds": 1.0,
        "sharpness": None,
        "curve": [],
    }


def complete_in(planned, folder, *, processes=1, seed=0, **fields):
    """Complete ``planned``; trainings end in a random order."""
    records, order, running = Records(folder, "a.jsonl"), random.Random(seed), {}
    while True:
        for training in next_trainings(planned, records, running, processes - len(running)):
            running[training.key] = training
        if not running:
            return records
        ended = running.pop(order.choice(list(running)))
        records.append(row_of(ended, **fields))


@pytest.fixture
def result():
    """A function of a training to its row, without training."""
    return row_of


@pytest.fixture
def complete():
    """A function of units and a folder to the records in which they are complete."""
    return complete_in
