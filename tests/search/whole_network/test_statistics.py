"""Relative variances and their errors: unbiased, and with the coverage that is claimed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from collegium.search.whole_network.statistics import (
    FEWEST_DRAWS,
    WORST_CONDITION,
    ratio,
    relative_variance,
    summarize_grams,
)


def dependent_entries(generator, draws, outputs=3, inputs=2, shape=8.0):
    """Gamma entries: a part that one draw shares, of relative variance 1/shape, and a part of its own."""
    shared = generator.gamma(shape, size=(draws, 1, 1))
    own = generator.gamma(shape, size=(draws, outputs, inputs))
    return shared * own * np.array([1.0, 5.0])[:inputs]


TRUE = (1 + 1 / 8) ** 2 - 1


def test_the_variance_is_unbiased_and_its_error_has_the_right_size_though_entries_are_dependent():
    generator = np.random.default_rng(0)
    found = [relative_variance(dependent_entries(generator, 200)) for _ in range(400)]
    values, errors = np.array([f.value for f in found]), np.array([f.standard_error for f in found])
    assert values.mean() == pytest.approx(TRUE, abs=4 * values.std() / 20)
    assert errors.mean() == pytest.approx(values.std(), rel=0.15)
    assert np.mean(np.abs(values - TRUE) < 2 * errors) > 0.9


def test_few_draws_give_an_unbiased_mean_square():
    generator = np.random.default_rng(1)
    values = [relative_variance(dependent_entries(generator, 8)).value for _ in range(4000)]
    assert np.mean(values) == pytest.approx(TRUE, abs=0.03)


def test_within_is_what_logits_do_not_share():
    entries = dependent_entries(np.random.default_rng(2), 20_000)
    found = relative_variance(entries)
    assert found.within == pytest.approx((1 + 1 / 8) * (1 / 8), rel=0.05)
    assert math.isnan(relative_variance(entries[:, :1]).within)


def test_scales_of_inputs_do_not_matter():
    entries = dependent_entries(np.random.default_rng(3), 500)
    scaled = relative_variance(entries * np.array([1e-6, 1e6]))
    assert scaled.value == pytest.approx(relative_variance(entries).value, rel=1e-9)


def test_a_ratio_has_the_error_of_both():
    generator = np.random.default_rng(4)
    found = [
        ratio(
            relative_variance(dependent_entries(generator, 300, shape=16.0)),
            relative_variance(dependent_entries(generator, 300)),
        )
        for _ in range(300)
    ]
    values, errors = np.array(found).T
    assert values.mean() == pytest.approx(((1 + 1 / 16) ** 2 - 1) / TRUE, rel=0.03)
    assert errors.mean() == pytest.approx(values.std(), rel=0.2)


def test_a_ratio_of_dependent_draws_has_the_error_of_their_difference():
    generator = np.random.default_rng(9)
    values, errors, apart = [], [], []
    for _ in range(300):
        shared = generator.gamma(8.0, size=(400, 1, 1))
        own, others = generator.gamma(30.0, size=(400, 1, 2)), generator.gamma(30.0, size=(300, 1, 2))
        one, other = relative_variance(shared * own), relative_variance(shared[50:350] * others, np.arange(50, 350))
        value, error = ratio(other, one) or (0, 0)
        values.append(value)
        errors.append(error)
        apart.append(math.hypot(one.relative_error, other.relative_error))
    assert np.mean(values) == pytest.approx(1, abs=0.02)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)
    assert np.mean(errors) < 0.8 * np.mean(apart)


def test_the_same_draws_have_a_ratio_without_much_error():
    found = relative_variance(dependent_entries(np.random.default_rng(10), 200))
    value, error = ratio(found, found) or (0, 0)
    assert value == 1
    assert error < 0.4 * found.relative_error


def test_a_constant_kernel_has_no_variance_and_nothing_is_compared_with_it():
    constant = relative_variance(np.full((FEWEST_DRAWS, 1, 2), 3.0))
    assert constant.value == pytest.approx(0, abs=1e-12)
    assert constant.relative_error == 0
    other = relative_variance(dependent_entries(np.random.default_rng(5), 100))
    assert ratio(other, relative_variance(np.ones((100, 1, 1)))) is None


@pytest.mark.parametrize("draws", [1, 2, FEWEST_DRAWS - 1])
def test_too_few_draws_are_never_certain(draws):
    assert relative_variance(dependent_entries(np.random.default_rng(6), draws)).relative_error == math.inf


@pytest.mark.parametrize("draws", [2, 3, 5, 12])
def test_the_error_of_a_few_draws_is_not_understated(draws):
    generator = np.random.default_rng(8)
    found = [relative_variance(dependent_entries(generator, draws, outputs=1, inputs=1)) for _ in range(500)]
    assert all(each.standard_error >= each.value * math.sqrt(2 / (draws - 1)) for each in found)


def test_grams_are_summarised_over_initializations():
    rotation, _ = np.linalg.qr(np.random.default_rng(7).standard_normal((3, 3)))
    gram = rotation @ np.diag([1.0, 2.0, 4.0]) @ rotation.T
    scales = np.linspace(1, 3, 101)[:, None, None, None]
    found = summarize_grams(scales * gram)
    assert found.inputs == 3
    assert found.trace.mean == pytest.approx(14)
    assert found.trace.quantiles == pytest.approx([7 * s for s in (1.1, 1.5, 2, 2.5, 2.9)])
    assert found.largest_eigenvalue.mean == pytest.approx(8)
    assert found.condition_number.mean == pytest.approx(4)
    assert found.condition_number.standard_deviation == pytest.approx(0, abs=1e-9)


def test_a_singular_gram_has_the_worst_condition_that_can_be_seen():
    assert summarize_grams(np.ones((4, 1, 2, 2))).condition_number.mean == pytest.approx(WORST_CONDITION)
    assert summarize_grams(np.zeros((4, 1, 2, 2))).condition_number.mean == pytest.approx(WORST_CONDITION)
