"""Uploaded data: what is taken, and that nothing wrong, huge or executable gets in."""

from __future__ import annotations

import io
import json
import subprocess
import sys
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
    path = tmp_path / "wrong.npz"
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


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int8, np.uint32, ">f4", ">i2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_values_are_read_in_any_type_and_order(tmp_path, dtype, order):
    path = tmp_path / "data.npz"
    values = np.arange(8 * 3 * 2).reshape(8, 3, 2)
    x = np.asarray(values, dtype, order=order)
    np.savez(path, **arrays(x_train=x, x_test=x[:4]))
    check_upload(path)
    loaded = load_upload(path)
    np.testing.assert_array_equal(loaded.x_train, values.astype(np.float32))
    assert loaded.x_train.dtype == np.float32
    assert loaded.x_train.flags.c_contiguous


def test_what_is_too_large_for_float32_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays(x_train=np.full((8, 5), 1e300)))
    with pytest.raises(DataError, match="infinite"):
        check_upload(path)


def test_arrays_larger_than_a_chunk_are_checked_to_their_end(tmp_path):
    path, x = tmp_path / "data.npz", np.zeros((400_000, 1), np.float32)
    y = np.arange(400_000) % 3
    for x[-1], message in ((np.nan, "infinite"), (0, None)):
        np.savez(path, **arrays(x_train=x, y_train=y, x_test=x[:4]))
        if message:
            with pytest.raises(DataError, match=message):
                check_upload(path)
    x[:, 0] = np.arange(400_000)
    np.savez(path, **arrays(x_train=x, y_train=y, x_test=x[:4]))
    np.testing.assert_array_equal(load_upload(path).x_train, x)


def test_damage_within_the_values_is_noticed(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, **arrays(x_train=np.ones((1000, 5), np.float32), y_train=np.arange(1000) % 3))
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged"):
        check_upload(path)


def test_a_header_as_long_as_a_book_is_not_read(tmp_path):
    path = tmp_path / "data.npz"
    header = b"\x93NUMPY\x02\x00" + (10**8).to_bytes(4, "little") + b" " * 10**6
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x_train.npy", header)
    with pytest.raises(DataError, match="100000000 bytes"):
        check_upload(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_that_numpy_does_not_write_are_refused(tmp_path, compression):
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x_train.npy", npy(np.zeros((8, 5))))
    with pytest.raises(DataError, match="unusual way"):
        check_upload(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for _ in range(2):
            archive.writestr("x_train.npy", npy(np.zeros((8, 5))))
    with pytest.raises(DataError, match="twice"):
        check_upload(path)


@pytest.mark.skipif(sys.platform != "linux", reason="the address space is bounded on Linux alone")
def test_a_process_can_bound_its_memory():
    code = (
        "from collegium.train.data.formats.upload import limit_memory\n"
        "limit_memory(64 << 20)\n"
        "bytearray(32 << 20)\n"
        "try:\n"
        "    bytearray(128 << 20)\n"
        "except MemoryError:\n"
        "    print('bounded')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "bounded\n"
