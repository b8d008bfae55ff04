import threading
import time
from itertools import pairwise

import pytest

from collegium.jobs.errors import JobNotFound, NotStorable, Superseded
from collegium.jobs.record import EVENT_TYPES


def test_progress_is_a_row_and_an_event(store, running):
    job = running()
    seq = store.report(job.id, 1, 0.25, "sampling")
    after = store.get(job.id)
    assert (after.fraction, after.message, after.revision, after.last_seq) == (
        0.25,
        "sampling",
        job.revision + 1,
        seq,
    )
    event = store.events(job.id)[-1]
    assert (event.seq, event.type, event.terminal) == (seq, "progress", False)
    assert event.data == {"fraction": 0.25, "message": "sampling"}


def test_progress_stays_between_nothing_and_everything(store, running):
    job = running()
    for given, kept in [(-0.1, 0.0), (1.0000001, 1.0), (0, 0.0)]:
        store.report(job.id, 1, given, "")
        assert store.get(job.id).fraction == kept
    for fraction in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="fraction"):
            store.report(job.id, 1, fraction, "")


def test_characters_that_a_database_refuses_are_replaced(store, running):
    job = running()
    store.report(job.id, 1, 0.5, "a\0b \ud800 \U0001f600" + "x" * 3000)
    after = store.get(job.id)
    assert after.message.startswith("a\ufffdb \ufffd \U0001f600xxx")
    assert len(after.message) == 2000
    store.append_event(job.id, 1, "log", {"line": "a\0b \ud800 \U0001f600"})
    assert store.events(job.id)[-1].data == {"line": "a\0b \ufffd \U0001f600"}


def test_events_are_numbered_without_gaps_and_read_on(store, running):
    job = running()
    assert store.append_event(job.id, 1, "metric", {"loss": 1.5}) == 3
    assert store.append_events(job.id, 1, [("log", {"line": str(n)}) for n in range(10)]) == 13
    everything = store.events(job.id)
    assert [event.seq for event in everything] == list(range(1, 14))
    assert [event.data["line"] for event in everything[3:]] == [str(n) for n in range(10)]
    assert store.events(job.id, after=11) == everything[11:]
    assert store.events(job.id, after=2, limit=3) == everything[2:5]
    assert store.events(job.id, after=-5, limit=1) == everything[:1]
    assert store.events(job.id, after=13) == []
    assert store.events(job.id, after=10**30) == []
    assert store.events(job.id, types=["metric"]) == [everything[2]]
    assert [event.type for event in store.events(job.id, types=["state", "metric"])] == [
        "state",
        "state",
        "metric",
    ]
    assert all(first.at <= second.at for first, second in pairwise(everything))
    with pytest.raises(JobNotFound):
        store.events("nobody")


def test_an_attempt_writes_the_types_that_the_table_allows(store, running):
    job = running()
    assert {"metric", "log"} == {type.name for type in EVENT_TYPES.values() if type.by_attempt}
    for type in (*(EVENT_TYPES.keys() - {"metric", "log"}), "poem"):
        with pytest.raises(ValueError, match="metric and log"):
            store.append_event(job.id, 1, type, {"status": "succeeded"})
    with pytest.raises(ValueError, match="no events"):
        store.append_events(job.id, 1, [])
    with pytest.raises(NotStorable):
        store.append_events(job.id, 1, [("metric", {"loss": 1.0}), ("metric", {"loss": float("nan")})])
    assert len(store.events(job.id)) == 2


def test_nothing_follows_the_terminal_event(store, running):
    job = running()
    store.succeed(job.id, 1, {})
    with pytest.raises(Superseded):
        store.append_event(job.id, 1, "log", {})
    events = store.events(job.id)
    assert [event.terminal for event in events] == [False, False, True]


def test_a_follower_sees_every_event_once_and_the_end(store, running):
    """Several threads write, as several threads of a supervisor do; none of their events is overtaken."""
    job = running()

    def write(name):
        for n in range(15):
            store.append_event(job.id, 1, "log", {"by": name, "n": n})

    def write_and_end():
        writers = [threading.Thread(target=write, args=(name,)) for name in range(3)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        store.succeed(job.id, 1, {})

    whole = threading.Thread(target=write_and_end)
    whole.start()
    seen, deadline = [], time.monotonic() + 60
    while (not seen or not seen[-1].terminal) and time.monotonic() < deadline:
        seen += store.events(job.id, after=seen[-1].seq if seen else 0)
    whole.join()
    assert [event.seq for event in seen] == list(range(1, 2 + 45 + 2))
    assert seen[-1].terminal
    for name in range(3):
        assert [event.data["n"] for event in seen if event.data.get("by") == name] == list(range(15))
