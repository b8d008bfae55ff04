"""Tables say what was found, how far the study is, and where a choice lies at a bound."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from collegium.train.reproduce.majority.entrants import LONG, REFERENCE
from collegium.train.reproduce.majority.lines import lines
from collegium.train.reproduce.majority.plan import units
from collegium.train.reproduce.majority.plots import curves_figure
from collegium.train.reproduce.majority.records import Records
from collegium.train.reproduce.majority.report import markdown, write_report

ROOT = Path(__file__).parents[4]
WORDS = ["A1", "Adam", "1000", "20%", LONG, "ensemble"]


def gain(method, seed):
    """Seeds differ by more than methods do."""
    noise = random.Random(f"{method} {seed}").gauss(0, 0.001)
    return 0.02 * (seed % 3) + 0.004 * (method == "ensemble") + noise


def test_differences_are_paired_and_to_both_plain_trainings(complete, tmp_path):
    planned = units(WORDS)
    records = complete(planned, tmp_path, gain=gain)
    found = {line.unit.name: line for line in lines(planned, records)}
    assert set(found) == {REFERENCE, LONG, "ensemble"}
    accuracies = {name: [100 * line.rows[seed]["accuracy"][2] for seed in range(10)] for name, line in found.items()}
    for reference, difference in ((REFERENCE, found["ensemble"].to_plain), (LONG, found["ensemble"].to_long)):
        low, high = ttest_rel(accuracies["ensemble"], accuracies[reference]).confidence_interval(0.95)
        assert (difference.mean - difference.half, difference.mean + difference.half) == pytest.approx((low, high))
    assert found["ensemble"].to_plain.sign == 1
    assert found["ensemble"].error == pytest.approx(100 - sum(accuracies["ensemble"]) / 10)
    text = markdown(planned, records)
    plain, long = (f"{one.mean:+.2f}" for one in (found["ensemble"].to_plain, found["ensemble"].to_long))
    assert "3 of 3 methods × settings" in text
    assert f"| ensemble | 1 | {plain} | {plain} | 1 | 0 | {long} |" in text
    assert "bound" not in text


def test_the_interval_over_settings_is_that_of_their_means(complete, tmp_path):
    planned = units(["A1", "A2", "Adam", "1000", "0%", "20%", "ensemble"])
    records = complete(planned, tmp_path, gain=gain)
    means = [line.to_plain.mean for line in lines(planned, records) if line.unit.name == "ensemble"]
    assert len(means) == 4
    half = float(np.std(means, ddof=1)) / 2 * t.ppf(0.975, 3)
    assert f"| ensemble | 4 | {np.mean(means):+.2f} ± {half:.2f} |" in markdown(planned, records)


def test_a_choice_at_a_bound_is_marked_and_named(complete, tmp_path):
    planned = units(["A1", "Adam", "1000", "20%", REFERENCE])
    text = markdown(planned, complete(planned, tmp_path, best=(1e-9, 16)))
    assert "7.81e-06*" in text
    assert "A1 Adam 1000 20%, vanilla: lowest rate" in text


def test_what_has_not_been_trained_at_all_seeds_is_no_line(complete, result, tmp_path):
    planned = units(WORDS)
    records = complete(planned[:1], tmp_path / "some", gain=gain)
    assert [line.unit.name for line in lines(planned, records)] == [REFERENCE]
    nothing = Records(tmp_path / "none")
    assert lines(planned, nothing) == []
    assert "0 of 3 methods" in write_report(planned, nothing, tmp_path / "out")
    assert (tmp_path / "out" / "majority-sharpness.svg").exists()


@pytest.mark.parametrize("reference", [REFERENCE, LONG])
@pytest.mark.parametrize("seeds", [1, 9])
def test_nothing_is_compared_with_a_plain_training_that_is_under_way(complete, result, tmp_path, reference, seeds):
    """Means over the seeds that it happens to have are not those that the tables say they are."""
    planned = units(WORDS)
    whole, part = complete(planned, tmp_path / "whole", gain=gain), Records(tmp_path / "part", "a.jsonl")
    for row in whole:
        if row["method"] != reference or row["tuning"] or row["seed"] < seeds:
            part.append(row)
    found = {line.unit.name: line for line in lines(planned, part)}
    if reference == REFERENCE:
        assert found == {}
        return
    assert set(found) == {REFERENCE, "ensemble"}
    assert all(line.to_long.pairs == 0 for line in found.values())
    assert found["ensemble"].to_plain.pairs == 10
    text = markdown(planned, part)
    assert f"| {found['ensemble'].to_plain.mean:+.2f} | 1 | 0 | – |" in text


@pytest.mark.parametrize("method", ["ensemble", REFERENCE])
@pytest.mark.parametrize("count", [1, 7, 10])
def test_seeds_that_diverged_are_counted_beside_the_means_of_the_others(complete, tmp_path, method, count):
    planned = units(WORDS)
    whole, some = complete(planned, tmp_path / "whole", gain=gain), Records(tmp_path / "some", "a.jsonl")
    for row in whole:
        dead = row["method"] == method and not row["tuning"] and row["seed"] < count
        keys = ("architecture", "optimizer", "images", "noise", "method", "tuning", "rate", "epochs", "seed")
        some.append({key: row[key] for key in keys} | {"failure": "diverged"} if dead else row)
    found = {line.unit.name: line for line in lines(planned, some)}
    text = markdown(planned, some)
    if count == 10:
        assert set(found) == (set() if method == REFERENCE else {REFERENCE, LONG})
        assert f"{method}: 10" not in text
        assert f"Diverged at all seeds, and in no table: A1 Adam 1000 20%, {method}." in text
        return
    assert {name: line.diverged for name, line in found.items()} == {
        name: count * (name == method) for name in (REFERENCE, LONG, "ensemble")
    }
    assert found["ensemble"].to_plain.pairs == 10 - count
    assert f"{found[method].error:.2f}† |" in text
    assert "† Of 10 seeds these many diverged" in text
    assert f"A1 Adam 1000 20%, {method}: {count}." in text
    assert ("| ensemble | 1† |" in text) == (method == "ensemble")


@pytest.mark.parametrize(("count", "more"), [(1, ""), (10, ""), (12, "; and 2 more")])
def test_trainings_with_two_results_are_named(complete, tmp_path, count, more):
    planned = units(["A1", "Adam", "1000", "20%", REFERENCE])
    rows = list(complete(planned, tmp_path))
    again = [row | {"seconds": 9.0} for row in rows] + [row | {"failure": "diverged"} for row in rows[:count]]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in again))
    note = markdown(planned, Records(tmp_path)).splitlines()[-1]
    assert note.startswith("Recorded again with another result")
    assert note.count(" | ") == 4 * min(count, 10)
    assert note.endswith(f"{more}.")
    assert ("more" in note) == bool(more)


@pytest.mark.slow
def test_the_documentation_has_the_tables_of_the_records():
    found = markdown(units(), Records(ROOT / "benchmarks" / "records" / "majority"))
    assert found in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def test_a_method_that_diverged_at_every_rate_is_named(complete, result, tmp_path):
    planned = units(WORDS)
    records = complete(planned[:2], tmp_path, gain=gain)
    dead = next(unit for unit in planned if unit.name == "ensemble")
    while not dead.failed(records):
        for training in dead.wanted(records):
            records.append(training.row() | {"failure": "diverged"})
    text = markdown(planned, records)
    assert "Diverged at every rate, and in no table: A1 Adam 1000 20%, ensemble." in text
    assert "3 of 3 methods" in text


def test_curves_of_sharpness_are_drawn_where_they_were_recorded(complete, tmp_path):
    planned = units(["A1", "Adam", "1000", "20%", "majority, independent"])
    found = lines(planned, complete(planned, tmp_path, gain=gain))
    for line in found:
        for row in line.rows.values():
            row["curve"] = [[epoch, 1.0, 0.5, 1.0, 0.5] for epoch in (1, 2)]
    assert len(curves_figure(found).axes) == 2
    copies = next(line for line in found if line.unit.name == "majority, independent")
    for seed, row in copies.rows.items():
        row["curve"] = [[*point, 0.01 * point[0] * (1 + seed)] for point in row["curve"]]
    panel = curves_figure(found).axes[2]
    drawn = [curve.get_ydata() for curve in panel.get_lines() if len(curve.get_ydata())]
    np.testing.assert_allclose(drawn, [[0.055, 0.11]])
