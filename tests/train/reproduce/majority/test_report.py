"""Tables say what was found, how far the study is, and where a choice lies at a bound."""

import random

import numpy as np
import pytest
from scipy.stats import t, ttest_rel

from collegium.train.reproduce.majority.entrants import LONG, REFERENCE
from collegium.train.reproduce.majority.lines import lines
from collegium.train.reproduce.majority.plan import units
from collegium.train.reproduce.majority.plots import curves_figure
from collegium.train.reproduce.majority.records import Records
from collegium.train.reproduce.majority.report import markdown, write_report

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
