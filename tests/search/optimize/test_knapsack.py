"""The integer program over stages, beside every combination of candidates."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from collegium.search.optimize.knapsack import GAP, Bound, StageSum, choose, undominated


def combinations(sizes):
    return itertools.product(*(range(size) for size in sizes))


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    objectives=st.integers(1, 3),
    bounds=st.integers(0, 3),
    spread=st.sampled_from([1.0, 6.0, 20.0]),
    room=st.floats(0.0, 0.8),
)
def test_no_combination_is_better(seed, sizes, objectives, bounds, spread, room):
    generator = np.random.default_rng(seed)

    def drawn() -> StageSum:
        return StageSum(tuple(np.exp(generator.uniform(0, spread, size)) for size in sizes), float(generator.random()))

    objective = [drawn() for _ in range(objectives)]
    limited = []
    for _ in range(bounds):
        one = drawn()
        limited.append(Bound(one, float(np.quantile([one.at(chosen) for chosen in combinations(sizes)], room))))
    feasible = [chosen for chosen in combinations(sizes) if all(bound.holds(chosen) for bound in limited)]
    found = choose(objective, limited)
    if found is None:
        assert not feasible
        return
    best = min(max(one.at(chosen) for one in objective) for chosen in feasible)
    assert found.chosen in feasible
    assert found.value == max(one.at(found.chosen) for one in objective)
    assert found.value == pytest.approx(best, rel=1e-5)
    assert found.bound <= best * (1 + 2 * GAP)  # the solver counts to that share
    assert found.gap <= 1e-5


def test_a_bound_that_a_choice_meets_exactly_is_met():
    costs = StageSum((np.array([1 / 3, 2 / 3]), np.array([1 / 7, 5 / 7])))
    noise = StageSum((np.array([2.0, 1.0]), np.array([3.0, 1.0])))
    exact = costs.at((1, 0))
    assert choose([noise], [Bound(costs, exact)]).chosen == (1, 0)
    assert choose([noise], [Bound(costs, exact * (1 - 1e-9))]).chosen != (1, 0)
    assert choose([noise], [Bound(costs, 0.4)]) is None


def test_noisy_candidates_do_not_spoil_the_gap():
    noise = np.r_[np.linspace(1.0, 1.01, 50), 1e8]
    stage = StageSum((noise, np.zeros(51))), StageSum((np.zeros(51), noise))
    cost = StageSum((1 / noise, 1 / noise))
    found = choose(stage, [Bound(cost, 2 / 1.005)])
    best = min(max(noise[a], noise[b]) for a, b in combinations((51, 51)) if 1 / noise[a] + 1 / noise[b] <= 2 / 1.005)
    assert found.value == pytest.approx(best, rel=1e-6)


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 4))
def test_what_is_left_out_is_dominated_and_nothing_else(seed, candidates, values):
    table = np.random.default_rng(seed).integers(0, 6, (values, candidates)).astype(float)
    kept = undominated(list(table)).tolist()
    for at in range(candidates):
        better = [one for one in kept if one != at and (table[:, one] <= table[:, at]).all()]
        assert bool(better) == (at not in kept)
