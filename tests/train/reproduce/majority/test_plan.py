"""What is wanted follows from what is recorded, in whatever order it was."""

import pytest

from collegium.train.limits import check_training_cost
from collegium.train.reproduce.majority.cells import ARCHITECTURES, NOISE, OPTIMIZERS, SIZES, Cell, all_cells
from collegium.train.reproduce.majority.entrants import ENTRANTS, LONG, REFERENCE
from collegium.train.reproduce.majority.outlook import outlook
from collegium.train.reproduce.majority.plan import TUNING_SEED, Unit, next_trainings, units
from collegium.train.reproduce.majority.records import Records
from collegium.train.reproduce.majority.training import CURVE, Training

CELL = Cell("A1", "Adam", 1000, 0.2)


def test_every_method_in_every_setting_is_planned_once_and_the_cheap_and_telling_ones_come_first():
    planned = units()
    assert len(planned) == len(set(planned)) == len(ENTRANTS) * 5 * 2 * 4 * 4
    assert len(all_cells()) == len(ARCHITECTURES) * len(OPTIMIZERS) * len(SIZES) * len(NOISE)
    first = planned[0]
    assert (first.cell, first.name) == (Cell("A1", "Adam", 1000, 0.0), REFERENCE)
    places = {(unit.cell, unit.name): place for place, unit in enumerate(planned)}
    assert all(places[unit.cell, REFERENCE] <= place for place, unit in enumerate(planned))


def test_shards_are_whole_settings_and_together_everything():
    shards = [units(shard=(part, 3)) for part in (1, 2, 3)]
    assert sorted(unit.cell.name + unit.name for shard in shards for unit in shard) == sorted(
        unit.cell.name + unit.name for unit in units()
    )
    cells = [{unit.cell for unit in shard} for shard in shards]
    assert not cells[0] & cells[1] | cells[0] & cells[2] | cells[1] & cells[2]


def test_words_choose_settings_and_methods_and_plain_training_stays():
    chosen = units(["A1", "A2", "SGD", "1000", "20%", "ensemble"])
    assert {unit.cell for unit in chosen} == {Cell(name, "SGD", 1000, 0.2) for name in ("A1", "A2")}
    assert {unit.name for unit in chosen} == {REFERENCE, "ensemble"}
    with pytest.raises(ValueError, match=r"no setting is called 'A9'; there are, .* 'majority, independent', "):
        units(["A9"])


@pytest.mark.parametrize("best", [(2e-3, 16), (1e-3, 64), (2.5e-4, 512), (1.6e-2, 4)])
def test_the_choice_is_the_best_point_and_does_not_depend_on_the_order(tmp_path, best, complete):
    planned = [Unit(CELL, REFERENCE, seeds=3)]
    found = []
    for processes in (1, 4):
        records = complete(planned, tmp_path / str(processes), processes=processes, seed=processes, best=best)
        choice = planned[0].chosen(records)
        assert (choice.rate, choice.epochs, choice.at_bounds) == (*best, ())
        found.append({row["seed"] for row in planned[0].finished(records)})
        assert planned[0].complete(records)
    assert found == [{0, 1, 2}] * 2


@pytest.mark.parametrize("method", [REFERENCE, "majority, independent"])
def test_a_longer_training_that_diverged_or_differs_counts_alike_in_every_order(tmp_path, result, method):
    """A short training has an accuracy, a longer one of the same rate diverged, or has another one there."""
    unit = Unit(CELL, method, seeds=1, tuning_seeds=1)
    first, longer = (Training(CELL, method, 1e-3, epochs, TUNING_SEED, tuning=True) for epochs in (64, 128))
    found = []
    for order in (1, -1):
        records = Records(tmp_path / str(order), "a.jsonl")
        rising = result(first, best=(1e-3, 512))
        beside = [Training(CELL, method, rate, 64, TUNING_SEED, tuning=True) for rate in (5e-4, 2e-3)]
        rows = [rising, longer.row() | {"failure": "diverged in epoch 100"}]
        rows += [result(training, best=(1e-3, 512)) for training in beside]
        for row in rows[::order]:
            records.append(row)
        while (wanted := unit.wanted(records)) and wanted[0].tuning:
            for training in wanted:
                records.append(result(training, best=(1e-3, 512)))
        assert unit.scores(records)[0, 5] == rising["validation"]["64"][0]
        found.append((unit.chosen(records), unit.scores(records)))
    assert found[0] == found[1]


def test_a_choice_at_a_bound_says_so(tmp_path, complete):
    planned = [Unit(CELL, REFERENCE, seeds=1)]
    choice = planned[0].chosen(complete(planned, tmp_path, best=(1e-9, 16)))
    assert choice.at_bounds == ("lowest rate",)


def test_seeds_of_the_choice_are_none_of_those_that_are_compared(tmp_path, complete):
    planned = units(["A1", "Adam", "1000", "20%"])
    records = complete(planned, tmp_path)
    tuning = {row["seed"] for row in records if row["tuning"]}
    compared = {row["seed"] for row in records if not row["tuning"]}
    assert tuning == {TUNING_SEED, TUNING_SEED + 1}
    assert compared == set(range(10))
    assert all(unit.complete(records) for unit in planned)
    far = outlook(planned, records)
    assert (far.units_done, far.units, far.trainings_done, far.seconds_left) == (
        len(ENTRANTS),
        len(ENTRANTS),
        len(records),
        0,
    )
    assert far.trainings == len(records)


def test_long_training_is_three_times_what_was_chosen_and_has_a_rate_of_its_own(tmp_path, complete):
    planned = units(["A1", "Adam", "1000", "20%", LONG])
    records = complete(planned, tmp_path)
    long = next(unit for unit in planned if unit.name == LONG)
    assert long.chosen(records).epochs == 3 * 16
    assert {row["epochs"] for row in records.of(CELL, LONG)} == {48}
    assert len({row["rate"] for row in records.of(CELL, LONG) if row["tuning"]}) >= 3


def test_methods_without_a_curve_wait_for_plain_training_and_try_each_number_of_epochs(tmp_path, complete):
    ensemble = Unit(CELL, "ensemble", seeds=2)
    assert ensemble.wanted(Records(tmp_path / "none")) == []
    planned = [Unit(CELL, REFERENCE, seeds=2), ensemble]
    records = complete(planned, tmp_path, processes=3)
    assert ensemble.chosen(records).epochs == 16
    tried = {row["epochs"] for row in records.of(CELL, "ensemble") if row["tuning"]}
    assert tried == {8, 16, 32}


def test_where_norms_are_estimated_anew_a_training_counts_for_its_end_alone():
    cell = Cell("CNN", "Adam", 1000, 0.0)
    assert ENTRANTS["majority, independent"].reads_curve(CELL)
    assert not ENTRANTS["majority, independent"].reads_curve(cell)
    assert ENTRANTS[REFERENCE].reads_curve(cell)


def test_a_training_evaluates_at_every_number_of_epochs_below_it_that_matters():
    lengths = CELL.lengths
    for step in range(lengths.most + 1):
        training = Training(CELL, REFERENCE, 1e-3, lengths.epochs(step), 0, tuning=True)
        assert training.epochs / training.evaluate_every <= CURVE
        near = [lengths.epochs(below) for below in range(max(0, step - 3), step + 1)]
        assert all(epochs % training.evaluate_every == 0 for epochs in near)


@pytest.mark.parametrize("name", ENTRANTS)
def test_methods_of_one_seed_share_images_wrong_labels_and_initialization(name):
    for architecture in ARCHITECTURES:
        cell = Cell(architecture, "SGD", 5000, 0.4)
        for tuning in (True, False):
            spec = Training(cell, name, 0.1, 4, 7, tuning=tuning).spec()
            plain = Training(cell, REFERENCE, 0.2, 8, 7, tuning=tuning).spec()
            check_training_cost(spec)
            assert (spec.data, spec.seed, spec.architecture) == (plain.data, plain.seed, plain.architecture)
            other = Training(cell, name, 0.1, 4, 8, tuning=tuning).spec()
            assert other.data.seed != spec.data.seed
            assert other.seed != spec.seed


def test_the_outlook_shrinks_as_trainings_end(tmp_path, result):
    planned = units(["A1", "Adam", "1000", "20%", "ensemble"])
    before = outlook(planned, Records(tmp_path))
    records = Records(tmp_path, "a.jsonl")
    for training in next_trainings(planned, records, (), 4):
        records.append(result(training))
    after = outlook(planned, records)
    assert before.trainings_done == 0
    assert after.trainings_done == 4
    assert before.seconds_left > 0
    assert outlook(planned, records, processes=2).seconds_left == pytest.approx(after.seconds_left / 2)
    assert f"4 of about {after.trainings}" in str(after)
