"""Images in the published format, few enough that a training takes a fraction of a second."""

import struct

import numpy as np
import pytest


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
