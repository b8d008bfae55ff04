"""The search ends at a point whose neighbours are worse, or says at which bound."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.train.reproduce.majority.grid import ERROR, Bounds, best_point, reached, untried

BOUNDS = Bounds((-7, 7), (0, 9))


def search(score, bounds, start, *, diagonal):
    """Points and scores of a whole search."""
    scores = {start: score(start)}
    while points := untried(scores, bounds, diagonal=diagonal):
        scores.update({point: score(point) for point in points})
    return scores


@given(
    rate=st.floats(-12, 12), length=st.floats(-4, 14), tilt=st.floats(-0.9, 0.9), start=st.integers(-1, 1),
    diagonal=st.booleans(),
)  # fmt: skip
def test_the_best_of_a_smooth_surface_is_no_end_of_what_was_tried(rate, length, tilt, start, diagonal):
    def score(point):
        x, y = point[0] - rate, point[1] - length
        return -(x * x + 2 * tilt * x * y + y * y)

    scores = search(score, BOUNDS, (start, 5), diagonal=diagonal)
    best = best_point(scores, tolerance=ERROR)
    around = [(best[0] + 1, best[1]), (best[0] - 1, best[1]), (best[0], best[1] + 1), (best[0], best[1] - 1)]
    inside = [point for point in around if point in BOUNDS]
    assert all(point in scores and scores[point] <= scores[best] + ERROR for point in inside)
    assert (len(inside) < 4) == bool(reached(best, BOUNDS))
    if diagonal and abs(tilt) < 0.5:
        everywhere = [(i, j) for i in range(-7, 8) for j in range(10)]
        assert scores[best] == pytest.approx(max(map(score, everywhere)), abs=2 * ERROR)


def test_a_rising_score_extends_the_search_by_one_step_at_a_time_up_to_the_bound():
    scores = search(lambda point: point[0], Bounds((-7, 7), (0, 0)), (0, 0), diagonal=False)
    assert sorted(scores) == [(i, 0) for i in range(-1, 8)]
    assert reached(best_point(scores), Bounds((-7, 7), (0, 0))) == ("highest rate",)


def test_where_all_rates_diverge_lower_ones_are_tried():
    scores = search(
        lambda point: -math.inf if point[0] > -3 else -point[0], Bounds((-7, 7), (2, 2)), (1, 2), diagonal=True
    )
    assert best_point(scores) == (-7, 2)
    hopeless = search(lambda point: -math.inf, Bounds((-7, 7), (2, 2)), (1, 2), diagonal=True)
    assert best_point(hopeless) is None
    assert min(hopeless) == (-7, 2)


def test_a_flat_end_of_a_curve_is_not_followed_and_a_rising_one_is():
    flat = search(lambda point: 0.8 + 0.0005 * point[1] - 0.01 * abs(point[0]), BOUNDS, (0, 3), diagonal=True)
    assert max(j for _, j in flat) <= 5
    rising = search(lambda point: 0.8 + 0.004 * point[1] - 0.01 * abs(point[0]), BOUNDS, (0, 3), diagonal=True)
    assert reached(best_point(rising), BOUNDS) == ("most epochs",)


def test_of_equal_scores_the_shorter_training_is_chosen():
    assert best_point({(0, 4): 0.9, (-1, 3): 0.9, (1, 3): 0.9, (2, 1): 0.8}) == (-1, 3)
