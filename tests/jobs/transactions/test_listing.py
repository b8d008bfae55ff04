import base64
import json
import time
from itertools import chain, product

import pytest
from sqlalchemy import insert, select

from collegium.jobs.database.schema import jobs
from collegium.jobs.errors import InvalidCursor
from collegium.jobs.record import Child


def walk(store, limit, between=lambda: None, **filters):
    pages, cursor = [], None
    while True:
        page = store.list(limit=limit, cursor=cursor, **filters)
        pages.append([job.id for job in page.items])
        cursor = page.next_cursor
        if cursor is None:
            return pages
        between()


def test_jobs_come_newest_first_page_by_page(store, queued):
    ids = [queued().id for _ in range(7)][::-1]
    assert walk(store, 3) == [ids[:3], ids[3:6], ids[6:]]
    assert walk(store, 7) == [ids]
    assert walk(store, 1000) == [ids]


def test_no_jobs_make_one_empty_page(store):
    assert store.list() == store.list(kind="search", status="queued")
    assert store.list().items == ()
    assert store.list().next_cursor is None


def test_pages_stand_still_while_jobs_are_added(store, queued):
    ids = [queued().id for _ in range(6)][::-1]
    assert list(chain(*walk(store, 2, between=queued))) == ids


def test_jobs_of_one_moment_are_neither_lost_nor_repeated(store, queued):
    for _ in range(9):
        queued()
    with store.database.write() as connection:
        connection.execute(jobs.update().values(created_at=1))
    ids = list(chain(*walk(store, 2)))
    assert ids == sorted(ids, reverse=True)
    assert len(set(ids)) == 9


def test_filters_combine(store, running, queued):
    parent = running()
    store.fan_out(parent.id, 1, [Child(str(n), "shard", {}, "search") for n in range(3)])
    queued()
    trained, _ = store.create("training", {}, queue="train")
    count = lambda **filters: len(store.list(**filters).items)  # noqa: E731
    assert count() == 6
    assert count(kind="search") == 2
    assert count(kind="search", status="running") == 1
    assert count(status="queued") == 5
    assert count(parent_id=parent.id) == 3
    assert count(parent_id=parent.id, status="running") == 0
    assert count(top_level=True) == 3
    assert count(top_level=True, kind="shard") == 0
    assert store.list(kind="training").items == (trained,)


def test_results_can_be_left_out(store, running):
    job = store.succeed(running().id, 1, {"large": True})
    assert store.list().items == (job,)
    (light,) = store.list(results=False).items
    assert light.result is None
    assert light.status == "succeeded"


def cursor_of(value):
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def test_cursors_of_others_are_refused(store):
    foreign = ([], [1], ["1", "a"], [1, 2], {"a": 1, "b": 2}, 7, None, [True, "a"], [-1, "a"], [2**63, "a"])
    deep = base64.urlsafe_b64encode(b"[" * 9000).decode()
    for cursor in ("", "!", "ä", "AAAA", "x" * 1001, deep, *map(cursor_of, foreign)):
        with pytest.raises(InvalidCursor):
            store.list(cursor=cursor)


def test_a_page_has_a_reasonable_size(store):
    for limit in (0, -1, 1001):
        with pytest.raises(ValueError, match="between 1 and 1000"):
            store.list(limit=limit)


def test_lists_stay_fast_with_ten_thousand_jobs(store, queued):
    """Ninety-five of a hundred calls under 100 ms, for every combination of filters and on a late page."""
    queued()
    with store.database.read() as connection:
        template = dict(connection.execute(select(jobs)).mappings().one())
    states = ("queued", "running", "succeeded", "failed", "cancelled")
    rows = [
        template
        | {
            "id": f"job-{n:05}",
            "kind": ("search", "shard", "training")[n % 3],
            "status": states[n % 5],
            "created_at": n,
            "result": json.dumps({"curve": list(range(200))}),
        }
        for n in range(10_000)
    ]
    with store.database.write() as connection:
        connection.execute(insert(jobs), rows)
    late = cursor_of([5_000, "job"])
    times = []
    for kind, status, cursor, top_level in product(
        (None, "search", "study"), (None, "queued", "cancelling"), (None, late), (False, True)
    ):
        begun = time.perf_counter()
        page = store.list(kind=kind, status=status, cursor=cursor, top_level=top_level)
        times.append(time.perf_counter() - begun)
        assert len(page.items) == (0 if kind == "study" or status == "cancelling" else 50)
    assert sorted(times)[int(0.95 * len(times))] < 0.1
