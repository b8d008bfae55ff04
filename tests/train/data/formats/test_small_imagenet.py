"""Small ImageNet, written here as its authors write it, read back, and refused where it is wrong."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from collegium.train.data.formats.small_imagenet import load_small_imagenet
from collegium.train.errors import DataError


@pytest.mark.parametrize("version", ["npz", "pickle"])
@pytest.mark.parametrize(("name", "side"), [("imagenet32", 32), ("imagenet64", 64)])
def test_small_imagenet_counts_labels_from_one(tmp_path, rng, name, side, version):
    folder = tmp_path / name
    folder.mkdir()
    for stem in ("train_data_batch_1", "train_data_batch_2", "val_data"):
        batch = {"data": rng.integers(0, 256, (3, 3 * side * side), dtype=np.uint8), "labels": [1, 1000, 5]}
        if version == "npz":
            np.savez(folder / f"{stem}.npz", **batch)
        else:
            (folder / stem).write_bytes(pickle.dumps(batch))
    data = load_small_imagenet(name, tmp_path)
    assert data.x_train.shape == (6, 3, side, side)
    assert data.mean_image
    assert data.y_test.tolist() == [0, 999, 4]


def test_small_imagenet_says_what_is_missing(tmp_path):
    with pytest.raises(DataError, match="not in the data folder"):
        load_small_imagenet("imagenet32", tmp_path)
    (tmp_path / "imagenet32").mkdir()
    with pytest.raises(DataError, match="train_data_batch_1"):
        load_small_imagenet("imagenet32", tmp_path)
