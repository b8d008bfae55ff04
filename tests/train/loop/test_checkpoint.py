import random

import pytest
import torch

from collegium.train.loop.checkpoint import Checkpoints


class Evil:
    def __reduce__(self):
        return print, ("never",)


def test_state_comes_back_as_it_was(tmp_path):
    checkpoints = Checkpoints(tmp_path / "new" / "folder", "a")
    state = {"step": 3, "weights": {"w": torch.arange(3.0)}, "history": [{"loss": 0.5, "best": None}]}
    checkpoints.save("training", state)
    found = checkpoints.load("training")
    assert torch.equal(found["weights"]["w"], state["weights"]["w"])
    assert (found["step"], found["history"]) == (3, state["history"])
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["training.checkpoint"]


def test_a_crash_while_writing_leaves_the_one_before(tmp_path):
    checkpoints = Checkpoints(tmp_path, "a")
    checkpoints.save("training", {"step": 1})
    (tmp_path / "training.partial").write_bytes(b"half of a checkp")
    assert checkpoints.load("training") == {"step": 1}
    checkpoints.save("training", {"step": 2})
    assert checkpoints.load("training") == {"step": 2}


@pytest.mark.parametrize("damage", [lambda whole: b"", lambda whole: whole[: len(whole) // 2], lambda whole: b"x" * 99])
def test_a_damaged_checkpoint_is_none_and_the_log_says_so(tmp_path, caplog, damage):
    checkpoints = Checkpoints(tmp_path, "a")
    checkpoints.save("training", {"weights": torch.arange(3000.0)})
    path = tmp_path / "training.checkpoint"
    path.write_bytes(damage(path.read_bytes()))
    assert checkpoints.load("training") is None
    assert f"{path} is damaged" in caplog.text


def test_a_bit_that_has_changed_anywhere_is_noticed(tmp_path):
    """What is loaded is what was saved, or nothing; never other numbers."""
    checkpoints, generator = Checkpoints(tmp_path, "a"), random.Random(0)
    checkpoints.save("training", {"weights": torch.arange(300.0), "step": 7})
    path = tmp_path / "training.checkpoint"
    whole, noticed = path.read_bytes(), 0
    for _ in range(400):
        changed, place = bytearray(whole), generator.randrange(len(whole))
        changed[place] ^= 1 << generator.randrange(8)
        path.write_bytes(changed)
        found = checkpoints.load("training")
        noticed += found is None
        assert found is None or (found["step"] == 7 and torch.equal(found["weights"], torch.arange(300.0)))
    assert noticed > 100  # the others are in padding, dates and the like


def test_another_trainings_checkpoint_is_none(tmp_path):
    Checkpoints(tmp_path, "a").save("training", {"step": 1})
    assert Checkpoints(tmp_path, "b").load("training") is None
    assert Checkpoints(tmp_path, "a").load("other") is None


def test_without_a_folder_nothing_is_kept():
    checkpoints = Checkpoints(None, "a")
    checkpoints.save("training", {"step": 1})
    assert not checkpoints.kept
    assert checkpoints.load("training") is None


def test_reading_runs_nothing(tmp_path):
    torch.save({"fingerprint": "a", "state": Evil()}, tmp_path / "training.checkpoint")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        Checkpoints(tmp_path, "a").load("training")
