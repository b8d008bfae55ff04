"""CIFAR, written here as its authors write it, read back, and refused where it is wrong."""

from __future__ import annotations

import io
import pickle
import tarfile

import numpy as np
import pytest

from collegium.train.data.formats.cifar import load_cifar
from collegium.train.errors import DataError


def cifar_batches(rng, count=4, classes=10):
    return {
        name: (rng.integers(0, 256, (count, 3072), dtype=np.uint8), rng.integers(0, classes, count).tolist())
        for name in [*(f"data_batch_{index}" for index in range(1, 6)), "test_batch"]
    }


def write_cifar10(root, batches, version):
    folder = root / ("cifar-10-batches-bin" if version == "binary" else "cifar-10-batches-py")
    folder.mkdir()
    for name, (pixels, labels) in batches.items():
        if version == "binary":
            rows = np.concatenate([np.array(labels, np.uint8)[:, None], pixels], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            (folder / name).write_bytes(pickle.dumps({b"data": pixels, b"labels": labels}, protocol=2))
    return folder


def archive(folder, root, name):
    with tarfile.open(root / name, "w:gz") as tar:
        tar.add(folder, folder.name)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("version", ["binary", "python"])
def test_cifar10_is_read_as_written(tmp_path, rng, version, packed):
    batches = cifar_batches(rng)
    folder = write_cifar10(tmp_path, batches, version)
    if packed:
        archive(folder, tmp_path, f"cifar-10-{version}.tar.gz")
    data = load_cifar("cifar10", tmp_path)
    assert data.x_train.shape == (20, 3, 32, 32)
    np.testing.assert_array_equal(data.x_train[4].reshape(-1), batches["data_batch_2"][0][0])
    assert data.y_test.tolist() == batches["test_batch"][1]


def test_cifar100_takes_the_fine_label(tmp_path, rng):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    for name in ("train.bin", "test.bin"):
        rows = rng.integers(0, 256, (3, 3074), dtype=np.uint8)
        rows[:, 0], rows[:, 1] = 7, [11, 22, 99]
        (folder / name).write_bytes(rows.tobytes())
    data = load_cifar("cifar100", tmp_path)
    assert data.y_train.tolist() == [11, 22, 99]
    assert data.classes == 100


def test_cifar_says_what_is_missing(tmp_path, rng):
    with pytest.raises(DataError, match="not in the data folder"):
        load_cifar("cifar10", tmp_path)
    folder = write_cifar10(tmp_path, cifar_batches(rng), "binary")
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3.bin is missing"):
        load_cifar("cifar10", tmp_path)


def test_a_truncated_cifar_batch_is_refused(tmp_path, rng):
    folder = write_cifar10(tmp_path, cifar_batches(rng), "binary")
    (folder / "test_batch.bin").write_bytes(b"\x00" * 3000)
    with pytest.raises(DataError, match="truncated"):
        load_cifar("cifar10", tmp_path)


def test_labels_out_of_range_are_refused(tmp_path, rng):
    write_cifar10(
        tmp_path, cifar_batches(rng, classes=10) | {"test_batch": (np.zeros((1, 3072), np.uint8), [10])}, "python"
    )
    with pytest.raises(DataError, match="labels from 10 to 10"):
        load_cifar("cifar10", tmp_path)


def test_an_archive_whose_path_leaves_it_is_refused(tmp_path):
    with tarfile.open(tmp_path / "cifar-10-binary.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("../../evil/data_batch_1.bin")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(DataError, match="leaves the archive"):
        load_cifar("cifar10", tmp_path)


def test_a_truncated_archive_is_refused(tmp_path, rng):
    folder = write_cifar10(tmp_path, cifar_batches(rng), "binary")
    archive(folder, tmp_path, "cifar-10-binary.tar.gz")
    path = tmp_path / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="fetch it again"):
        load_cifar("cifar10", tmp_path)
