import hashlib
import os

import fsspec
import pytest

from collegium.jobs.errors import ArtifactNotFound, InvalidName
from collegium.jobs.files.artifacts import CHUNK, ArtifactStore, check_name, media_type_of


@pytest.fixture(params=["file", "plain", "memory"])
def artifacts(request, tmp_path):
    """A store in a folder, by URL and by path, and one in memory."""
    urls = {"file": f"file://{tmp_path}/store", "plain": f"{tmp_path}/store", "memory": "memory://store"}
    yield ArtifactStore(urls[request.param])
    memory = fsspec.filesystem("memory")
    if memory.exists("/store"):
        memory.rm("/store", recursive=True)


@pytest.fixture
def file(tmp_path):
    """A file of more than two chunks, and its bytes."""
    data = os.urandom(2 * CHUNK + 17)
    path = tmp_path / "file"
    path.write_bytes(data)
    return path, data


def test_a_file_is_copied_and_described(artifacts, file):
    path, data = file
    artifact = artifacts.put_file("job", 2, "model.safetensors", path)
    assert (artifact.name, artifact.bytes) == ("model.safetensors", len(data))
    assert artifact.sha256 == hashlib.sha256(data).hexdigest()
    assert artifact.media_type == "application/octet-stream"
    path.unlink()
    with artifacts.open(artifact.location) as reader:
        assert reader.read() == data
        assert reader.read() == b""


def test_a_range_is_read(artifacts, file):
    path, data = file
    location = artifacts.put_file("job", 1, "f", path).location
    size = len(data)
    for start, end in [(0, 0), (0, 1), (5, CHUNK + 5), (CHUNK, None), (size - 1, size), (size, None), (3, size + 9)]:
        with artifacts.open(location, start, end) as reader:
            assert b"".join(reader) == data[start:end]
    with artifacts.open(location, 2, 12) as reader:
        assert (reader.read(4), reader.read(100), reader.read(100)) == (data[2:6], data[6:12], b"")
    for start, end in [(size + 1, None), (2, 1), (-1, 5)]:
        with pytest.raises(ValueError, match="no range"):
            artifacts.open(location, start, end)


def test_attempts_have_separate_folders(artifacts, tmp_path):
    (tmp_path / "f").write_text("one")
    first = artifacts.put_file("job", 1, "hf/config.json", tmp_path / "f")
    (tmp_path / "f").write_text("two")
    second = artifacts.put_file("job", 2, "hf/config.json", tmp_path / "f")
    again = artifacts.put_file("job", 2, "hf/config.json", tmp_path / "f")
    assert first.media_type == "application/json"
    assert second == again
    assert artifacts.open(first.location).read() == b"one"
    assert artifacts.open(second.location).read() == b"two"
    artifacts.delete_attempt("job", 1)
    with pytest.raises(ArtifactNotFound):
        artifacts.open(first.location)
    assert artifacts.open(second.location).read() == b"two"
    artifacts.delete_attempt("job", 2)
    with pytest.raises(ArtifactNotFound) as caught:
        artifacts.open(second.location)
    assert caught.value.location == second.location
    artifacts.delete_attempt("job", 2)
    artifacts.delete_attempt("job", 7)


def test_an_empty_file_is_a_file(artifacts, tmp_path):
    (tmp_path / "empty").touch()
    artifact = artifacts.put_file("job", 1, "empty.txt", tmp_path / "empty", media_type="text/x-nothing")
    assert (artifact.bytes, artifact.media_type) == (0, "text/x-nothing")
    with artifacts.open(artifact.location) as reader:
        assert list(reader) == []


NAMES = ["", ".", "..", "a/../b", "/etc/passwd", "a//b", "a/", ".hidden", "a/.b", "-f", "a b", "a\\b", "a\0", "ä"]


@pytest.mark.parametrize("name", [*NAMES, "x" * 256, "a\n", "s3://b/c", "a:b", "*"])
def test_no_name_leaves_its_folder(artifacts, tmp_path, name):
    (tmp_path / "f").touch()
    with pytest.raises(InvalidName):
        artifacts.put_file("job", 1, name, tmp_path / "f")
    with pytest.raises(InvalidName):
        artifacts.put_file(name, 1, "f", tmp_path / "f")
    with pytest.raises(InvalidName):
        artifacts.open(name)
    with pytest.raises(InvalidName):
        artifacts.delete_attempt(name, 1)


def test_plain_names_are_names():
    for name in ("model.safetensors", "hf/tokenizer/spiece.model", "a-b_c.D", "_x", "9"):
        assert check_name(name) == name


def test_only_regular_files_are_published(artifacts, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a link"):
        artifacts.put_file("job", 1, "f", tmp_path / "link")
    for odd in ("pipe", "."):
        with pytest.raises(ValueError, match="not a regular file"):
            artifacts.put_file("job", 1, "f", tmp_path / odd)
    with pytest.raises(FileNotFoundError):
        artifacts.put_file("job", 1, "f", tmp_path / "nothing")


def test_a_half_written_file_is_never_in_its_place(tmp_path, monkeypatch):
    store = ArtifactStore(str(tmp_path / "store"))
    (tmp_path / "f").write_text("text")

    def full(descriptor):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        store.put_file("job", 1, "f", tmp_path / "f")
    with pytest.raises(ArtifactNotFound):
        store.open("job/1/f")


def test_the_file_and_its_folders_are_flushed(tmp_path, monkeypatch):
    store = ArtifactStore(f"file://{tmp_path}/store")
    (tmp_path / "f").write_text("text")
    flushed, fsync = [], os.fsync

    def watch(descriptor):
        flushed.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    store.put_file("job", 1, "a/f", tmp_path / "f")
    path = tmp_path / "store/job/1/a/f"
    assert flushed == [place.stat().st_ino for place in (path, *list(path.parents)[:4])]


def test_a_store_can_be_reached_or_says_so(artifacts, tmp_path, monkeypatch):
    artifacts.ping()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="exists"):
        ArtifactStore(str(tmp_path / "file")).ping()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="cannot be written"):
        ArtifactStore(str(tmp_path / "store")).ping()


def test_media_types_are_the_same_everywhere():
    assert media_type_of("curve.SVG") == "image/svg+xml"
    assert media_type_of("README.md") == "text/markdown"
    assert media_type_of("model") == "application/octet-stream"
