import csv
import io
import json

import pytest

from collegium.search.errors import InvalidSpec
from collegium.train.result import StudyResult
from collegium.train.run import run_study
from collegium.train.spec.study import StudySpec
from collegium.train.study.pool import Pool, PoolOptions, train_one
from collegium.train.study.study import mean_and_error, run
from collegium.train.study.table import markdown

MLP = {"family": "mlp", "inputs": 64, "hidden": [16], "outputs": 10}


def study(**fields):
    architectures = [
        {"name": "wide", "architecture": {"baseline": MLP}},
        {"name": "narrow", "architecture": {"baseline": MLP, "width": 4, "multiplicity": 1}},
    ]
    recipes = [{"name": "Adam", "recipe": {"epochs": 2, "batch_size": 128}}]
    return StudySpec.model_validate(
        {"architectures": architectures, "recipes": recipes, "data": "digits", "seeds": 3, **fields}
    )


class Invented:
    """Returns trainings with made-up accuracies: best at a rate of 0.01, and diverging at 1."""

    def __init__(self, failing=()):
        self.children = []
        self.failing = failing

    def __call__(self, children, progress=None):
        self.children += children
        if progress is not None:
            progress(len(children), len(children))
        return [self._outcome(child) for child in children]

    def _outcome(self, child):
        spec = child["spec"]
        rate, seed = spec["recipe"].get("learning_rate", 0.01), spec["seed"]
        outcome = {"key": child["key"], "id": f"id-{child['key']}", "result": None, "failure": None}
        if rate == 1 or child["key"] in self.failing:
            return {**outcome, "status": "failed", "failure": {"kind": "user_error", "message": "the loss is nan"}}
        accuracy = 0.9 - abs(rate - 0.01) + 0.01 * (seed % 3)
        splits = {"train": 1.0, "validation": accuracy, "test": accuracy}
        result = {
            "accuracy": splits,
            "loss": {name: 1 - value for name, value in splits.items()},
            "parameters": 1184,
            "multiplicity": 1,
            "widths": [16],
            "seconds": 0.5,
        }
        return {**outcome, "status": "succeeded", "result": result}


@pytest.mark.parametrize(("own", "held_out"), [(0.25, 0.25), (0.0, 0.2)])
def test_methods_that_need_validation_keep_that_of_the_sweep(own, held_out):
    """The sweep holds out what the data say, or else what it says itself; retrained, a soup holds out as much."""
    study = StudySpec(
        architectures=[{"name": "mlp", "architecture": {"baseline": {"preset": "mlp-digits-6x100"}}}],
        methods=("vanilla", "soup"),
        data={"name": "digits", "validation": own},
        seeds=1,
        sweep={"learning_rate": [0.1], "validation": 0.2},
    )
    found = {}
    for method in study.methods:
        parts = (study.architectures[0], method, study.recipes[0])
        found[method.label] = [study.training(*parts, validation=v).data.validation for v in (held_out, 0.0)]
    assert found == {"vanilla": [held_out, 0.0], "soup": [held_out, held_out]}


def test_the_best_point_on_validation_is_run_with_every_seed():
    trainer = Invented()
    rates = [0.1, 0.01, 0.001, 1.0]
    result = StudyResult.model_validate(run(study(sweep={"learning_rate": rates, "seeds": 2}), fan_out=trainer))
    assert [cell.chosen for cell in result.cells] == [{"learning_rate": 0.01}] * 2
    assert result.trainings == 2 * (8 + 3)
    assert result.failed == 2 * 2
    sweep = [child["spec"] for child in trainer.children if child["key"].startswith("sweep")]
    final = [child["spec"] for child in trainer.children if child["key"].startswith("seed")]
    assert all(spec["data"]["validation"] == 0.1 for spec in sweep)
    assert all(spec["data"]["validation"] == 0 and spec["recipe"]["learning_rate"] == 0.01 for spec in final)
    assert {spec["seed"] for spec in sweep}.isdisjoint({spec["seed"] for spec in final})


def test_a_cell_reports_mean_and_standard_error():
    result = StudyResult.model_validate(run(study(), fan_out=Invented()))
    cell = result.cells[0]
    assert cell.test_accuracy == pytest.approx(0.91)
    assert cell.test_accuracy_error == pytest.approx(0.01 / 3**0.5)
    assert mean_and_error([0.5]) == (0.5, None)
    assert mean_and_error([]) == (None, None)


def test_failed_members_do_not_lose_the_others(tmp_path):
    result = StudyResult.model_validate(
        run(study(), fan_out=Invented(failing={"seed:0:1", "seed:1:0", "seed:1:1", "seed:1:2"}), artifact_dir=tmp_path)
    )
    assert [cell.succeeded for cell in result.cells] == [2, 0]
    assert result.cells[0].test_accuracy is not None
    assert result.cells[1].test_accuracy is None
    assert [note.kind for note in result.notes] == ["runs_lost", "runs_lost"]
    assert "the loss is nan" in markdown(result)


def test_a_cell_whose_sweep_failed_everywhere_is_left_out():
    result = StudyResult.model_validate(run(study(sweep={"learning_rate": [1.0]}), fan_out=Invented()))
    assert [note.kind for note in result.notes] == ["sweep_failed", "sweep_failed"]
    assert all(cell.runs == () and cell.chosen == {} for cell in result.cells)


def test_points_of_a_sweep_that_failed_are_named():
    sweep = {"learning_rate": [1.0, 0.1, 0.01], "weight_decay": [0.0, 0.5]}
    result = StudyResult.model_validate(run(study(sweep=sweep), fan_out=Invented()))
    assert [note.kind for note in result.notes] == ["points_lost", "points_lost"]
    message = result.notes[0].message
    assert message.startswith("wide / vanilla / Adam: 2 of 6 points of the sweep failed, (learning_rate 1, ")
    assert message.endswith("the loss is nan")
    assert result.cells[0].chosen["learning_rate"] == 0.01


def test_a_study_of_this_machine_is_refused_before_anything_is_trained():
    fields = study(methods=["soup"], recipes=[{"name": "a", "recipe": {"epochs": 10, "warmup_epochs": 1.0}}])
    swa = {"method": "swa", "expansion": {"start": 0.25}}
    document = {**fields.model_dump(exclude_none=True), "methods": [swa], "sweep": {"epochs": [2, 6]}}
    with pytest.raises(InvalidSpec) as raised:
        run_study(document)
    assert raised.value.path == ("sweep", "epochs")


def test_the_table_is_left_in_every_form(tmp_path):
    fractions, events = [], []
    result = run(
        study(title="Two widths"),
        fan_out=Invented(),
        report=lambda fraction, message: fractions.append(fraction),
        event=lambda kind, row: events.append(row["architecture"]),
        artifact_dir=tmp_path,
    )
    assert {item["name"] for item in result["artifacts"]} == {"table.json", "table.md", "table.csv", "plot.svg"}
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert [row["architecture"] for row in rows] == ["wide", "narrow"]
    assert float(rows[0]["test_accuracy"]) == pytest.approx(0.91)
    assert "| wide | vanilla | Adam | 1 × (16) | 1184 |" in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "table.json").read_text())["title"] == "Two widths"
    assert (tmp_path / "plot.svg").read_bytes().startswith(b"<?xml")
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    assert events == ["wide", "narrow"]


def test_the_last_thing_said_is_that_all_trainings_ended():
    """On the way not every training is reported: several end between two reports."""

    class Silent(Invented):
        def __call__(self, children, progress=None):
            return super().__call__(children, progress and (lambda done, total: progress(done - 1, total)))

    said = []
    run(study(), fan_out=Silent(), report=lambda fraction, message: said.append((fraction, message)))
    assert said == [(0, "seeds: 6 trainings"), (5 / 6, "seeds: 5 of 6 trainings"), (1, "6 of 6 trainings")]


@pytest.mark.slow
def test_a_study_trains_for_real_in_a_pool():
    with Pool(1, PoolOptions()) as pool:
        result = StudyResult.model_validate(run(study(seeds=2), fan_out=pool))
    assert [cell.succeeded for cell in result.cells] == [2, 2]
    assert result.cells[0].parameters == 64 * 16 + 16 * 10


def test_a_training_that_fails_here_says_why():
    spec = study().training(study().architectures[0], study().methods[0], study().recipes[0])
    child = {"key": "k", "kind": "training", "spec": spec.model_dump(mode="json", exclude_none=True)}
    child["spec"]["data"]["name"] = "unknown"
    outcome = train_one(child, PoolOptions())
    assert outcome["status"] == "failed"
    assert outcome["failure"]["kind"] == "user_error"
    assert "unknown" in outcome["failure"]["message"]
