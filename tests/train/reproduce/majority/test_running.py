"""Several trainings at a time: each is kept as it ends, whatever becomes of the others."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from collegium.train.reproduce.majority import running
from collegium.train.reproduce.majority.plan import next_trainings, units
from collegium.train.reproduce.majority.records import Records

PLANNED = units(["A1", "Adam", "1000", "20%", "vanilla"])


def test_trainings_beside_one_that_fails_are_kept(monkeypatch, result, tmp_path):
    """They end after the failure, and nothing is begun after it."""
    records = Records(tmp_path, "records.jsonl")
    wanted = [training.key for training in next_trainings(PLANNED, records, [], 3)]
    assert len(set(wanted)) == 3
    failed, begun = threading.Event(), []

    def run(training, _):
        begun.append(training.key)
        if training.key == wanted[1]:
            failed.set()
            raise OSError("no space left")
        failed.wait(10)
        return result(training)

    monkeypatch.setattr(running, "run", run)
    monkeypatch.setattr(running, "_executor", ThreadPoolExecutor)
    told = []
    with pytest.raises(OSError, match="no space left"):
        running.run_all(PLANNED, records, tmp_path, processes=3, seconds=60, told=lambda one, row: told.append(one.key))
    records.close()
    assert sorted(begun) == sorted(wanted)
    assert sorted(told) == sorted({wanted[0], wanted[2]})
    assert all(key in Records(tmp_path) for key in told)
