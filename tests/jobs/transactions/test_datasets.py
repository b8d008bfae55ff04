import pytest

from collegium.jobs.errors import DatasetNotFound, InvalidCursor, NotStorable

ABOUT = {"bytes": 2**40, "kind": "npz", "summary": {"classes": 10, "shape": [28, 28]}}


def test_a_data_set_is_recorded_once(store):
    first, new = store.add_dataset("ab" * 32, name="digits", **ABOUT)
    assert new
    assert (first.id, first.name, first.bytes, first.kind) == ("ab" * 32, "digits", 2**40, "npz")
    assert first.summary == ABOUT["summary"]
    assert store.add_dataset("ab" * 32, name="other", **ABOUT) == (first, False)
    assert store.get_dataset(first.id) == first
    store.delete_dataset(first.id)
    with pytest.raises(DatasetNotFound) as caught:
        store.get_dataset(first.id)
    assert caught.value.dataset_id == first.id
    with pytest.raises(DatasetNotFound):
        store.delete_dataset(first.id)


def test_a_summary_is_json(store):
    with pytest.raises(NotStorable):
        store.add_dataset("ab", name="n", bytes=1, kind="npz", summary={"mean": float("nan")})
    assert store.list_datasets().items == ()


def test_data_sets_come_newest_first_page_by_page(store):
    ids = [store.add_dataset(str(n), name="n", **ABOUT)[0].id for n in range(5)][::-1]
    page = store.list_datasets(limit=3)
    assert [item.id for item in page.items] == ids[:3]
    store.add_dataset("later", name="n", **ABOUT)
    page = store.list_datasets(limit=3, cursor=page.next_cursor)
    assert [item.id for item in page.items] == ids[3:]
    assert page.next_cursor is None
    with pytest.raises(InvalidCursor):
        store.list_datasets(cursor="?")
