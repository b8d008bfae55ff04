"""Published formats, written here as their authors write them, read back; and every way in which they can be wrong."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile

import numpy as np
import pytest

from collegium.train.data.formats.cifar import load_cifar
from collegium.train.data.formats.idx import load_mnist, read_idx
from collegium.train.data.formats.small_imagenet import load_small_imagenet
from collegium.train.data.formats.text import load_text
from collegium.train.data.plain_pickle import read_plain_pickle
from collegium.train.errors import DataError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


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


class _Evil:
    def __reduce__(self):
        return (os.system, ("echo run",))


@pytest.mark.parametrize("payload", [_Evil(), {"data": _Evil()}, [1, 2]])
def test_a_pickle_that_names_code_or_holds_no_dictionary_is_refused(payload):
    with pytest.raises(DataError):
        read_plain_pickle(pickle.dumps(payload), "batch")


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_a_cut_pickle_is_refused(cut):
    with pytest.raises(DataError):
        read_plain_pickle(pickle.dumps({"data": np.zeros(1000)})[:cut], "batch")


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


def test_text_pairs_from_tsv_and_jsonl(tmp_path):
    (tmp_path / "train.tsv").write_text('sentence1\tsentence2\tlabel\nA "b\tc\t1\nd\te\t0\n', encoding="utf-8")
    (tmp_path / "dev.jsonl").write_text('{"sentence1": "x", "sentence2": "y", "label": 1}\n\n', encoding="utf-8")
    train, test = load_text(tmp_path, None, None)
    assert train.texts == [('A "b', "c"), ("d", "e")]
    assert test.targets == ["1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentence\tlabel\nonly one field\n", "line 2"),
        ("sentence\tlabel\n", "no rows"),
        ("sentence\tscore\na\t1\n", "no column 'label'"),
        ("foo\tlabel\na\t1\n", "no input column"),
    ],
)
def test_wrong_text_is_refused_by_line_or_column(tmp_path, text, message):
    (tmp_path / "train.tsv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_text(tmp_path, None, None)
