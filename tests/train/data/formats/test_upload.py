"""Uploaded data: what is taken, and that nothing wrong, huge or executable gets in."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from collegium.train.data.formats.upload import check_upload, load_upload
from collegium.train.errors import DataError


def arrays(**changes):
    rng = np.random.default_rng(0)
    made = {
        "x_train": rng.normal(size=(8, 5)).astype(np.float32),
        "y_train": np.arange(8) % 3,
        "x_test": rng.normal(size=(4, 5)).astype(np.float32),
        "y_test": np.arange(4) % 3,
    } | changes
    return {name: array for name, array in made.items() if array is not None}


@pytest.mark.parametrize("kind", ["npz", "compressed", "safetensors"])
def test_a_good_file_is_described_and_read_back(tmp_path, kind):
    path, made = tmp_path / "data", arrays()
    if kind == "safetensors":
        save_file(made, path)
    else:
        with path.open("wb") as file:
            (np.savez if kind == "npz" else np.savez_compressed)(file, **made)
    summary = check_upload(path)
    assert summary["shape"] == [5]
    assert (summary["classes"], summary["train"], summary["test"]) == (3, 8, 4)
    np.testing.assert_array_equal(load_upload(path).x_train, made["x_train"])


def test_images_of_bytes_stay_bytes(tmp_path):
    path = tmp_path / "data.npz"
    image = np.zeros((8, 3, 4, 4), np.uint8)
    np.savez(path, **arrays(x_train=image, x_test=image[:4]))
    assert load_upload(path).x_train.dtype == np.uint8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "y_test is missing"),
        ({"extra": np.zeros(3)}, "extra is not expected"),
        ({"x_train": np.full((8, 5), np.nan, np.float32)}, "NaN or infinite"),
        ({"x_train": np.full((8, 5), np.inf)}, "NaN or infinite"),
        ({"y_train": np.zeros(7, int)}, "one label to each sample"),
        ({"y_train": np.zeros((8, 1), int)}, "one integer a sample"),
        ({"y_train": np.zeros(8)}, "one integer a sample"),
        ({"y_train": np.full(8, -1)}, "counted from 0"),
        ({"y_train": np.full(8, 10**9)}, "largest label"),
        ({"y_train": np.full(8, 2**64 - 1, np.uint64)}, "counted from 0"),
        ({"y_train": np.zeros(8, int), "y_test": np.zeros(4, int)}, "two classes"),
        ({"x_test": np.zeros((4, 6), np.float32)}, "same shape"),
        ({"x_test": np.zeros((0, 5), np.float32), "y_test": np.zeros(0, int)}, "at least one sample"),
        ({"x_train": np.array(["a"] * 8)}, "has type"),
        ({"x_train": np.array([{}] * 8)}, "Python objects"),
        ({"x_train": np.zeros((8, 1, 1, 1, 5))}, "four dimensions"),
    ],
)
def test_a_wrong_file_is_refused_by_array(tmp_path, changes, message):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays(**changes))
    with pytest.raises(DataError, match=message):
        check_upload(path)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_a_zip_bomb_is_refused_from_its_headers(tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays(x_train=np.zeros((40_000, 100), np.float64)).items():
            archive.writestr(f"{name}.npy", npy(array))
    assert path.stat().st_size < 1_000_000
    with pytest.raises(DataError, match="unpack to"):
        check_upload(path, limit=10_000_000)


def test_a_header_that_claims_more_than_the_member_holds_is_refused(tmp_path):
    path = tmp_path / "lie.npz"
    honest = npy(np.zeros((8, 5)))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", honest.replace(b"(8, 5)", b"(9, 5)"))
    with pytest.raises(DataError, match="disagree"):
        check_upload(path)


@pytest.mark.parametrize("name", ["../x_train.npy", "/x_train.npy", "a/x_train.npy", "x_train.txt"])
def test_a_member_that_is_no_plain_array_is_refused(tmp_path, name):
    path = tmp_path / "paths.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, npy(np.zeros(3)))
    with pytest.raises(DataError, match=r"archive holds"):
        check_upload(path)


@pytest.mark.parametrize("keep", [0, 3, 40, 300])
@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_a_truncated_file_is_refused(tmp_path, kind, keep):
    path = tmp_path / "data"
    if kind == "safetensors":
        save_file(arrays(), path)
    else:
        with path.open("wb") as file:
            np.savez(file, **arrays())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError):
        check_upload(path)


@pytest.mark.parametrize(
    "header",
    [b"[]", b"{" * 200, b'{"x_train": {}}', b'{"x_train": {"dtype": "BF16", "shape": [1]}}', b'{"x_train": 3}',
     json.dumps({"x_train": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4]}}).encode()],
)  # fmt: skip
def test_a_crafted_safetensors_header_is_refused(tmp_path, header):
    path = tmp_path / "data.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(DataError):
        check_upload(path)
