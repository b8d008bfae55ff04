"""MNIST, written here as its authors write it, read back, and refused where it is wrong."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from collegium.train.data.catalog import load
from collegium.train.data.formats.idx import load_mnist, read_idx
from collegium.train.errors import DataError
from collegium.train.spec.data import DataSpec


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder, rng, suffix=""):
    arrays = {}
    for key, name, shape in (
        ("x_train", "train-images-idx3-ubyte", (6, 28, 28)),
        ("y_train", "train-labels-idx1-ubyte", (6,)),
        ("x_test", "t10k-images-idx3-ubyte", (3, 28, 28)),
        ("y_test", "t10k-labels-idx1-ubyte", (3,)),
    ):
        arrays[key] = rng.integers(0, 10 if key[0] == "y" else 256, shape, dtype=np.uint8)
        data = idx_bytes(arrays[key])
        (folder / (name + suffix)).write_bytes(gzip.compress(data) if suffix else data)
    return arrays


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_mnist_is_read_as_written(tmp_path, rng, suffix):
    arrays = write_mnist(tmp_path, rng, suffix)
    data = load_mnist(tmp_path)
    np.testing.assert_array_equal(data.x_train[:, 0], arrays["x_train"])
    np.testing.assert_array_equal(data.y_test, arrays["y_test"])
    assert data.x_train.shape == (6, 1, 28, 28)
    assert data.classes == 10


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], "of 16 values"),
        (lambda data: data[:3], "truncated"),
        (lambda data: b"\x00\x00\x0d\x01" + data[4:], "unsigned bytes"),
        (lambda data: struct.pack(">HBB3I", 0, 8, 3, 2**31, 2**31, 2**31), "claims"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path, damage, message):
    path = tmp_path / "x"
    path.write_bytes(damage(idx_bytes(np.zeros((4, 4), np.uint8))))
    with pytest.raises(DataError, match=message):
        read_idx(path)


def test_a_missing_mnist_file_is_named(tmp_path, rng):
    write_mnist(tmp_path, rng)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="t10k-labels"):
        load_mnist(tmp_path)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_a_data_set_is_the_folder_of_its_name(tmp_path, rng, name, recwarn):
    (tmp_path / name).mkdir()
    arrays = write_mnist(tmp_path / name, rng, ".gz")
    data = load(DataSpec(name=name), tmp_path)
    assert (data.shape, len(data.train), len(data.test)) == ((1, 28, 28), 6, 3)
    np.testing.assert_array_equal(data.test.y, arrays["y_test"])
    assert not list(recwarn)


def test_where_fashion_mnist_can_be_had_is_said(tmp_path):
    with pytest.raises(DataError) as caught:
        load(DataSpec(name="fashion-mnist"), tmp_path)
    assert "Debian's package dataset-fashion-mnist has it" in str(caught.value.remedy)


def test_files_that_change_are_read_again(tmp_path, rng):
    (tmp_path / "mnist").mkdir()
    for _ in range(2):
        arrays = write_mnist(tmp_path / "mnist", rng)
        data = load(DataSpec(name="mnist"), tmp_path)
        np.testing.assert_array_equal(data.test.x[:, 0], arrays["x_test"])
