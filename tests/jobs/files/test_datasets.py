import hashlib
import os
import threading
import time

import pytest
from sqlalchemy.exc import OperationalError

from collegium.jobs.errors import DatasetNotFound, HashMismatch, InvalidName, OffsetMismatch, TooLarge, UploadNotFound
from collegium.jobs.files.datasets import DatasetStore, Upload

DATA = bytes(range(256)) * 40


@pytest.fixture
def datasets(store, tmp_path):
    return DatasetStore(tmp_path / "datasets", store, limit=len(DATA))


def summary(path):
    return {"bytes": path.stat().st_size, "suffix": path.suffix}


def send(datasets, data=DATA, name="digits", kind="npz"):
    upload = datasets.begin(name, kind)
    datasets.append(upload.id, 0, data)
    return upload.id


def uploads(datasets):
    return list((datasets.folder / "uploads").iterdir())


def test_an_upload_becomes_a_data_set(datasets, store):
    upload = datasets.begin("digits", "npz")
    assert upload == Upload(upload.id, "digits", "npz", 0)
    assert datasets.append(upload.id, 0, DATA[:100]).offset == 100
    assert datasets.append(upload.id, 100, [DATA[100:150], b"", DATA[150:]]).offset == len(DATA)
    digest = hashlib.sha256(DATA).hexdigest()
    dataset, new = datasets.finish(upload.id, summary, sha256=digest.upper())
    assert new
    assert (dataset.id, dataset.name, dataset.bytes, dataset.kind) == (digest, "digits", len(DATA), "npz")
    assert dataset.summary == {"bytes": len(DATA), "suffix": ".npz"}
    assert store.get_dataset(digest) == dataset
    assert datasets.path(digest) == datasets.folder / f"{digest}.npz"
    assert datasets.path(digest).read_bytes() == DATA
    assert uploads(datasets) == []
    with pytest.raises(UploadNotFound):
        datasets.finish(upload.id, summary)


def test_the_same_bytes_are_kept_once(datasets):
    first, _ = datasets.finish(send(datasets), summary)
    again, new = datasets.finish(send(datasets, name="another name"), summary)
    assert (again, new) == (first, False)
    assert uploads(datasets) == []
    assert datasets.path(first.id).read_bytes() == DATA


def test_a_broken_upload_goes_on_where_it_ended(datasets):
    upload = datasets.begin("digits", "npz")

    def broken():
        yield DATA[:1000]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        datasets.append(upload.id, 0, broken())
    assert datasets.get_upload(upload.id).offset == 1000
    for wrong in (0, 999, 1001):
        with pytest.raises(OffsetMismatch) as caught:
            datasets.append(upload.id, wrong, DATA)
        assert caught.value.expected == 1000
    datasets.append(upload.id, 1000, DATA[1000:])
    dataset, _ = datasets.finish(upload.id, summary)
    assert dataset.id == hashlib.sha256(DATA).hexdigest()


def test_more_than_the_limit_is_refused(datasets):
    upload = datasets.begin("digits", "npz")
    with pytest.raises(TooLarge) as caught:
        datasets.append(upload.id, 0, DATA + b"x")
    assert caught.value.limit == len(DATA)
    assert datasets.get_upload(upload.id).offset == 0
    datasets.append(upload.id, 0, DATA)
    with pytest.raises(TooLarge):
        datasets.append(upload.id, len(DATA), b"x")


def test_bad_data_end_the_upload_and_leave_nothing(datasets, store):
    def refuse(path):
        raise KeyError("no x_train")

    with pytest.raises(KeyError):
        datasets.finish(send(datasets), refuse)
    with pytest.raises(HashMismatch) as caught:
        datasets.finish(send(datasets), summary, sha256="00")
    assert (caught.value.announced, caught.value.found) == ("00", hashlib.sha256(DATA).hexdigest())
    assert uploads(datasets) == []
    assert list(datasets.folder.glob("*.npz")) == []
    assert store.list_datasets().items == ()


def test_a_database_that_is_away_loses_no_upload(datasets, store, monkeypatch):
    def away(*arguments, **options):
        raise OperationalError("", {}, Exception())

    upload_id = send(datasets)
    with monkeypatch.context() as patch:
        patch.setattr(store, "add_dataset", away)
        with pytest.raises(OperationalError):
            datasets.finish(upload_id, summary)
    assert datasets.get_upload(upload_id).offset == len(DATA)
    assert list(datasets.folder.glob("*.npz")) == []
    dataset, new = datasets.finish(upload_id, summary)
    assert new
    assert datasets.path(dataset.id).exists()


def test_a_data_set_is_deleted_with_its_bytes(datasets):
    dataset, _ = datasets.finish(send(datasets), summary)
    datasets.path(dataset.id).unlink()
    with pytest.raises(DatasetNotFound):
        datasets.path(dataset.id)
    datasets.delete(dataset.id)
    with pytest.raises(DatasetNotFound):
        datasets.delete(dataset.id)
    dataset, new = datasets.finish(send(datasets), summary)
    assert new
    path = datasets.path(dataset.id)
    datasets.delete(dataset.id)
    assert not path.exists()


def test_names_and_kinds_are_checked(datasets):
    for name in ("", "x" * 256, "a\nb", "a\0", "\ud800"):
        with pytest.raises(InvalidName):
            datasets.begin(name, "npz")
    for kind in ("pickle", "../x", ""):
        with pytest.raises(ValueError, match="npz, safetensors"):
            datasets.begin("digits", kind)
    dataset, _ = datasets.finish(send(datasets, name="../Größe 😀", kind="safetensors"), summary)
    assert (dataset.name, datasets.path(dataset.id).suffix) == ("../Größe 😀", ".safetensors")


def test_no_upload_id_leaves_the_folder(datasets):
    datasets.begin("digits", "npz")
    for upload_id in ("", "..", "../uploads", "a" * 16, "A" * 16, f"{'a' * 16}/..", "a\0"):
        for act in (
            datasets.get_upload,
            datasets.abandon,
            lambda upload_id: datasets.append(upload_id, 0, b""),
            lambda upload_id: datasets.finish(upload_id, summary),
        ):
            with pytest.raises(UploadNotFound):
                act(upload_id)
    assert len(uploads(datasets)) == 1


def test_uploads_without_changes_are_purged(datasets):
    assert datasets.purge(0) == 0
    old, young = send(datasets), send(datasets)
    place = datasets.folder / "uploads" / old
    for path in (*place.iterdir(), place):
        os.utime(path, (time.time() - 7200,) * 2)
    assert datasets.purge(3600) == 1
    with pytest.raises(UploadNotFound):
        datasets.get_upload(old)
    datasets.abandon(young)
    assert uploads(datasets) == []


def test_an_upload_that_was_taken_away_meanwhile_is_gone(datasets):
    upload = datasets.begin("digits", "npz")
    (datasets.folder / "uploads" / upload.id / "data.npz").rename(datasets.folder / "elsewhere")
    with pytest.raises(UploadNotFound):
        datasets.append(upload.id, 0, b"x")


def test_of_two_that_finish_at_once_one_does(datasets):
    upload_id = send(datasets)
    results = []

    def finish():
        try:
            results.append(datasets.finish(upload_id, summary)[1])
        except UploadNotFound:
            results.append("gone")

    threads = [threading.Thread(target=finish) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, results)) == ["True", "gone", "gone", "gone"]


def test_appends_wait_for_each_other(datasets):
    upload = datasets.begin("digits", "npz")
    begun, refused = threading.Event(), []

    def slowly():
        yield DATA[:50]
        begun.set()
        time.sleep(0.3)
        yield DATA[50:80]

    def again():
        begun.wait()
        try:
            datasets.append(upload.id, 0, DATA)
        except OffsetMismatch as error:
            refused.append(error.expected)

    other = threading.Thread(target=again)
    other.start()
    assert datasets.append(upload.id, 0, slowly()).offset == 80
    other.join()
    assert refused == [80]
    assert (datasets.folder / "uploads" / upload.id / "data.npz").read_bytes() == DATA[:80]
