"""Paired intervals agree with scipy's paired t-test, and cover as often as they claim."""

import math

import numpy as np
import pytest
from scipy.stats import ttest_rel

from collegium.train.reproduce.majority.intervals import mean_difference
from collegium.train.reproduce.majority.lines import paired


def rows(accuracies):
    return {seed: {"accuracy": [1.0, 0.9, value]} for seed, value in enumerate(accuracies)}


@pytest.mark.parametrize("count", [2, 5, 10])
def test_paired_differences_are_those_of_the_t_test(count):
    rng = np.random.default_rng(count)
    common = rng.normal(0.8, 0.05, count)
    ours, others = common + rng.normal(0.01, 0.01, count), common + rng.normal(0, 0.01, count)
    found, theirs = paired(rows(ours), rows(others)), ttest_rel(ours, others)
    low, high = theirs.confidence_interval(0.95)
    assert found.mean - found.half == pytest.approx(100 * low, abs=1e-9)
    assert found.mean + found.half == pytest.approx(100 * high, abs=1e-9)
    assert (found.sign != 0) == (theirs.pvalue < 0.05)


def test_only_seeds_that_both_have_are_compared():
    ours, others = rows([0.5, 0.6, 0.7]), rows([0.4, 0.5, 0.6])
    del others[1]
    found = paired(ours, others)
    assert found.pairs == 2
    assert found.mean == pytest.approx(10)


def test_one_pair_has_no_interval():
    found = mean_difference([0.3])
    assert math.isnan(found.half)
    assert (found.sign, str(found)) == (0, "–")


def test_intervals_cover_at_their_level():
    rng = np.random.default_rng(0)
    covered = sum(
        abs((found := mean_difference(list(sample))).mean) <= found.half for sample in rng.normal(size=(4000, 5))
    )
    assert covered / 4000 == pytest.approx(0.95, abs=4 * math.sqrt(0.95 * 0.05 / 4000))
