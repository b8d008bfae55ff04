"""Resumed equals whole, bit for bit: every pair of a method, an optimizer, a schedule and a place where it is saved."""

import itertools
from contextlib import nullcontext

import pytest
import torch
from safetensors.torch import load_file

from collegium.train.engine import run
from collegium.train.loop.checkpoint import Checkpoints
from collegium.train.loop.loop import Pace
from collegium.train.majority import fused
from collegium.train.majority.guards.gradient import MixedLeaf
from collegium.train.methods import METHODS

EVERY_STEP = Pace(report=0, checkpoint=0)
OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "learning_rate": 0.05},
    "plain sgd": {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.0},
    "adam": {"optimizer": "adam", "learning_rate": 0.02},
    "adamw": {"optimizer": "adamw", "learning_rate": 0.02, "weight_decay": 0.1},
}
SCHEDULES = {
    "constant": {},
    "step": {"schedule": "step", "step_epochs": 1, "factor": 0.3},
    "multistep": {"schedule": "multistep", "milestones": [1, 2], "factor": 0.3},
    "cosine": {"schedule": "cosine"},
    "warm-up": {"schedule": "cosine", "warmup_epochs": 2.0},
}
TRAINING = [name for name in METHODS.names if METHODS[name].trains]
PLACES = [("event", 1), ("event", 4), ("report", 0), ("report", 3)]  # which callback stops, at which of its calls
RANDOM = {
    "dropout": {"dropout": 0.3},
    "mixup": {"mixup": 0.4},
    "randaugment": {"augment": ["randaugment"]},
    "cutmix": {"mixup": 0.4, "cutmix": 1.0, "label_smoothing": 0.1},
}
FAST = ("cosine", "step")  # with majority kernels


class Stop(BaseException):
    """What a worker raises to stop a job."""


class StopAt:
    """Raises at call number ``call``, counted from 0, and never again."""

    def __init__(self, call):
        self.left = call

    def __call__(self, *_):
        self.left -= 1
        if self.left == -1:
            raise Stop


def combined():
    """Every method with every schedule, and optimizers in turn."""
    optimizers = list(OPTIMIZERS)
    for (row, method), (column, schedule) in itertools.product(enumerate(TRAINING), enumerate(SCHEDULES)):
        yield method, optimizers[(row + column) % len(optimizers)], schedule


def cases():
    for case in combined():
        fast = case[0] == "majority" and case[2] in FAST
        yield pytest.param(*case, PLACES[1:2], marks=() if fast else pytest.mark.slow, id="-".join(case))
        yield pytest.param(*case, [*PLACES[:1], *PLACES[2:]], marks=pytest.mark.slow, id="-".join((*case, "others")))


def test_every_pair_is_combined():
    factors = (TRAINING, OPTIMIZERS, SCHEDULES)
    for one, two in itertools.combinations(range(len(factors)), 2):
        found = {(case[one], case[two]) for case in combined()}
        assert found == set(itertools.product(factors[one], factors[two]))


@pytest.mark.parametrize(("method", "optimizer", "schedule", "places"), list(cases()))
def test_a_training_stopped_after_any_save_ends_in_the_same_weights(
    digits_spec, tmp_path, method, optimizer, schedule, places
):
    """Saves: in the middle of an epoch, as its metrics are recorded, at its end, at a report, and before the first."""
    recipe = {"epochs": 3, "batch_size": 256, "metric_steps": 1, **OPTIMIZERS[optimizer], **SCHEDULES[schedule]}
    assert_resumed_equals_whole(digits_spec(recipe, method=method), tmp_path, places)


def assert_resumed_equals_whole(spec, tmp_path, places, stops=2):
    """Stopped and resumed once at each of ``places``, and ``stops`` times at the first."""
    run(spec, artifact_dir=tmp_path / "whole")
    whole = load_file(tmp_path / "whole" / "model.safetensors")
    for place, (who, call) in enumerate(places):
        kept = {"checkpoint_dir": tmp_path / f"kept-{place}", "pace": EVERY_STEP}
        for _ in range(1 if place else stops):
            with pytest.raises(Stop):
                run(spec, **{who: StopAt(call)}, **kept)
        run(spec, artifact_dir=tmp_path / f"resumed-{place}", **kept)
        resumed = load_file(tmp_path / f"resumed-{place}" / "model.safetensors")
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[name], resumed[name]) for name in whole), (who, call)


@pytest.mark.parametrize("places", [PLACES[1:2], PLACES[3:4]], ids=["event", "report"])
def test_no_row_is_lost_or_measured_twice_by_a_stop(digits_spec, tmp_path, monkeypatch, places):
    """Rows are recorded when they are settled, which they are before a checkpoint behind them is saved."""
    spec = digits_spec({"epochs": 3, "batch_size": 256, "metric_steps": 1})
    whole, sent, recorded = [], [], []
    run(spec, event=lambda kind, row: whole.append((row["scope"], row["step"], row["loss"])))

    def settle():
        recorded.extend(sent)
        sent.clear()

    def save(checkpoints, name, state, save=Checkpoints.save):
        assert not sent
        save(checkpoints, name, state)

    monkeypatch.setattr(Checkpoints, "save", save)
    kept = {"checkpoint_dir": tmp_path, "pace": EVERY_STEP, "settle": settle}
    for who, call in [*places, *places, (None, 0)]:
        stop = {name: StopAt(call if name == who else -1) for name in ("event", "report")}

        def record(kind, row, stop=stop):
            sent.append((row["scope"], row["step"], row["loss"]))
            stop["event"]()

        with pytest.raises(Stop) if who else nullcontext():
            run(spec, event=record, report=stop["report"], **kept)
        sent.clear()  # what was not settled is lost with the process
    assert recorded == whole


@pytest.mark.parametrize("method", ["vanilla", "ensemble"])
def test_the_time_of_a_training_is_that_of_all_its_attempts(digits_spec, tmp_path, monkeypatch, method):
    """By a clock that only reading it moves on, by a second."""
    clock = itertools.count()
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    options = {"expansion": 2} if method == "ensemble" else {}
    spec = digits_spec({"epochs": 3, "batch_size": 256, "metric_steps": 1}, method=method, **options)
    kept = {"checkpoint_dir": tmp_path, "pace": EVERY_STEP}
    with pytest.raises(Stop):
        run(spec, event=StopAt(9 if method == "ensemble" else 5), **kept)
    interrupted = float(next(clock))
    rows = []
    result = run(spec, event=lambda kind, row: rows.append(row), **kept)
    spent = float(next(clock)) - interrupted
    assert spent < result["seconds"] < spent + interrupted
    assert result["seconds"] > rows[-1]["seconds"]


@pytest.mark.parametrize("random", RANDOM)
@pytest.mark.parametrize(
    "method", [name if name == "sam" else pytest.param(name, marks=pytest.mark.slow) for name in TRAINING]
)
def test_a_resumed_training_draws_the_same_units_and_samples(digits_spec, tmp_path, method, random):
    spec = digits_spec(
        {"epochs": 2, "batch_size": 256, "accumulate": 2, "metric_steps": 1, **RANDOM[random]}, method=method
    )
    place = 1 + (TRAINING.index(method) + list(RANDOM).index(random)) % 3
    assert_resumed_equals_whole(spec, tmp_path, PLACES[place : place + 1], stops=1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # inductor's imports
def test_a_compiled_training_resumes_with_fused_updates(digits_spec, tmp_path, monkeypatch):
    """Graphs take the weights that updates have mixed: copies never have a gradient of their own."""
    updates, formed = [], []
    monkeypatch.setattr(fused, "take", lambda steps, take=fused.take: updates.append(take(steps)))
    monkeypatch.setattr(MixedLeaf, "expand_gradient", lambda leaf: formed.append(leaf.gradient))
    recipe = {"epochs": 2, "batch_size": 256, "compile": True, "metric_steps": 1}
    small = {"baseline": {"family": "mlp", "inputs": 64, "hidden": [16], "outputs": 10}}
    spec = digits_spec(recipe, method="majority", architecture=small)
    assert_resumed_equals_whole(spec, tmp_path, PLACES[1:2], stops=1)
    assert updates
    assert all(gradient is None for gradient in formed)
