"""Slots share out a machine."""

import subprocess

import pytest
import torch

from collegium.jobs.subprocesses import environment, python
from collegium.worker.process import slots
from collegium.worker.process.slots import Slot, SlotPool, count_cores, find_gpus, plan_slots
from collegium.worker.settings import WorkerSettings


def settings(**values):
    return WorkerSettings(home="/nowhere", **values)


@pytest.mark.parametrize(
    ("cores", "searches", "threads"), [(1, 2, 1), (2, 2, 2), (4, 2, 2), (8, 4, 2), (16, 8, 2), (64, 8, 8)]
)
def test_a_machine_without_gpu_shares_its_cores(cores, searches, threads):
    slots = plan_slots(settings(), gpus=[], cores=cores)
    assert [(s.queue, s.device, s.threads) for s in slots] == [
        *[("search", "cpu", threads)] * searches,
        ("train", "cpu", cores),
    ]
    assert all(not slot.environment for slot in slots)


def test_each_gpu_is_a_slot_of_either_queue():
    slots = plan_slots(settings(), gpus=["0", "3"], cores=16)
    assert [(s.queue, s.device, s.threads) for s in slots] == [("search", "cuda", 8)] * 2 + [("train", "cuda", 8)] * 2
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "3", "0", "3"]
    assert {slot.environment["CUDA_DEVICE_ORDER"] for slot in slots} == {"PCI_BUS_ID"}


def test_a_training_may_have_several_gpus():
    slots = [s for s in plan_slots(settings(train_gpus=2), gpus=["0", "1", "2", "3"], cores=8) if s.queue == "train"]
    assert [(slot.device, slot.environment["CUDA_VISIBLE_DEVICES"]) for slot in slots] == [
        ("cuda:0,1", "0,1"),
        ("cuda:0,1", "2,3"),
    ]


def test_counts_may_be_given():
    slots = plan_slots(settings(search_slots=3, train_slots=2), gpus=[], cores=6)
    assert [slot.name for slot in slots] == ["search-0", "search-1", "search-2", "train-0", "train-1"]
    assert [slot.threads for slot in slots] == [2, 2, 2, 3, 3]


@pytest.mark.parametrize(("devices", "gpus"), [("cpu", []), ("0", ["0"]), ("1,2", ["1", "2"])])
def test_devices_may_be_named(devices, gpus):
    assert find_gpus(devices) == gpus


@pytest.fixture
def torch_with_cuda(monkeypatch):
    monkeypatch.setattr(slots, "torch_supports_gpus", lambda: True)


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """A driver's program that lists two GPUs, the only program there is."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 0\necho 1\n")
    program.chmod(0o755)
    return program


def test_visible_devices_are_respected(monkeypatch, torch_with_cuda):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa, 2")
    assert find_gpus("auto") == ["GPU-aa", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_gpus("auto") == []


def test_gpus_are_asked_of_the_driver(driver, torch_with_cuda):
    assert find_gpus("auto") == ["0", "1"]
    driver.unlink()
    assert find_gpus("auto") == []


def test_gpus_that_torch_cannot_use_are_left_out(driver, monkeypatch, caplog):
    monkeypatch.setattr(slots, "torch_supports_gpus", lambda: False)
    assert find_gpus("auto") == []
    assert "GPUs 0,1 are not used" in caplog.text
    assert find_gpus("1") == ["1"]


def test_what_torch_is_built_for_is_read_without_loading_it():
    code = (
        "import sys\nfrom collegium.worker.process.slots import torch_supports_gpus\n"
        "print(torch_supports_gpus(), 'torch' in sys.modules)"
    )
    answer = subprocess.run(python("-c", code), env=environment(), capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [str(bool(torch.version.cuda or torch.version.hip)), "False"]


def test_cores_are_counted():
    assert count_cores() >= 1


def pool(searches, trainings, limit=None):
    slots = [Slot(f"s{i}", "search", "cpu", 1) for i in range(searches)]
    return SlotPool(slots + [Slot(f"t{i}", "train", "cpu", 1) for i in range(trainings)], limit)


def test_a_slot_is_held_by_one():
    slots = pool(1, 1)
    held = slots.try_acquire("search")
    assert held is not None
    assert slots.try_acquire("search") is None
    assert not slots.has_room("search")
    slots.release(held)
    assert slots.has_room("search")
    assert slots.try_acquire("search") == held


def test_the_limit_holds_over_both_queues():
    slots = pool(2, 2, limit=2)
    assert slots.limit == 2
    assert slots.try_acquire("search")
    assert slots.try_acquire("search")
    assert slots.try_acquire("train") is None


def test_trainings_leave_room_for_a_search():
    slots = pool(2, 2, limit=2)
    assert slots.try_acquire("train")
    assert slots.try_acquire("train") is None
    assert slots.try_acquire("search")


def test_a_worker_of_trainings_alone_fills_up():
    slots = pool(0, 2)
    assert slots.queues == ("train",)
    assert slots.try_acquire("train")
    assert slots.try_acquire("train")


def test_a_single_place_takes_either():
    assert pool(1, 1, limit=1).try_acquire("train")
